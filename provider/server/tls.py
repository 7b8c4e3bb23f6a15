"""TLS: a certificate and its key, read again when their files change."""

import ssl
from pathlib import Path
from typing import Any, Self

import structlog

from provider.errors import SettingsError
from provider.settings import ServerSettings

_log = structlog.get_logger("provider.server")


class Certificate:
    """What the server shows to its clients.

    Attributes:
        context: for new connections.
    """

    def __init__(self, settings: ServerSettings, certificate: Path) -> None:
        """Read the files.

        Raises:
            SettingsError: they cannot be read, or do not belong together.
        """
        self._certificate, self._key = certificate, Path(settings.tls_key_file or certificate)
        self._password = settings.tls_key_password
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._seen, self._problem = self._look(), ""
        self._load()
        if settings.tls_client_ca_file is not None:
            try:
                self.context.load_verify_locations(settings.tls_client_ca_file)
            except OSError as exc:
                msg = f"server.tls_client_ca_file: {settings.tls_client_ca_file} cannot be read ({exc.strerror or exc})"
                raise SettingsError(msg) from exc
            self.context.verify_mode = ssl.CERT_REQUIRED

    @classmethod
    def of(cls, settings: ServerSettings) -> Self | None:
        """That of the settings; None: no TLS.

        Raises:
            SettingsError: see `__init__`; or there is no certificate, but what belongs to one.
        """
        if settings.tls_certificate_file is not None:
            return cls(settings, Path(settings.tls_certificate_file))
        others = ("tls_key_file", "tls_key_password", "tls_client_ca_file")
        if given := [f"server.{name}" for name in others if getattr(settings, name) is not None]:
            # Not passed over: the service would speak HTTP, and ask for no client's certificate.
            msg = f"{', '.join(given)}: without server.tls_certificate_file there is no TLS; set it, or leave these out"
            raise SettingsError(msg)
        return None

    def for_connections(self, seconds: float) -> dict[str, Any]:
        """What `asyncio` is told of a new connection, whose client gets so long to agree on TLS."""
        return {"ssl": self.context, "ssl_handshake_timeout": seconds}

    def reload(self) -> None:
        """Read the files again if they have changed. Where that fails, the old certificate stays."""
        seen = self._look()
        # After a problem too: files that could not be read have not changed when they can be.
        if seen == self._seen and not self._problem:
            return
        self._seen = seen
        try:
            self._load()
        except SettingsError as exc:
            if exc.message != self._problem:
                _log.error("certificate_not_reloaded", reason=exc.message)
            self._problem = exc.message
        else:
            self._problem = ""
            _log.info("certificate_reloaded")

    def _load(self) -> None:
        try:
            # Tried out first: a pair that fails half-way would leave the context without its key.
            for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.context):
                context.load_cert_chain(self._certificate, self._key, lambda: self._password or "")
        except (OSError, ValueError) as exc:  # a password that is too long
            reason = exc.strerror if isinstance(exc, OSError) else None
            msg = (
                f"server.tls_certificate_file: {self._certificate} with the key in {self._key} cannot be used "
                f"({reason or exc}); both are PEM files, the key is the certificate's, and server.tls_key_password "
                "the key's, if it has one"
            )
            raise SettingsError(msg) from exc

    def _look(self) -> list[tuple[int, int, int]]:
        """What tells these versions of the files from others."""
        found = []
        for path in (self._certificate, self._key):
            try:
                status = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return found
