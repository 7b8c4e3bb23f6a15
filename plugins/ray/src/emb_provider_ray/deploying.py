"""From one configuration to another without losing a request: new replicas first, then the switch, then the old end."""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import ray
import structlog
from attrs import evolve
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from emb_provider_ray.application import NAME, application
from emb_provider_ray.ingress import Progress
from emb_provider_ray.placement import place, with_options
from emb_provider_ray.room import Reservation, nodes, shortage
from provider.engine.hooks import ModelState
from provider.errors import ServerFailed, SettingsError
from provider.server.sockets import listen
from provider.settings import ModelSettings, ServerSettings, Settings

_log = structlog.get_logger("provider.ray")
_POLL_SECONDS = 0.25
_CONNECT_SECONDS = 5.0
_OBJECT_BYTES = 256 * 1024 * 1024
# Our log has a line for each request already, and batches need none.
_QUIET = {"enable_access_log": False}
_NOT_THERE = (RayError, RayServeException, KeyError)


def deploy(settings: Settings, *, ingress_cpus: float = 1.0, seconds: float = 900.0, may_grow: bool = True) -> None:
    """Serve `settings` on the cluster that this process is connected to, in place of what is served there.

    Replicas of models that stay as they are go on. Those of a model that changes are started beside the old ones; each
    ingress then answers by the new ones what comes from then on, and the old ones end when nothing needs them.

    Args:
        settings: what to serve.
        ingress_cpus: cores of each ingress.
        seconds: that it may take.
        may_grow: whether what no node can hold is waited for, with a warning.

    Raises:
        SettingsError: a setting is at fault.
        ServerFailed: no node can hold what is to run; or a new model could not be loaded in time, and the old ones
            serve on.
    """
    deadline = time.monotonic() + seconds
    _check_room(settings, ingress_cpus, may_grow=may_grow)
    before = _served()
    old, new = _deployments(before), _deployments(settings.all_models())
    leaving = old - new
    try:
        _run(settings, ingress_cpus, keep=before if leaving else ())
        _wait_for_switch(leaving, deadline)
    except ServerFailed:
        if before:
            _run(evolve(settings, model=before[0], models=before[1:]), ingress_cpus)
        raise
    if leaving:
        _run(settings, ingress_cpus)


def drain(seconds: float) -> None:
    """Refuse new requests, and wait for at most `seconds` until all that were accepted are answered."""
    with suppress(*_NOT_THERE, TimeoutError):
        serve.get_deployment_handle(NAME, NAME).broadcast("drain").results(timeout_s=seconds, return_exceptions=True)


@contextmanager
def connected(address: str | None, settings: ServerSettings) -> Iterator[None]:
    """A connection to a cluster with Ray Serve on it.

    Args:
        address: of the cluster; None for one of this machine alone, which is drained and ends with the block.
        settings: where it listens.

    Raises:
        SettingsError: the address is none.
        CannotListen: the port is taken on this machine, and the cluster would be one of this machine.
        ServerFailed: there is no cluster at the address, or Ray Serve cannot be started on it.
    """
    if address is None:
        for each in listen(settings):
            each.close()
        # Not one that RAY_ADDRESS names. Batches and outputs are small, and gone after a call.
        ray.init("local", include_dashboard=False, object_store_memory=_OBJECT_BYTES)
    else:
        _connect(address)
    try:
        _start(settings)
        yield
    finally:
        if address is None:
            drain(settings.shutdown_seconds)
            serve.shutdown()
        ray.shutdown()


def _connect(address: str) -> None:
    """Ray itself waits for 40 s where nothing listens, and prints what its C++ client thinks of that."""
    target = _target(address)
    try:
        if target is not None:
            host, _, port = target.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        ray.init(address, log_to_driver=False)
    except (OSError, ValueError, OverflowError) as exc:
        msg = f"no Ray cluster at {address!r} ({exc}): start one with `ray start --head`, or name another by --address"
        raise ServerFailed(msg) from exc


