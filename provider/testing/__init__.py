"""For tests, ours and plugin authors': fakes, a ticking clock, tiny models, contracts of backends and stores."""

from typing import TYPE_CHECKING, Any

from provider.testing.fake import FakeBackend, FakeOptions, TickingClock
from provider.testing.fake_store import FakeVectorStore
from provider.testing.tiny.shapes import packaged_minilm

if TYPE_CHECKING:
    from provider.testing.contract import BackendContract
    from provider.testing.store_contract import VectorStoreContract

__all__ = [
    "BackendContract",
    "FakeBackend",
    "FakeOptions",
    "FakeVectorStore",
    "TickingClock",
    "VectorStoreContract",
    "packaged_minilm",
]

_CONTRACTS = {
    "BackendContract": "provider.testing.contract",
    "VectorStoreContract": "provider.testing.store_contract",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - what the module holds
    # The contracts alone need pytest, which has to know of them before they are imported to show what asserts compared.
    if name not in _CONTRACTS:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module  # noqa: PLC0415

    import pytest  # noqa: PLC0415

    pytest.register_assert_rewrite(_CONTRACTS[name])
    return getattr(import_module(_CONTRACTS[name]), name)
