"""Responses to requests that came before with the same body, as long as the outputs in them are cached."""

import hashlib
from collections.abc import Mapping
from typing import Any

from attrs import evolve

from provider.domain import ANONYMOUS, Caller, Embedded, Timings
from provider.engine.cache import CachedResponse, OutputCache
from provider.engine.execution import Charge
from provider.engine.hooks import Hook, RequestAnswered
from provider.engine.runtime import ModelRuntime

# Longer bodies take longer to hash, and come again less often.
_MOST_BODY_BYTES = 10_000


class ResponseCache:
    """What was sent in response to bodies with one input. Used on the event loop's thread only.

    A request that is answered from here takes less than half the calls of one for which only its outputs are cached.

    Attributes:
        revision: changes whenever the same body may have another response from now on.
    """

    def __init__(
        self, cache: OutputCache, runtimes: Mapping[str, ModelRuntime], hooks: Hook, charge: Charge | None = None
    ) -> None:
        """Responses are kept in `cache`, beside the outputs and within their bound; `charge` as the engine has it."""
        self._cache, self._runtimes, self._hooks, self._charge = cache, runtimes, hooks, charge
        self.revision = 0

    def forget(self) -> None:
        """Drop all responses, and those under way: names, limits or settings of models have changed."""
        self.revision += 1
        self._cache.forget_responses()

    def get(self, body: bytes, *, caller: Caller = ANONYMOUS) -> Any | None:  # noqa: ANN401 - as `keep` was given
        """The response to a request with this body; None where it is not known, or `caller` may not use its model.

        It counts as any request that is answered from the cache: listeners are told, its outputs are in use.
        """
        if len(body) > _MOST_BODY_BYTES or (found := self._cache.response(_digest(body))) is None:
            return None
        event = found.event
        runtime = self._runtimes.get(event.model)
        # A model that was loaded again may have other weights.
        if runtime is None or runtime.loaded is None or runtime.loaded.fingerprint != found.key.fingerprint:
            return None
        if caller.models is not None and event.model not in caller.models:
            return None
        if self._charge is not None:
            self._charge(caller, event.usage.tokens)
        runtime.use.last = runtime.use.clock()
        self._hooks(event if event.caller is caller else evolve(event, caller=caller))
        return found.content

    def keep(self, body: bytes, response: object, embedded: Embedded, *, revision: int, size: int) -> None:
        """Keep a response if its outputs came from the cache: such a request may come a third time.

        Args:
            body: everything in the response follows from it.
            response: what `get` gives.
            embedded: what it was written from.
            revision: `revision` when the request came.
            size: bytes of the response.
        """
        if embedded.key is None or len(body) > _MOST_BODY_BYTES or revision != self.revision:
            return
        outputs = tuple(embedded.outputs)
        usage = embedded.usage._replace(store_hits=0) if embedded.usage.store_hits else embedded.usage
        event = RequestAnswered(embedded.model, usage, len(embedded.truncated), Timings(), outputs=outputs)
        self._cache.keep_response(_digest(body), CachedResponse(response, size, embedded.key, event))


def _digest(body: bytes) -> bytes:
    # Not the body itself: it holds a user's text.
    return hashlib.blake2b(body, digest_size=16).digest()
