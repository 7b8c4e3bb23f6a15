"""How many replicas a model has: by tokens, as requests differ by a factor of a thousand.

Ray's controller gets this module by value, so that it imports nothing.
"""

import math
from typing import Any

WAITING, RUNNING = "waiting_tokens", "running_tokens"
"""What replicas report: tokens that wait in the queues of all ingresses, and that run in this replica."""


class TokenPolicy:
    """As many replicas as keep the tokens that wait or run at `tokens_per_replica` for each."""

    def __init__(self, tokens_per_replica: int) -> None:
        """Take the setting."""
        self._tokens = tokens_per_replica

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:  # noqa: ANN401 - an AutoscalingContext
        """Called by Ray's controller; Ray applies bounds and delays."""
        reported = context.aggregated_metrics or {}
        waiting = max(reported.get(WAITING, {}).values(), default=0.0)
        running = sum(reported.get(RUNNING, {}).values())
        return math.ceil((waiting + running) / self._tokens), {}
