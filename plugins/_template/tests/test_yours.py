"""The backend keeps the contract, on tiny models of every shape."""

from emb_provider_yours.backend import YoursBackend

from provider.testing import BackendContract


class TestYoursBackend(BackendContract):
    backend_class = YoursBackend
