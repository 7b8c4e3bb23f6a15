"""A contender: sentence-transformers, bi-encoder or cross-encoder, at the batch size that it is fastest with."""

import itertools
import time
from importlib.util import find_spec
from typing import Any, Self

from provider.bench.messages import LibrarySetup, Outcome, Slice
from provider.bench.texts import TextPool
from provider.errors import ContenderFailed
from provider.models.resolve import resolve

_BATCH_SIZES = (8, 16, 32, 64, 128)
# `encode` sorts what it is given by length; this many texts a call leave little to gain.
_TEXTS_A_CALL = 512


class Library:
    """`SentenceTransformer.encode`, or `CrossEncoder.predict`, called again and again."""

    def __init__(self, setup: LibrarySetup, encoder: Any) -> None:  # noqa: ANN401 - imported inside `open`
        """Use `open`."""
        self._texts = TextPool.of(setup.texts)
        self._encoder = encoder
        self._best: dict[int | None, tuple[int, float]] = {}
        self._ranks = setup.texts.task == "rerank"
        self.facts: dict[str, Any] = {}

    @classmethod
    async def open(cls, setup: LibrarySetup) -> Self:
        """Load the model, which is found as this product finds it.

        Raises:
            ContenderFailed: sentence-transformers is not installed, or does not load the model.
            ProviderError: the model is not found.
        """
        try:
            import sentence_transformers  # noqa: PLC0415 - not a dependency
        except ImportError as exc:
            msg = "--against st needs sentence-transformers: pip install sentence-transformers"
            raise ContenderFailed(msg) from exc
        settings = setup.settings
        source = resolve(settings.model, settings.hub, progress=False)
        loading: dict[str, str] = {"dtype": setup.dtype}
        device = None if settings.model.device == "auto" else settings.model.device
        if setup.dtype != "float32" and device != "cpu" and find_spec("flash_attn") is not None:
            loading["attn_implementation"] = "flash_attention_2"
        try:
            kind = (
                sentence_transformers.CrossEncoder
                if setup.texts.task == "rerank"
                else sentence_transformers.SentenceTransformer
            )
            encoder: Any = kind(
                str(source.folder),
                device=device,
                model_kwargs=loading,
                local_files_only=True,
            )
        except Exception as exc:
            msg = f"sentence-transformers does not load {source.folder}: {' '.join(str(exc).split())}"
            raise ContenderFailed(msg) from exc
        library = cls(setup, encoder)
        version = sentence_transformers.__version__
        library.facts = {
            "model": settings.model.served_name,
            "backend": f"sentence-transformers {version}",
            "device": str(encoder.device),
            "dtype": setup.dtype,
        }
        if "attn_implementation" in loading:
            library.facts["attention"] = loading["attn_implementation"]
        return library

    async def count(self, texts: tuple[str, ...]) -> int:
        """Tokens of `texts`, or of their pairs, special tokens included."""
        texts_of_rows = ([self._texts.query(0)] * len(texts), list(texts)) if self._ranks else (list(texts),)
        return sum(len(ids) for ids in self._encoder.tokenizer(*texts_of_rows)["input_ids"])

    async def run(self, order: Slice) -> Outcome:
        """Bear one slice of load. Requests at a time and texts in each mean nothing to a library."""
        words = order.load.words
        texts, done = self._texts.draw(order.seed, order.salt, words), 0
        if words not in self._best:
            self._best[words] = self._best_batch_size(list(itertools.islice(texts, _TEXTS_A_CALL)), order.seconds)
        batch_size, rate = self._best[words]
        used = time.process_time()
        started = time.perf_counter()
        while (left := order.seconds - (time.perf_counter() - started)) > 0:
            # The last call shall not take the slice far beyond its end.
            count = max(batch_size, min(_TEXTS_A_CALL, round(rate * left)))
            self._seconds(list(itertools.islice(texts, count)), batch_size)
            done += count
        return Outcome(
            requests=0,
            texts=done,
            tokens=None,
            seconds=time.perf_counter() - started,
            latencies_us=[],
            errors={},
            messages={},
            cpu_seconds=time.process_time() - used,
            note=f"batches of {batch_size}",
        )

    async def close(self) -> None:
        """Nothing to do: the process ends."""

    def _best_batch_size(self, texts: list[str], seconds: float) -> tuple[int, float]:
        """The fastest on texts like these, and its texts a second; tried for about `seconds`, smaller ones first."""
        first, until = _BATCH_SIZES[0], time.perf_counter() + seconds
        self._seconds(texts[:first], first)
        rates = {first: first / self._seconds(texts[:first], first)}
        for size in _BATCH_SIZES[1:]:
            # Not so many that one trial takes all the time, nor so few that a batch is not full.
            count = max(size, min(len(texts), round(rates[first] * seconds / len(_BATCH_SIZES))))
            if time.perf_counter() > until:
                break
            rates[size] = count / self._seconds(texts[:count], size)
        best = max(rates, key=lambda size: rates[size])
        return best, rates[best]

    def _seconds(self, texts: list[str], batch_size: int) -> float:
        """How long encoding them takes."""
        started = time.perf_counter()
        if self._ranks:
            query = self._texts.query(0)
            self._encoder.predict([(query, text) for text in texts], batch_size=batch_size, show_progress_bar=False)
        else:
            self._encoder.encode(texts, batch_size=batch_size, show_progress_bar=False)
        return time.perf_counter() - started
