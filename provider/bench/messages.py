"""Messages between the benchmark and its child processes: one JSON document a line."""

from typing import Any, Literal

import msgspec

from provider.settings import Settings

Arrivals = Literal["poisson", "even"]


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of load.

    Attributes:
        batch: texts of one request.
        concurrency: requests under way at any time, the next one sent when one is answered (closed loop).
        rate: requests a second, sent whether or not the ones before are answered (open loop). One of the two is None.
        arrivals: when requests of an open loop come: evenly, or at random as from many independent callers.
        tokens: asked length of each text, special tokens included; None for texts as they are.
        words: words that make so many tokens.
    """

    batch: int
    concurrency: int | None = None
    rate: float | None = None
    arrivals: Arrivals = "poisson"
    tokens: int | None = None
    words: int | None = None

    @property
    def label(self) -> str:
        """As shown: `4 x 32` is 4 requests at a time of 32 texts each, `100/s x 1` are 100 requests a second."""
        return f"{self.concurrency if self.rate is None else f'{self.rate:g}/s'} x {self.batch}"


LoadTask = Literal["embed", "rerank"]


class Texts(msgspec.Struct, frozen=True):
    """What is sent.

    Attributes:
        sentences: what texts are made of; in `TextPool`'s words.
        repeat: the same texts again and again, so that caches answer.
        task: `embed` the texts of a request, or `rerank` them as documents of one short query; the lengths of a load
            are then those of pairs.
    """

    sentences: tuple[str, ...]
    repeat: bool = False
    task: LoadTask = "embed"


class ServerSetup(msgspec.Struct, frozen=True, tag="server"):
    """An OpenAI-compatible server.

    Attributes:
        url: its base URL.
        name: as shown; None for host and port.
        model: None for the first one that it lists.
    """

    url: str
    texts: Texts
    name: str | None = None
    model: str | None = None
    api_key: str | None = None
    encoding_format: str = "base64"
    truncate: str | None = None


class EngineSetup(msgspec.Struct, frozen=True, tag="engine"):
    """This product's engine without HTTP; `settings` hold one model."""

    texts: Texts
    settings: Settings
    truncate: str | None = None


LibraryDtype = Literal["float32", "bfloat16", "float16"]


class LibrarySetup(msgspec.Struct, frozen=True, tag="library"):
    """sentence-transformers in `dtype` with the model of `settings`, found as the engine finds it."""

    texts: Texts
    settings: Settings
    dtype: LibraryDtype = "float32"


Setup = ServerSetup | EngineSetup | LibrarySetup


class Count(msgspec.Struct, frozen=True, tag="count"):
    """How many tokens are these texts, special tokens included?"""

    texts: tuple[str, ...]


class Slice(msgspec.Struct, frozen=True, tag="slice"):
    """Bear this load for so long. Requests under way at the end are waited for, `timeout` seconds at most.

    Attributes:
        seed: of arrivals and texts; the same for all contenders in a round.
        salt: puts the words of the texts into an order of the contender's own; see `texts`.
    """

    load: Load
    seconds: float
    seed: int
    salt: int = 0
    timeout: float = 60.0


class Compute(msgspec.Struct, frozen=True, tag="compute"):
    """What are the dense vectors of these texts, or their scores as the documents of one query?"""

    texts: tuple[str, ...]


Order = Count | Slice | Compute


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The contender can be measured. `facts` are shown: model, backend, device and more."""

    facts: dict[str, Any]


class Counted(msgspec.Struct, frozen=True, tag="counted"):
    """The answer to `Count`, all texts together."""

    tokens: int


class Computed(msgspec.Struct, frozen=True, tag="computed"):
    """The answer to `Compute`: for each text its vector, or its scores."""

    rows: list[list[float]]


class Forward(msgspec.Struct, frozen=True):
    """What the forward passes of a slice came to; known in process only.

    Attributes:
        batches: forward passes.
        seconds: their time, added up over the lanes.
        lanes: how many ran at a time.
        flops: floating-point operations of the linear layers and of attention; see `flops`.
        matmul_flops_per_second: the matrix-multiply rate measured just before the slice, all lanes together.
        matmul_dtype: in which dtype.
    """

    batches: int
    seconds: float
    lanes: int
    flops: float
    matmul_flops_per_second: float
    matmul_dtype: str


class Outcome(msgspec.Struct, frozen=True, tag="outcome"):
    """What a slice came to.

    Attributes:
        requests: answered with vectors.
        texts: in those.
        tokens: in those, as the server's `usage` has it; None where that is not known.
        seconds: from the start to the last answer, and in an open loop at least as long as requests were sent.
        latencies_us: microseconds of each answered request, from when it was sent (closed loop) or from when it was to
            be sent (open loop). Empty for a library, which has no requests.
        errors: requests that failed, by HTTP status or kind of failure.
        messages: of the first failure of each kind.
        lateness_us: how much too late requests of an open loop were sent, the 99th percentile.
        cpu_seconds: processor time of the process; for a server that is the load generator's alone.
        note: what else should be known of it.
    """

    requests: int
    texts: int
    tokens: int | None
    seconds: float
    latencies_us: list[int]
    errors: dict[str, int]
    messages: dict[str, str]
    lateness_us: int = 0
    cpu_seconds: float = 0.0
    forward: Forward | None = None
    note: str = ""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The process gives up, for this reason."""

    message: str


Reply = Ready | Counted | Computed | Outcome | Failed
