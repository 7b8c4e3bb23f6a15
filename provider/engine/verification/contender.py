"""One side of a comparison: a loaded backend on lanes of its own, with the batches that the service would make."""

import asyncio
from collections.abc import Sequence
from typing import Self

import numpy as np
from attrs import frozen

from provider.backends import Backend
from provider.domain import EmbedRequest, ModelSpec, Vectors
from provider.engine.batcher import Batcher, BatchLimits
from provider.engine.lanes import Lanes
from provider.engine.line import Line
from provider.engine.loading import ModelParts
from provider.engine.prompts import prompt_for
from provider.engine.rows import Row, Ticket
from provider.engine.tokenizer import Encoded, Tokenizer
from provider.errors import VerificationFailed
from provider.settings import ModelSettings


@frozen(eq=False)
class Contender:
    """A loaded model. It is run by the service's own batcher and lanes, on threads of their own.

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
    def of(cls, parts: ModelParts, settings: ModelSettings) -> Self:
        """A loaded model, batched as it is served; it stays the caller's to close."""
        return cls(settings.backend, parts.spec, parts.tokenizer, parts.backend, parts.plan.lanes, parts.limits)

    def encode(self, texts: Sequence[str], *, input_type: str | None = None) -> list[Encoded]:
        """Token ids as the service makes them, with the model's own prompt; what is too long is cut at the end.

        Raises:
            InvalidInput: a text has no tokens, or one without a row in the model's table.
        """
        prompt = prompt_for(EmbedRequest(self.spec.name, tuple(texts), input_type=input_type), self.spec)
        return self.tokenizer.encode(texts, prompt=prompt, truncate="end")

    def together(self, inputs: Sequence[Encoded]) -> Vectors:
        """Vectors (inputs, dimension) of one request with all inputs."""
        return self._embed(inputs, [range(len(inputs))])

    def apart(self, inputs: Sequence[Encoded], order: Sequence[int]) -> Vectors:
        """Vectors of requests with one input each that come at once in the `order` given; row i belongs to input i."""
        return self._embed(inputs, [[i] for i in order])

    def alone(self, inputs: Sequence[Encoded]) -> Vectors:
        """Vectors of requests with one input each, one after the other: each input is a batch of its own."""
        return self._embed(inputs, [[i] for i in range(len(inputs))], at_once=False)

    def _embed(self, inputs: Sequence[Encoded], requests: Sequence[Sequence[int]], *, at_once: bool = True) -> Vectors:
        rows = [Row(each.ids, each.skip) for each in inputs]
        try:
            asyncio.run(self._run([[rows[i] for i in request] for request in requests], at_once=at_once))
        except Exception as exc:
            cause: BaseException = exc
            while cause.__cause__ is not None:
                cause = cause.__cause__
            msg = f"backend {self.name!r} failed: {type(cause).__name__}: {cause}"
            raise VerificationFailed(msg) from exc
        return np.array([row.vector for row in rows], np.float32).reshape(len(rows), self.spec.dimension)

    async def _run(self, requests: Sequence[Sequence[Row]], *, at_once: bool) -> None:
        # Nothing waits for room here: the queue takes all of a comparison's texts.
        line = Line(Batcher(self.limits), max_queue_tokens=2**62, max_wait_seconds=0)
        lanes = Lanes(
            self.backend,
            line,
            dimension=self.spec.dimension,
            count=self.lanes,
            name=f"verify {self.name}",
            on_batch=lambda _: None,
        )
        lanes.start()
        try:
            tickets = []
            for rows in requests:
                tickets.append(Ticket(rows))
                lanes.submit(rows)
                if not at_once:
                    await tickets.pop().wait()
            for outcome in await asyncio.gather(*(ticket.wait() for ticket in tickets), return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome
        finally:
            await lanes.close()
