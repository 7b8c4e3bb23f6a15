"""The seam between the engine and whatever turns token ids into outputs: vectors, sparse vectors, scores."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from attrs import field, frozen

from provider.domain import ModelSpec, Outputs, TokenBatch


@frozen
class NoOptions:
    """For backends without options of their own: any option in the configuration is an error."""


@frozen
class BackendOptions:
    """What the configuration says about one model's backend.

    Attributes:
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `mps`, or the backend's own name.
        dtype: `auto`, `float32`, `bfloat16`, `float16`, or the backend's own name.
        threads: CPU threads of a forward pass, at least 1.
        worker: number of this process among the workers, from 0, to spread them over devices.
        cores: CPU cores of this process, for all passes under way, at least 1.
        own: an instance of the backend's `Options`, checked.
    """

    device: str = "auto"
    dtype: str = "auto"
    threads: int = 1
    worker: int = 0
    cores: int = 1
    own: Any = field(factory=NoOptions)


@frozen
class BackendTraits:
    """What a loaded backend says about itself.

    Attributes:
        device: where it runs (`cpu`, `cuda:0`, …), as shown to users.
        dtype: what it computes in, as shown to users.
        padding_is_free: whether cost follows tokens, not longest row x rows.
        batch_tokens: the fastest batch size, in tokens.
        weights_digest: digest of what else decides outputs, such as a converted file; part of the fingerprint.
        extra: JSON facts, shown as `details` in `/v1/models`.
        lanes: threads that keep the device busy; None: one a core on the CPU, one on an accelerator.
        fingerprint: that of the model in another process, where that one runs the passes; "" elsewhere.
    """

    device: str
    dtype: str
    padding_is_free: bool
    batch_tokens: int
    weights_digest: str = ""
    extra: Mapping[str, Any] = field(factory=dict)
    lanes: int | None = None
    fingerprint: str = ""


@runtime_checkable
class AdjustsThreads(Protocol):
    """Optional: the CPU threads of a pass can change, so that lanes and threads are measured, not only batch size."""

    def use_threads(self, threads: int) -> None:
        """Give forward passes `threads` CPU threads, at least 1. Never called during `run`."""
        ...


@runtime_checkable
class GetsFaster(Protocol):
    """Optional: slow work that makes passes faster, such as compiling, is done while the model serves."""

    def improvements(self) -> Iterator[Callable[[], None]]:
        """Steps that change the backend. They are taken once, on a thread of their own, while lanes call `run`.

        Each step is called between passes. Outputs may change by rounding, and of `traits` only `extra`.
        """
        ...


class RunsPasses(Protocol):
    """The lanes of a loaded backend, as `FollowsLanes` sees them. For any thread."""

    @property
    def waiting_tokens(self) -> int:
        """Tokens in the queue."""
        ...

    def change_count(self, count: int) -> None:
        """Have `count` lanes from now on, at least 1; passes under way go on."""
        ...


@runtime_checkable
class FollowsLanes(Protocol):
    """What a backend may have besides: passes that run in other processes, whose number changes while it serves."""

    def follow(self, lanes: RunsPasses) -> None:
        """Called once after loading, with the lanes that call `run`, which it may change until `close`."""
        ...


@runtime_checkable
class SelectsFiles(Protocol):
    """Optional, of the class: which files of other formats are downloaded from a repository, beside the safetensors."""

    @classmethod
    def select_files(cls, names: Sequence[str], options: BackendOptions) -> Iterable[str]:
        """Those of `names` that `load` will read, with their data files; of several variants only one.

        A function of its arguments and this machine's devices, called before downloads, any number of times.

        Args:
            names: of all files in the repository, sorted, such as `onnx/model.onnx`.
            options: as configured; `threads` and `worker` are not known yet.

        Returns:
            A subset of `names`; nothing where the repository lacks what the backend needs: `load` says what to do.

        Raises:
            BackendUnavailable: no file can meet the options.
        """
        ...


@runtime_checkable
class ChecksOptions(Protocol):
    """Optional, of the class: rejects a configured device, dtype or option before the port opens, without a model."""

    @classmethod
    def check_options(cls, options: BackendOptions) -> None:
        """Check quickly.

        Raises:
            BackendUnavailable: no model could be loaded with them.
        """
        ...


PROCESS = "process"
"""The place of memory that is no device's."""


@frozen
class Memory:
    """Memory that models share.

    Attributes:
        place: whose it is: a device as in `BackendTraits`, or `PROCESS`.
        held: what this process has of it, in bytes.
        limit: what there is of it, in bytes; None for no limit.
    """

    place: str
    held: int
    limit: int | None


@runtime_checkable
class HasDeviceMemory(Protocol):
    """Optional, of the class: its models share the memory of a device, bounded by `memory.max_device_bytes`."""

    @classmethod
    def device_memory(cls, options: BackendOptions) -> Memory | None:
        """The memory of models with these options, asked before and after loading; None: the process's.

        Raises:
            BackendUnavailable: the options cannot be met.
        """
        ...


@runtime_checkable
class Backend(Protocol):
    """Turns batches of token ids into outputs. Synchronous: no text, no HTTP, no locks.

    Registered as an entry point in the group `provider.backends`, checked by `provider.testing.BackendContract`.

    `run` is called from *lanes*, the engine's threads, one at a time unless `concurrent`. `load` and `close` are called
    once, by other threads, never during `run`. The first `run` is of a single token and alone.

    Attributes:
        Options: an attrs class with a default for each field: `options:` in the configuration.
        concurrent: whether threads may call `run` of one instance at the same time.
        outputs: of `dense`, `sparse`, `multi_vector`, `scores`, or a plugin's; other models are rejected.
        traits: facts of the loaded instance.
    """

    Options: ClassVar[type]
    concurrent: ClassVar[bool]
    outputs: ClassVar[frozenset[str]]
    traits: BackendTraits

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        """Load `spec.folder`.

        Raises:
            BackendUnavailable: it cannot run here (device, library, dtype).
            InvalidModel: the folder lacks what it needs.
        """
        ...

    def run(self, batch: TokenBatch) -> Outputs:
        """Run the model over `batch`.

        Returns:
            Each name in `batch.outputs`, to an entry a row, in order; arrays are the caller's. `dense`: float32 (rows,
            dimension), C-contiguous, pooled, head applied, not normalised, not cut. `scores`: logits, float32 (rows,
            labels). `sparse`: a `SparseVector` a row. `multi_vector`: float32 (tokens, dimension) a row, all tokens.

        Raises:
            MemoryError: the halves run, and batches are smaller for a while; `kit.devices.memory_errors` makes it of a
                library's own error.
            Exception: only the rows at fault fail.
        """
        ...

    def close(self) -> None:
        """Free memory and threads; may be called twice."""
        ...
