"""The fake backend keeps the contract that real ones keep, for every output."""

from typing import Any

import pytest

from provider.backends import ModelSpec
from provider.testing import BackendContract, FakeBackend
from provider.testing.contract.comparison import row_by_row


class TestFakeBackend(BackendContract):
    backend_class = FakeBackend

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls, spec: ModelSpec) -> Any:
        fake = cls.load(spec)
        return lambda batch: row_by_row(fake.run, batch)
