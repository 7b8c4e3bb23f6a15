"""One side of a comparison: a loaded backend that embeds texts in batches of our choosing."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

import numpy as np
from attrs import frozen

from provider.backends import Backend, TokenBatch
from provider.domain import EmbedRequest, ModelSpec, Vectors
from provider.engine.batcher import BatchLimits
from provider.engine.loading import ModelParts
from provider.engine.prompts import prompt_for
from provider.engine.tokenizer import Encoded, Tokenizer
from provider.errors import VerificationFailed
from provider.settings import ModelSettings

T = TypeVar("T")


@frozen(eq=False)
class Contender:
    """A loaded model. Its batches run on as many threads at a time as the service would give it lanes.

    Attributes:
        name: the backend's, for messages.
        lanes: forward passes at a time; 1 unless the backend is `concurrent`.
        limits: what one batch may hold.
    """

    name: str
    spec: ModelSpec
    tokenizer: Tokenizer
    backend: Backend
    lanes: int
    limits: BatchLimits

    @classmethod
    def of(cls, parts: ModelParts, settings: ModelSettings, *, one_lane: bool = False) -> Self:
        """A loaded model, batched as its settings say.

        Args:
            parts: the model; it stays the caller's to close.
            settings: of the model.
            one_lane: one forward pass at a time, on the caller's thread.
        """
        lanes = 1 if one_lane else parts.plan.lanes
        return cls(settings.backend, parts.spec, parts.tokenizer, parts.backend, lanes, parts.limits)

    def encode(self, texts: Sequence[str], *, input_type: str | None = None) -> list[Encoded]:
        """Token ids as the service makes them, with the model's own prompt; what is too long is cut at the end."""
        prompt = prompt_for(EmbedRequest(self.spec.name, tuple(texts), input_type=input_type), self.spec)
        return self.tokenizer.encode(texts, prompt=prompt, truncate="end")

    def by_length(self, inputs: Sequence[Encoded]) -> Vectors:
        """Vectors (inputs, dimension) from full batches of inputs of like length: as the service does it under load."""
        order = sorted(range(len(inputs)), key=lambda i: len(inputs[i].ids))
        return self._embed(inputs, list(self._filled(inputs, order)))

    def in_order(self, inputs: Sequence[Encoded], order: Sequence[int]) -> Vectors:
        """Vectors from batches filled in the `order` given, short beside long; row i still belongs to input i."""
        return self._embed(inputs, list(self._filled(inputs, order)))

    def alone(self, inputs: Sequence[Encoded]) -> Vectors:
        """Vectors, each input in a batch of its own."""
        return self._embed(inputs, [[i] for i in range(len(inputs))])

    def _filled(self, inputs: Sequence[Encoded], order: Sequence[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        for i in order:
            longer = [*batch, i]
            lengths = [len(inputs[each].ids) for each in longer]
            tokens = sum(lengths) if self.limits.padding_is_free else max(lengths) * len(lengths)
            if batch and (len(longer) > self.limits.max_rows or tokens > self.limits.max_tokens):
                yield batch
                longer = [i]
            batch = longer
        if batch:
            yield batch

    def _embed(self, inputs: Sequence[Encoded], batches: Sequence[Sequence[int]]) -> Vectors:
        vectors = np.zeros((len(inputs), self.spec.dimension), np.float32)

        def keep(batch: Sequence[int]) -> None:
            vectors[list(batch)] = self._answer(inputs, batch)

        self._on_lanes(keep, batches)
        return vectors

    def _on_lanes(self, work: Callable[[T], object], batches: Sequence[T]) -> None:
        if self.lanes == 1:
            # On the caller's own thread: the process need not wait for it to end.
            for batch in batches:
                work(batch)
            return
        with ThreadPoolExecutor(self.lanes) as pool:
            for _ in pool.map(work, batches):
                pass

    def _answer(self, inputs: Sequence[Encoded], batch: Sequence[int]) -> Vectors:
        try:
            answer = self.backend.embed(_joined(inputs, batch))
        except Exception as exc:
            msg = f"backend {self.name!r} failed on a batch of {len(batch)} texts: {type(exc).__name__}: {exc}"
            raise VerificationFailed(msg) from exc
        expected = (len(batch), self.spec.dimension)
        if not isinstance(answer, np.ndarray) or answer.shape != expected or answer.dtype != np.float32:
            got = f"{answer.dtype} {answer.shape}" if isinstance(answer, np.ndarray) else type(answer).__name__
            msg = f"backend {self.name!r} answered {got}, expected float32 {expected}; its `embed` breaks the protocol"
            raise VerificationFailed(msg)
        return answer


def _joined(inputs: Sequence[Encoded], batch: Sequence[int]) -> TokenBatch:
    return TokenBatch.of_rows([inputs[i].ids for i in batch], [inputs[i].skip for i in batch])
