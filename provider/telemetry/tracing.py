"""Whether requests are traced. OpenTelemetry is an extra, and is imported only where its variables ask for it."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

import structlog

from provider.cores import ONLY_WORKER, Worker

if TYPE_CHECKING:
    from provider.telemetry.spans import Tracing

_log = structlog.get_logger("provider.tracing")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"


def open_tracing(environment: Mapping[str, str], worker: Worker = ONLY_WORKER) -> "Tracing | None":
    """Tracing to where OpenTelemetry's variables say, by OTLP over HTTP; None where they name no place.

    Variables that cannot be followed are told in the log, and the service starts without tracing: a platform may set
    them for everything that it runs.

    Args:
        environment: `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is where spans go;
            `OTEL_SDK_DISABLED=true` and `OTEL_TRACES_EXPORTER=none` turn tracing off. OpenTelemetry itself reads all
            others (sampler, headers, service name) from the environment of the process.
        worker: told with each span if it is not alone.
    """
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    is_disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    has_endpoint = any(environment.get(name) for name in _ENDPOINTS)
    if is_disabled or exporter == "none" or not has_endpoint:
        return None
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), _PROTOCOL)
    if exporter != "otlp":
        _refuse(f"OTEL_TRACES_EXPORTER is {exporter!r}, and only 'otlp' and 'none' are supported")
    elif protocol != _PROTOCOL:
        _refuse(f"the protocol is {protocol!r}; set OTEL_EXPORTER_OTLP_PROTOCOL={_PROTOCOL} and an endpoint for it")
    elif find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        _refuse("an OTLP endpoint is set, but OpenTelemetry is not installed; install emb-provider[tracing]")
    else:
        try:
            from provider.telemetry.spans import Tracing  # noqa: PLC0415 - an extra, which takes 0.2 s

            return Tracing.to_otlp(worker)
        except Exception as exc:  # noqa: BLE001 - OpenTelemetry reads its variables while imported; any error may come
            _refuse(f"OpenTelemetry cannot be set up as its variables say: {exc}")
    return None


def _refuse(reason: str) -> None:
    _log.warning("tracing_off", reason=reason)
