"""A loaded model, run as the service runs it: by the same batcher and lanes, in the same batches."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, Self

import numpy as np
from attrs import evolve, frozen

from provider.backends import Backend
from provider.domain import SCORES, EmbedRequest, ModelSpec, RowOutput
from provider.engine.lanes import Lanes
from provider.engine.limits import BatchLimits
from provider.engine.loading import ModelParts
from provider.engine.pairs import PairOptions, PairTokenizer
from provider.engine.prompts import prompt_for
from provider.engine.rows import Row, Ticket
from provider.engine.scheduler import Scheduler
from provider.engine.tokenizer import Tokenizer
from provider.engine.truncation import Encoded
from provider.errors import InvalidInput, VerificationFailed
from provider.settings import ModelSettings
from provider.tasks import all_outputs, check_outputs

Role = Literal["query", "document"]
RowOutputs = Mapping[str, RowOutput]
"""What the model gave for one input, by output."""


@frozen(eq=False)
class ModelRunner:
    """A loaded model on threads of its own.

    Attributes:
        name: the backend's, for messages.
        lanes: forward passes at a time; 1 unless the backend is `concurrent`.
        limits: what one batch may hold.
        pairs: joins the texts of pairs; None for models without scores.
    """

    name: str
    spec: ModelSpec
    tokenizer: Tokenizer
    backend: Backend
    lanes: int
    limits: BatchLimits
    pairs: PairTokenizer | None = None

    @classmethod
    def of(cls, parts: ModelParts, settings: ModelSettings) -> Self:
        """A loaded model, batched as it is served; it stays the caller's to close."""
        return cls(
            settings.backend, parts.spec, parts.tokenizer, parts.backend, parts.plan.lanes, parts.limits, parts.pairs
        )

    @property
    def usual_role(self) -> Role | None:
        """The role of texts that are no queries: `document` where queries go another way, else none."""
        differs = self.spec.queries is not None or self.spec.tokenizer.queries is not None
        return "document" if differs else None

    def prompt(self, role: Role | None) -> str:
        """What stands before texts of that role; "" for nothing."""
        return prompt_for(EmbedRequest(self.spec.name, ("",), input_type=role), self.spec)

    def tokenizer_of(self, role: Role | None) -> Tokenizer:
        """The tokenizer of texts of that role."""
        return self.tokenizer.queries if role == "query" else self.tokenizer

    def encode(self, texts: Sequence[str], role: Role | None = None) -> list[Encoded]:
        """Token ids as the service makes them, all outputs wanted; what is too long is cut at the end.

        Raises:
            InvalidInput: a text has no tokens, or one without a row in the model's table.
        """
        encoded = self.tokenizer_of(role).encode(texts, prompt=self.prompt(role), truncate="end")
        return [evolve(each, features=all_outputs(each.features, self.spec)) for each in encoded]

    def encode_accepted(self, text: str, role: Role | None = None) -> Encoded | None:
        """As `encode`, for one text; None where the service refuses it."""
        try:
            return self.encode([text], role)[0]
        except InvalidInput:
            return None

    def encode_pairs(self, queries: Sequence[str], texts: Sequence[str]) -> list[Encoded]:
        """Token ids of each pair as the service makes them; what is too long is cut at the end.

        Raises:
            InvalidInput: a text cannot be tokenised.
        """
        if self.pairs is None:
            msg = f"the model {self.spec.name!r} gives {', '.join(self.spec.outputs)}, not scores of pairs"
            raise VerificationFailed(msg)
        encoded = self.pairs.encode(queries, texts, PairOptions(self.spec.default_prompt, "end"))
        return [evolve(each, features=evolve(each.features, outputs=(SCORES,))) for each in encoded]

    def run(self, inputs: Sequence[Encoded]) -> list[RowOutputs]:
        """The outputs of one request with all inputs."""
        return self._outputs(inputs, [range(len(inputs))])

    def run_at_once(self, inputs: Sequence[Encoded], order: Sequence[int]) -> list[RowOutputs]:
        """The outputs of requests with one input each that come at once in the `order` given, in that of the inputs."""
        return self._outputs(inputs, [[i] for i in order])

    def run_alone(self, inputs: Sequence[Encoded]) -> list[RowOutputs]:
        """The outputs of requests with one input each, one after the other: each input is a batch of its own."""
        return self._outputs(inputs, [[i] for i in range(len(inputs))], at_once=False)

    def _outputs(
        self, inputs: Sequence[Encoded], requests: Sequence[Sequence[int]], *, at_once: bool = True
    ) -> list[RowOutputs]:
        rows = [Row(each.features) for each in inputs]
        try:
            asyncio.run(self._run([[rows[i] for i in request] for request in requests], at_once=at_once))
        except Exception as exc:
            cause: BaseException = exc
            while cause.__cause__ is not None:
                cause = cause.__cause__
            msg = f"backend {self.name!r} failed: {type(cause).__name__}: {cause}"
            raise VerificationFailed(msg) from exc
        return [row.outputs for row in rows if row.outputs is not None]

    async def _run(self, requests: Sequence[Sequence[Row]], *, at_once: bool) -> None:
        # Nothing is refused here: the queue takes all of a comparison's texts.
        lanes = Lanes(
            self.backend,
            Scheduler(self.limits, max_tokens=2**62, max_wait_seconds=math.inf, lanes=self.lanes),
            check=partial(check_outputs, self.spec.tasks),
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


@frozen(eq=False)
class Compositions:
    """The same inputs in batches of other compositions.

    Attributes:
        sample: which inputs.
        alone: the outputs of each by itself.
        beside: the outputs in one request, and of requests that come at once in two orders.
    """

    sample: Sequence[int]
    alone: Sequence[RowOutputs]
    beside: tuple[Sequence[RowOutputs], ...]

    @classmethod
    def run(cls, model: ModelRunner, inputs: Sequence[Encoded], most: int) -> Self:
        """Run at most `most` of the inputs, spread over all of them."""
        sample = np.unique(np.linspace(0, len(inputs) - 1, most).astype(int)).tolist()
        chosen = [inputs[i] for i in sample]
        order = np.random.default_rng(0).permutation(len(chosen)).tolist()
        beside = model.run(chosen), model.run_at_once(chosen, order), model.run_at_once(chosen, order[::-1])
        return cls(sample, model.run_alone(chosen), beside)
