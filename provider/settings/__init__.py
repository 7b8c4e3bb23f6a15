"""Every option with its default, unit and meaning. The classes below are parser, documentation and test at once.

A setting is named by section and field (`cache.ttl_seconds`); its environment variable is `EMB_PROVIDER_` and both
names (`EMB_PROVIDER_CACHE_TTL_SECONDS`), unless the field has a shorter `env` of its own. A section may stand in
another (`cache.store`). `provider.configuration` fills these classes from files, environment and flags.
"""

from collections.abc import Iterator
from typing import Any, Literal

from attrs import Attribute, evolve, field, fields, frozen, has

from provider.settings.cache import CacheSettings, StoreSettings
from provider.settings.declaration import option
from provider.settings.model import DEFAULT_MODEL, ModelSettings

__all__ = [
    "DEFAULT_MODEL",
    "ENV_PREFIX",
    "SECTIONS",
    "AuthSettings",
    "CacheSettings",
    "DialectSettings",
    "HubSettings",
    "JobSettings",
    "LimitSettings",
    "LogSettings",
    "MemorySettings",
    "MetricsSettings",
    "ModelSettings",
    "Protected",
    "QueueSettings",
    "ServerSettings",
    "Settings",
    "StoreSettings",
    "environment_variable",
    "options_of",
]

Protected = Literal["docs", "metrics", "models"]
"""What can be closed to callers without a key, beside the API."""

ENV_PREFIX = "EMB_PROVIDER_"


@frozen
class ServerSettings:
    """Where to listen and how to stop."""

    host: str = option("localhost", "address to listen on; 0.0.0.0 for every interface, :: for IPv6 too", env="HOST")
    port: int = option(9000, "port to listen on; 0 picks a free one", env="PORT", least=0, most=65535)
    max_body_bytes: int = option(16 * 1024 * 1024, "largest request body, in bytes", least=1024)
    body_seconds: int = option(60, "seconds that a request's body gets to arrive", least=1)
    head_seconds: int = option(10, "seconds that the head of a request gets to arrive", least=1)
    write_seconds: int = option(
        30, "seconds that a client gets to read an answer, and one more for each 128 KiB of it", least=1
    )
    max_connections: int = option(4096, "most connections of one process; further ones get 503", least=1)
    shutdown_seconds: int = option(30, "seconds that accepted requests get to finish after SIGTERM", least=0)
    workers: int = option(1, "processes that share the port, each with its part of the cores", least=1)
    heartbeat_seconds: int = option(5, "seconds without an answer after which a worker is killed and replaced", least=1)
    default_model: Literal["none", "only"] = option(
        "none", "model of requests that name none: none (an error), or only (the only one with the task)"
    )
    allowed_hosts: list[str] = option(
        [],
        'names that requests may come to, such as api.example.org or *.example.org, or ["*"]; none: all, but without '
        "keys on a loopback address only names that no site on the internet can have",
    )
    uds: str | None = option(None, "Unix socket to listen on instead of host and port", path=True)
    admin_host: str = option("localhost", "address of admin_port")
    admin_port: int | None = option(
        None, "second port, for health and metrics alone; metrics are not at the first one then", least=1, most=65535
    )
    tls_certificate_file: str | None = option(
        None, "PEM file with the certificate and its chain: HTTPS; read again when it changes", path=True
    )
    tls_key_file: str | None = option(None, "PEM file with its key; none: in the same file", path=True)
    tls_key_password: str | None = option(None, "password of the key", secret=True)
    tls_client_ca_file: str | None = option(
        None, "PEM file with the authorities of clients' certificates, which are required then", path=True
    )
    cors_origins: list[str] = option([], 'origins whose browser pages may call, or ["*"]; none: CORS is off')


@frozen
class LimitSettings:
    """What one request may ask for."""

    max_inputs: int = option(2048, "most inputs of one request", least=1)
    max_request_tokens: int = option(300_000, "most tokens of one request, all inputs together", least=1)


@frozen
class AuthSettings:
    """API keys. Without keys everyone who can reach the port may embed."""

    keys: list[str] | dict[str, str] = option(
        [],
        "accepted API keys, in clear or as sha256:<hex digest>, or a mapping of callers' names to keys; none: "
        "authentication is off",
        secret=True,
    )
    keys_file: str | None = option(
        None, "file with more keys, one a line, # for comments; read again when it changes", path=True
    )
    usage_file: str | None = option(
        None, "SQLite file on a local disk that counts usage by day, key and model; none: only metrics do", path=True
    )
    protect: list[Protected] = option(
        [],
        "what else needs a key: docs, metrics (an admin key), models (their names at / and in readiness)",
    )

    @property
    def needs_key(self) -> bool:
        """Whether callers need a key."""
        return bool(self.keys) or self.keys_file is not None


@frozen
class QueueSettings:
    """Requests that exceed these limits are rejected with 429 and the seconds after which to try again."""

    max_tokens: int = option(600_000, "most tokens that wait for one model", least=1)
    max_wait_seconds: float = option(
        10.0,
        "seconds from queue to answer, and seconds that a request may wait for its body to be read",
        least=0,
    )
    max_requests: int = option(1024, "most requests under way, being read, waiting, running or being written", least=1)
    max_request_bytes: int = option(
        256 * 1024 * 1024,
        "most bytes of bodies under way (but for the first 64 KiB of each) and of unread answers, all together",
        least=1024,
    )
    stall_seconds: int = option(
        120,
        "seconds after which a forward pass is taken for hung: its rows fail with 503, and the process ends with 70 "
        "when no other can run",
        least=1,
    )


