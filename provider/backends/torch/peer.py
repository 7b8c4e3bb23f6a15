"""sentence-transformers on a model's folder: not a backend, but the implementation that ours are to equal."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import tokenizers
import torch

from provider.domain import DENSE, MULTI_VECTOR, SPARSE, Ids, RowOutput, SparseVector, Truncation, Vectors
from provider.errors import BackendUnavailable

_BATCH_ROWS = 32
_Role = Literal["query", "document"]


class SentenceTransformersPeer:
    """A model as sentence-transformers runs it by itself: float32, on the CPU, on all cores given."""

    library_class: ClassVar[str] = "SentenceTransformer"
    output: ClassVar[str] = DENSE

    def __init__(self, model: Any, version: str, threads: int) -> None:  # noqa: ANN401 - of `library_class`
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
        model, version = _loaded(cls.library_class, folder)
        if cls.output == DENSE:
            # The comparison is of whole vectors, whatever the model wants them cut to.
            model.truncate_dim = None
        return cls(model, version, threads)

    def outputs(self, texts: Sequence[str], prompt: str, max_tokens: int, role: _Role | None) -> Sequence[RowOutput]:
        """What it answers for each text, not normalised beyond what the model's own pipeline does.

        Args:
            texts: the inputs.
            prompt: put before each; "" for none, the model's own default included.
            max_tokens: longer texts are cut at the end.
            role: what the texts are, for models that treat queries differently.

        Returns:
            By the output: (dimension,) float32, a `SparseVector`, or (tokens, dimension) float32.
        """
        return self._thread.submit(self._encode, list(texts), prompt, max_tokens, role).result()

    def ids(
        self, texts: Sequence[str], prompt: str, max_tokens: int, role: _Role | None, *, truncate: Truncation
    ) -> list[Ids]:
        """Token ids of each text as the model gets them, special tokens and a query's expansion included.

        Args:
            texts: the inputs.
            prompt: put before each; "" for none.
            max_tokens: longer texts are cut.
            role: what the texts are.
            truncate: which end is cut, "start" or "end".
        """
        self._cut(max_tokens, "left" if truncate == "start" else "right", role)
        return [_ids(self._model.preprocess([text], prompt=prompt, task=role)) for text in texts]

    def _encode(self, texts: list[str], prompt: str, max_tokens: int, role: _Role | None) -> Sequence[RowOutput]:
        self._cut(max_tokens, "right", role)
        options: dict[str, Any] = {"prompt": prompt, "batch_size": _BATCH_ROWS, "show_progress_bar": False}
        return self._converted(texts, {**options, "task": role})

    def _converted(self, texts: list[str], options: dict[str, Any]) -> Sequence[RowOutput]:
        return list(np.asarray(self._model.encode(texts, convert_to_numpy=True, **options), np.float32))

    def _cut(self, max_tokens: int, side: str, role: _Role | None) -> None:
        """Make texts longer than `max_tokens` be cut at their left or right end."""
        first = self._model[0]
        if hasattr(first, "sub_modules"):
            first = first.sub_modules[first._resolve_route(role, "text")][0]  # noqa: SLF001 - not public: the route of a role
        if isinstance(first.tokenizer, tokenizers.Tokenizer):
            first.tokenizer.enable_truncation(max_tokens, direction=side)
            return
        first.max_seq_length, first.tokenizer.truncation_side = max_tokens, side
        # Tables of sparse weights of queries look at this alone.
        first.tokenizer.model_max_length = max_tokens
        # A limit of documents' own; that of queries may not be less than their expansion.
        if getattr(first, "document_length", None) is not None:
            first.document_length = max_tokens


class SparseEncoderPeer(SentenceTransformersPeer):
    """The same, for sparse vectors."""

    library_class = "SparseEncoder"
    output = SPARSE

    def _converted(self, texts: list[str], options: dict[str, Any]) -> Sequence[RowOutput]:
        rows = self._model.encode(texts, **options).to_dense().float().numpy()
        ids = [np.flatnonzero(row).astype(np.int32) for row in rows]
        return [SparseVector(each, row[each]) for each, row in zip(ids, rows, strict=True)]


class MultiVectorEncoderPeer(SentenceTransformersPeer):
    """The same, for one vector a token."""

    library_class = "MultiVectorEncoder"
    output = MULTI_VECTOR

    def _converted(self, texts: list[str], options: dict[str, Any]) -> Sequence[RowOutput]:
        return [np.asarray(each, np.float32) for each in self._model.encode(texts, convert_to_numpy=True, **options)]


VECTOR_PEERS: dict[str, type[SentenceTransformersPeer]] = {
    kind.output: kind for kind in (SentenceTransformersPeer, SparseEncoderPeer, MultiVectorEncoderPeer)
}
"""By output, the class that gives it."""


class CrossEncoderPeer:
    """A cross-encoder as sentence-transformers runs it by itself: float32, on the CPU, on all cores given."""

    def __init__(self, model: Any, version: str, threads: int) -> None:  # noqa: ANN401 - a CrossEncoder
        """Use `load`."""
        self._model = model
        self.name = f"sentence-transformers {version}"
        self._thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))

    @classmethod
    def load(cls, folder: Path, *, threads: int) -> Self:
        """As `SentenceTransformersPeer.load`."""
        model, version = _loaded("CrossEncoder", folder)
        return cls(model, version, threads)

    def logits(self, pairs: Sequence[tuple[str, str]], prompt: str, max_tokens: int) -> Vectors:
        """(pairs, labels) float32, without activation.

        Args:
            pairs: a query and a text each.
            prompt: put before each query, or the instruction of a chat template; "" for none.
            max_tokens: longer pairs are cut at the end, the longest text first.
        """
        return self._thread.submit(self._predict, list(pairs), prompt, max_tokens).result()

    def ids(self, pairs: Sequence[tuple[str, str]], prompt: str, max_tokens: int) -> list[tuple[Ids, Ids | None]]:
        """Token ids of each pair as the model gets them, and which text each token belongs to, if it is told."""
        self._model.max_seq_length = max_tokens
        found = [self._model.preprocess([pair], prompt=prompt) for pair in pairs]
        return [(_ids(each), _ids(each, "token_type_ids") if "token_type_ids" in each else None) for each in found]

    def _predict(self, pairs: list[tuple[str, str]], prompt: str, max_tokens: int) -> Vectors:
        self._model.max_seq_length = max_tokens
        found = self._model.predict(
            pairs, prompt=prompt, batch_size=_BATCH_ROWS, show_progress_bar=False, activation_fn=torch.nn.Identity()
        )
        return np.asarray(found, np.float32).reshape(len(pairs), -1)


def _loaded(kind: str, folder: Path) -> tuple[Any, str]:
    """A model as sentence-transformers' class `kind` loads it, and the library's version."""
    try:
        # Seconds to import, and not everybody has it.
        import sentence_transformers  # noqa: PLC0415
        import transformers  # noqa: PLC0415
    except ImportError as exc:
        msg = "sentence-transformers is not installed (pip install sentence-transformers)"
        raise BackendUnavailable(msg) from exc
    transformers.utils.logging.disable_progress_bar()
    try:
        model = getattr(sentence_transformers, kind)(
            str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": "float32"}
        )
    except Exception as exc:
        msg = f"sentence-transformers cannot load this model: {' '.join(str(exc).split())[:200]}"
        raise BackendUnavailable(msg) from exc
    return model, sentence_transformers.__version__


def _ids(features: Any, name: str = "input_ids") -> Ids:  # noqa: ANN401 - as `preprocess` gives them
    """A value of each token of the only text in `features`."""
    values = features[name].numpy()
    return np.asarray(values[0] if values.ndim == 2 else values, np.int32)
