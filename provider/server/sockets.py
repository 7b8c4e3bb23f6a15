"""The sockets that a service listens on, and their address in the log and on the terminal."""

import errno
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import structlog

from provider.errors import CannotListen
from provider.settings import ServerSettings

_BACKLOG = 2048

_log = structlog.get_logger("provider.server")


def listen(settings: ServerSettings) -> list[socket.socket]:
    """Open the listening sockets; those of `admin_port` come last.

    Raises:
        CannotListen: the port is taken, or the address is not one of this machine's.
    """
    sockets = [_listen_unix(settings.uds)] if settings.uds else _listen_tcp(settings.host, settings.port)
    if settings.admin_port is not None:
        try:
            sockets += _listen_tcp(settings.admin_host, settings.admin_port, prefix="admin_")
        except CannotListen:
            for each in sockets:
                each.close()
            raise
    return sockets


def _listen_unix(path: str) -> socket.socket:
    """A socket file, for whom the folder and the process's umask allow."""
    listening = socket.socket(socket.AF_UNIX)
    try:
        if Path(path).is_socket() and not _is_alive(path):
            Path(path).unlink()
        listening.bind(path)
        listening.listen(_BACKLOG)
    except OSError as exc:
        listening.close()
        hint = "set server.uds to a path in a folder of this user"
        if exc.errno == errno.EADDRINUSE:
            hint = "another process listens there, or the file is no socket; stop that one, or change server.uds"
        msg = f"cannot listen on {path}: {exc.strerror or exc}; {hint}"
        raise CannotListen(msg) from exc
    return listening


def _is_alive(path: str) -> bool:
    """Whether a process listens there; else it was left behind by one that was killed."""
    with socket.socket(socket.AF_UNIX) as client:
        # A process that hangs accepts nothing, and would keep this one waiting.
        client.settimeout(0)
        return client.connect_ex(path) != errno.ECONNREFUSED


def _listen_tcp(host: str, port: int, *, prefix: str = "") -> list[socket.socket]:
    """For `localhost` both 127.0.0.1 and ::1, where the machine has them; `::` is both too.

    The settings are `host` and `port` of the section `server`, with `prefix` before them.
    """
    host = host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as exc:
        msg = (
            f"cannot listen on {host!r}: the name does not resolve ({exc.strerror}); "
            f"set server.{prefix}host to localhost, 0.0.0.0, :: or an address of this machine"
        )
        raise CannotListen(msg) from exc
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    for family, _, _, _, address in sorted(found, key=lambda each: each[0]):
        try:
            # With port 0 the second family takes the port that the first one got.
            at = (address[0], port or (sockets[0].getsockname()[1] if sockets else 0), *address[2:])
            is_dual = family == socket.AF_INET6 and len(found) == 1 and socket.has_dualstack_ipv6()
            sockets.append(socket.create_server(at, family=family, backlog=_BACKLOG, dualstack_ipv6=is_dual))
        except OSError as exc:
            problem = exc
            # A machine without IPv6 still resolves ::1; any other problem counts.
            if exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break
    else:
        if sockets:
            return sockets
    for each in sockets:
        each.close()
    # Not `strerror`: Python appends the address there.
    reason = os.strerror(problem.errno) if problem is not None and problem.errno else "no address"
    where = f"server.{prefix}host and server.{prefix}port"
    hint = f"set {where} to an address of this machine and a port this user may open"
    if problem is not None and problem.errno == errno.EADDRINUSE:
        other = f"server.{prefix}port" if prefix else "--port or EMB_PROVIDER_PORT"
        hint = f"another process listens there; stop it or choose another port with {other}"
    msg = f"cannot listen on {_in_url(host)}:{port}: {reason}; {hint}"
    raise CannotListen(msg) from problem


def url_of(settings: ServerSettings, sockets: Sequence[socket.socket]) -> str:
    """Where the service listens, as a URL."""
    if settings.uds:
        return f"unix:{settings.uds}"
    scheme = "https" if settings.tls_certificate_file else "http"
    return f"{scheme}://{_in_url(settings.host)}:{sockets[0].getsockname()[1]}"


def _in_url(host: str) -> str:
    """RFC 3986 and 6874: IPv6 addresses stand in brackets, and the scope behind a `%25`."""
    return f"[{host.replace('%', '%25')}]" if ":" in host and not host.startswith("[") else host


def announce(models: Sequence[str], url: str) -> None:
    """End the start with a line for people, on a terminal: log lines are for machines.

    Args:
        models: names of those that are loaded or will be on first use.
        url: of the service.
    """
    if sys.stderr.isatty():
        reachable = url.replace("//0.0.0.0:", "//localhost:").replace("//[::]:", "//localhost:")
        click.echo(f"emb-provider serves {', '.join(models)} at {reachable}/v1 (try it: {reachable}/docs)", err=True)


def log_listening(settings: ServerSettings, sockets: Sequence[socket.socket]) -> None:
    """Say where, when requests are answered."""
    facts: dict[str, object] = {} if settings.uds else {"port": sockets[0].getsockname()[1]}
    if settings.admin_port is not None:
        facts["admin_port"] = settings.admin_port
    _log.info("listening", url=url_of(settings, sockets), **facts)
