"""What the engine asks of a comparison of a loaded model with its reference; `provider.verification` makes them."""

from collections.abc import Callable
from typing import Any, Protocol

from provider.engine.loading import ModelParts
from provider.settings import ModelSettings


class Verdict(Protocol):
    """What came of comparing a model with its reference."""

    @property
    def passed(self) -> bool:
        """Whether it may be served."""
        ...

    @property
    def seconds(self) -> float:
        """What comparing took."""
        ...

    def summary(self) -> dict[str, Any]:
        """The figures in JSON values."""
        ...

    def check(self) -> None:
        """Refuse the model if it did not pass.

        Raises:
            VerificationFailed: naming the figure, what is allowed, and what to do.
        """
        ...


Verify = Callable[[ModelParts, ModelSettings], Verdict]
