"""sentence-transformers on a model's folder: not a backend, but the implementation that ours are to equal."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from provider.domain import Ids, Truncation, Vectors
from provider.errors import BackendUnavailable

_BATCH_ROWS = 32


class SentenceTransformersPeer:
    """A model as sentence-transformers runs it by itself: float32, on the CPU, on all cores given."""

    def __init__(self, model: Any, version: str, threads: int) -> None:  # noqa: ANN401 - a SentenceTransformer
        """Use `load`."""
        self._model = model
        self.name = f"sentence-transformers {version}"
        # torch keeps the number of threads by thread, and the backends beside this one set their own.
        self._thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))

    @classmethod
    def load(cls, folder: Path, *, threads: int) -> Self:
        """Load the model in `folder`; no code from it is run, and nothing is downloaded.

        Raises:
            BackendUnavailable: sentence-transformers is not installed, or cannot load this model.
        """
        try:
            # Seconds to import, and not everybody has it.
            import sentence_transformers  # noqa: PLC0415
            import transformers  # noqa: PLC0415
        except ImportError as exc:
            msg = "sentence-transformers is not installed (pip install sentence-transformers)"
            raise BackendUnavailable(msg) from exc
        transformers.utils.logging.disable_progress_bar()
        try:
            model = sentence_transformers.SentenceTransformer(
                str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": "float32"}
            )
        except Exception as exc:
            msg = f"sentence-transformers cannot load this model: {' '.join(str(exc).split())[:200]}"
            raise BackendUnavailable(msg) from exc
        # The comparison is of whole vectors, whatever the model wants them cut to.
        model.truncate_dim = None
        return cls(model, sentence_transformers.__version__, threads)

    def vectors(self, texts: Sequence[str], prompt: str, max_tokens: int) -> Vectors:
        """(texts, dimension) float32, not normalised beyond what the model's own pipeline does.

        Args:
            texts: the inputs.
            prompt: put before each; "" for none, the model's own default included.
            max_tokens: longer texts are cut at the end.
        """
        return self._thread.submit(self._encode, list(texts), prompt, max_tokens).result()

    def ids(self, texts: Sequence[str], prompt: str, max_tokens: int, *, truncate: Truncation) -> list[Ids]:
        """Token ids of each text as the model gets them, special tokens included.

        Args:
            texts: the inputs.
            prompt: put before each; "" for none.
            max_tokens: longer texts are cut.
            truncate: which end is cut, "start" or "end".
        """
        tokenizer = self._model.tokenizer
        usual, tokenizer.truncation_side = tokenizer.truncation_side, "left" if truncate == "start" else "right"
        self._model.max_seq_length = max_tokens
        try:
            found = [self._model.preprocess([text], prompt=prompt) for text in texts]
        finally:
            tokenizer.truncation_side = usual
        return [each["input_ids"][0][each["attention_mask"][0].bool()].numpy().astype(np.int32) for each in found]

    def _encode(self, texts: list[str], prompt: str, max_tokens: int) -> Vectors:
        self._model.max_seq_length = max_tokens
        encoded = self._model.encode(
            texts, prompt=prompt, batch_size=_BATCH_ROWS, show_progress_bar=False, convert_to_numpy=True
        )
        return np.asarray(encoded, np.float32)
