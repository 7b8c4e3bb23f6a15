"""Requests for embeddings merged into one call of the engine, and answered each as if it had come alone."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from attrs import evolve, field, frozen

from provider.dialects.openai import wire
from provider.domain import DENSE, Caller, Embedded
from provider.engine.engine import Engine
from provider.errors import RequestError
from provider.tasks.quantisation import CALIBRATED

# With more inputs a call takes hardly less for each; and a failed call is made again, request by request.
_MOST_INPUTS = 32
# Longer bodies are parsed in threads, and longer answers wait for room: alone.
_MOST_BYTES = 10_000


@frozen
class Merged:
    """Requests in their order, which ask for the same but for their inputs.

    Attributes:
        size: how many they are.
        calls: what they ask for; empty for one that is not to be merged.
    """

    size: int
    calls: Sequence[wire.Parsed] = field(factory=list)

    async def answers(self, engine: Engine, caller: Caller) -> list[tuple[bytes, Embedded]]:
        """The response body of each request, and what it was written from.

        Raises:
            ProviderError: as `Engine.embed`; which request is at fault is not said.
        """
        asked = self.calls[0].request
        inputs: Any = tuple(chain.from_iterable(call.request.inputs for call in self.calls))
        embedded = await engine.embed(evolve(asked, inputs=inputs), caller=caller)
        answers, start = [], 0
        for call in self.calls:
            stop = start + len(call.request.inputs)
            part = embedded.part(start, stop)
            answers.append((wire.write(part, call, model=asked.model), part))
            start = stop
        return answers


def merge(bodies: Sequence[bytes], max_inputs: int) -> Iterator[Merged]:
    """All of `bodies` in their order; those in a row that may be merged together, the others alone.

    Args:
        bodies: of requests to `/v1/embeddings`.
        max_inputs: most inputs of a request.
    """
    calls: list[wire.Parsed] = []
    asked: object = None
    inputs = 0
    for body in bodies:
        call = _parsed(body, max_inputs)
        also_asked = None if call is None else _without_inputs(call)
        size = 0 if call is None else len(call.request.inputs)
        if calls and (also_asked != asked or inputs + size > _MOST_INPUTS):
            yield Merged(len(calls), calls)
            calls, inputs = [], 0
        if call is None:
            yield Merged(1)
        else:
            calls.append(call)
            asked, inputs = also_asked, inputs + size
    if calls:
        yield Merged(len(calls), calls)


def _parsed(body: bytes, max_inputs: int) -> wire.Parsed | None:
    """None for a request whose answer depends on more than its body, is large, or is an error."""
    if len(body) > _MOST_BYTES:
        return None
    try:
        call = wire.parse(body, max_inputs=min(max_inputs, _MOST_INPUTS))
    except RequestError:
        return None
    return call if call.request.outputs == (DENSE,) and call.element_type not in CALIBRATED else None


def _without_inputs(call: wire.Parsed) -> object:
    # Texts and token ids are no inputs of one request.
    return isinstance(call.request.inputs[0], str), evolve(call.request, inputs=())