@frozen
class MemorySettings:
    """Memory of all loaded models together. Lazy models that are idle are unloaded for others."""

    max_model_bytes: int | None = option(
        None,
        "most memory of loaded models, in bytes, as measured; none: 80 % of the container's limit, where it has one",
        least=1,
    )
    max_device_bytes: int | None = option(
        None,
        "the same in the memory of each accelerator, where the backend measures it (torch on CUDA); none: 80 % of it",
        least=1,
    )


@frozen
class HubSettings:
    """Where models come from. HF_ENDPOINT (a mirror), HF_TOKEN and HF_HOME are honoured too."""

    offline: bool = option(False, "never contact the hub; use what is in the cache")
    cache_folder: str | None = option(None, "folder for downloads; none: huggingface_hub's own", path=True)


@frozen
class LogSettings:
    """One line an event, on standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = option("INFO", "DEBUG, INFO, WARNING or ERROR")
    format: Literal["auto", "json", "console"] = option("auto", "json, console, or auto: console on a terminal")


@frozen
class MetricsSettings:
    """Prometheus metrics."""

    enabled: bool = option(True, "whether /metrics is served")


@frozen
class DialectSettings:
    """Which APIs are served beside OpenAI's."""

    azure: bool = option(True, "whether Azure OpenAI's API is served")
    cohere: bool = option(True, "whether Cohere's embed is served; its rerank is at OpenAI's paths")
    jina: bool = option(True, "whether Jina's multi-vector is served; its other routes are at OpenAI's paths")
    ollama: bool = option(True, "whether Ollama's API for embeddings is served")
    tei: bool = option(True, "whether the API of text-embeddings-inference is served")
    vllm: bool = option(True, "whether vLLM's pooling is served; its score and classify are at OpenAI's paths")
    weaviate: bool = option(True, "whether the API of Weaviate's modules for local models is served")


@frozen
class JobSettings:
    """Files and batches of OpenAI's API: requests that are answered in the background."""

    folder: str | None = option(
        None, "folder on a local disk for files and batches; workers share it; none: both are off", path=True
    )
    max_file_bytes: int = option(512 * 1024 * 1024, "largest file that is accepted, in bytes", least=1024)
    max_bytes: int = option(
        20 * 1024 * 1024 * 1024, "most bytes of all files; uploads are refused and batches wait beyond it", least=1024
    )
    max_requests: int = option(1_000_000, "most requests of one batch", least=1)
    max_open: int = option(100, "most batches of one key that have not ended", least=1)
    max_running: int = option(4, "batches that one worker runs at a time, without paused ones; others wait", least=1)
    keep_seconds: int = option(30 * 86_400, "seconds that files are kept, unless the request says how long", least=60)


@frozen
class UiSettings:
    """The page for people."""

    enabled: bool = option(True, "whether the page is served at /ui, where / sends browsers")


# Of tokens, inputs or seconds.
_NO_LIMIT = 2**40


@frozen
class Settings:
    """All settings. `model` is the default model, `models` holds further ones of the same shape."""

    server: ServerSettings = field(factory=ServerSettings)
    limits: LimitSettings = field(factory=LimitSettings)
    auth: AuthSettings = field(factory=AuthSettings)
    model: ModelSettings = field(factory=ModelSettings)
    models: list[ModelSettings] = option([], "further models, each with the keys of `model`")
    queue: QueueSettings = field(factory=QueueSettings)
    cache: CacheSettings = field(factory=CacheSettings)
    memory: MemorySettings = field(factory=MemorySettings)
    hub: HubSettings = field(factory=HubSettings)
    log: LogSettings = field(factory=LogSettings)
    metrics: MetricsSettings = field(factory=MetricsSettings)
    dialects: DialectSettings = field(factory=DialectSettings)
    jobs: JobSettings = field(factory=JobSettings)
    ui: UiSettings = field(factory=UiSettings)

    def all_models(self) -> list[ModelSettings]:
        """The default model, then the further ones."""
        return [self.model, *self.models]

    def for_one_caller(self, model: ModelSettings) -> "Settings":
        """The same with this model alone, and without limits on requests: for a program that embeds its own texts."""
        limits = LimitSettings(max_inputs=_NO_LIMIT, max_request_tokens=_NO_LIMIT)
        queue = evolve(self.queue, max_tokens=_NO_LIMIT, max_wait_seconds=float(_NO_LIMIT))
        return evolve(self, model=model, models=[], limits=limits, queue=queue)


def _sections(shape: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    for each in fields(shape):
        if isinstance(each.type, type) and has(each.type):
            yield prefix + each.name, each.type
            yield from _sections(each.type, f"{prefix}{each.name}.")


SECTIONS: dict[str, type] = dict(_sections(Settings))
"""Section name to the class of its fields; a section in another has both names (`cache.store`)."""


def options_of(section: str) -> "list[Attribute[Any]]":
    """The settings of a section, without the sections in it."""
    return [each for each in fields(SECTIONS[section]) if f"{section}.{each.name}" not in SECTIONS]


def environment_variable(section: str, setting: "Attribute[Any]") -> str:
    """The environment variable of a setting, prefix included."""
    return ENV_PREFIX + (setting.metadata["env"] or f"{section}_{setting.name}".replace(".", "_").upper())