def _target(address: str) -> str | None:
    """HOST:PORT of an address; None where Ray looks for a cluster of this machine."""
    named = os.environ.get("RAY_ADDRESS") or "auto" if address == "auto" else address
    if named == "auto":
        return None
    target = named.removeprefix("ray://")
    host, _, port = target.rpartition(":")
    if host and "/" not in host and port.isdecimal():
        return target
    msg = f"--address: got {named!r}; give auto, HOST:PORT or ray://HOST:PORT, or none for a cluster of this machine"
    raise SettingsError(msg)


def _start(settings: ServerSettings) -> None:
    try:
        serve.start(proxy_location="EveryNode", http_options={"host": settings.host, "port": settings.port})
    except (RayError, RuntimeError, TimeoutError) as exc:
        reason = exc.cause if isinstance(exc, RayTaskError) and exc.cause is not None else exc
        msg = (
            f"Ray Serve cannot listen on {settings.host}:{settings.port} of every node: {reason} "
            "Free the port there, or change server.port"
        )
        raise ServerFailed(msg) from exc


def _check_room(settings: Settings, ingress_cpus: float, *, may_grow: bool) -> None:
    placements = place(with_options(settings).all_models())[1]
    wanted = [Reservation("ingresses", {"CPU": ingress_cpus}, settings.server.workers)]
    for each in placements:
        own = each.options
        what = f"replicas of {', '.join(each.models)}"
        wanted.append(Reservation.of(what, own.num_cpus, own.num_gpus, own.resources, count=own.replicas))
    if (problem := shortage(wanted, nodes())) is None:
        return
    if not may_grow:
        raise ServerFailed(problem)
    _log.warning("cluster_too_small", reason=problem)


def _served() -> list[ModelSettings]:
    """Models of the application as it is; none if there is none."""
    if NAME not in serve.status().applications:
        return []
    models: list[ModelSettings] = serve.get_deployment_handle(NAME, NAME).models.remote().result(timeout_s=60)
    return models


def _deployments(models: Sequence[ModelSettings]) -> set[str]:
    return {placement.name for placement in place(models)[1]}


def _run(settings: Settings, ingress_cpus: float, *, keep: Sequence[ModelSettings] = ()) -> None:
    try:
        serve.run(
            application(settings, ingress_cpus=ingress_cpus, keep=keep),
            name=NAME,
            route_prefix="/",
            logging_config=_QUIET,
        )
    except (RuntimeError, RayError) as exc:
        msg = f"the application could not be deployed: {_reasons() or exc}"
        raise ServerFailed(msg) from exc


def _reasons() -> str:
    """Why replicas did not start: the last line of what Ray has of each, where it has something."""
    found = []
    with suppress(*_NOT_THERE):
        for name, each in serve.status().applications[NAME].deployments.items():
            lines = each.message.strip().splitlines()
            if lines and each.status != "HEALTHY":
                found.append(f"{name}: {lines[-1].strip()}")
    return "; ".join(found)


def _wait_for_switch(leaving: set[str], deadline: float) -> None:
    """Until every ingress serves all eager models, and none uses the deployments that leave."""
    handle = serve.get_deployment_handle(NAME, NAME)
    problems = {"the ingress": "starting"}
    while time.monotonic() < deadline:
        with suppress(*_NOT_THERE, TimeoutError):
            states: list[Progress] = handle.broadcast("progress").results(timeout_s=10)
            problems = {name: text for state in states for name, text in state.problems.items()}
            failed = [name for name, text in problems.items() if text == str(ModelState.FAILED)]
            if not problems and any(state.named & leaving for state in states):
                failed.append("a model that was to be replaced")
            if failed:
                msg = f"could not be loaded: {', '.join(failed)}; the log of the ingress says why"
                raise ServerFailed(msg)
            if states and not problems and not any(state.used & leaving for state in states):
                return
        time.sleep(_POLL_SECONDS)
    msg = f"not all was ready in time: {'; '.join(f'{name}: {text}' for name, text in problems.items())}"
    raise ServerFailed(msg)
