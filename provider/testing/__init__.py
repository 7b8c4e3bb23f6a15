"""For tests, ours and plugin authors': a fake backend, a ticking clock, tiny models and the backend contract."""

from provider.testing.clock import TickingClock
from provider.testing.contract import BackendContract
from provider.testing.fake import FakeBackend, FakeOptions

__all__ = ["BackendContract", "FakeBackend", "FakeOptions", "TickingClock"]
