"""For tests, ours and plugin authors': a fake backend, a ticking clock, tiny models and the backend contract."""

from typing import TYPE_CHECKING, Any

from provider.testing.fake import FakeBackend, FakeOptions, TickingClock
from provider.testing.tiny.shapes import packaged_minilm

if TYPE_CHECKING:
    from provider.testing.contract import BackendContract

__all__ = ["BackendContract", "FakeBackend", "FakeOptions", "TickingClock", "packaged_minilm"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - what the module holds
    # The contract alone needs pytest, which has to know of it before it is imported to show what asserts compared.
    if name != "BackendContract":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    import pytest  # noqa: PLC0415

    pytest.register_assert_rewrite("provider.testing.contract")
    from provider.testing.contract import BackendContract  # noqa: PLC0415

    return BackendContract
