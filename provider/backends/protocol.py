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
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `mps`, or a name of the backend's own.
        dtype: `auto`, `float32`, `bfloat16`, `float16`, or a name of the backend's own.
        threads: CPU threads of one forward pass; each lane may use that many. At least 1.
        worker: number of this process among those that serve together, from 0. A backend that picks one of several
            devices by itself spreads the workers over them.
        own: the backend's own options: an instance of its `Options`, defaults filled in, types checked.
    """

    device: str = "auto"
    dtype: str = "auto"
    threads: int = 1
    worker: int = 0
    own: Any = field(factory=NoOptions)


@frozen
class BackendTraits:
    """What a loaded backend says about itself.

    Attributes:
        device: where it runs (`cpu`, `cuda:0`, …), as shown to users.
        dtype: what it computes in, as shown to users.
        padding_is_free: True if the cost of a batch follows its tokens, False if it follows longest x rows.
        batch_tokens: the batch size, in tokens, that it is fastest at; the configuration may say otherwise.
        weights_digest: digest of weights that it reads beside those that `ModelSpec.fingerprint` covers (a converted
            file in the model's folder); "" for none. It becomes part of the loaded model's fingerprint.
        extra: more facts for `/v1/models` (JSON values).
        lanes: threads that keep the device busy, where the backend is `concurrent`; None for one a core on the CPU, and
            one on an accelerator.
    """

    device: str
    dtype: str
    padding_is_free: bool
    batch_tokens: int
    weights_digest: str = ""
    extra: Mapping[str, Any] = field(factory=dict)
    lanes: int | None = None


@runtime_checkable
class AdjustsThreads(Protocol):
    """What a backend may have besides: a number of CPU threads that can change after loading.

    The engine then measures at the start how many threads a forward pass should have; without it, only the size of
    batches.
    """

    def use_threads(self, threads: int) -> None:
        """From now on a forward pass has `threads` CPU threads, at least 1. Never called while `run` runs."""
        ...


@runtime_checkable
class GetsFaster(Protocol):
    """What a backend may have besides: slow work that makes its passes faster, such as compiling, once it is in use.

    So a model serves before it is done.
    """

    def improvements(self) -> Iterator[Callable[[], None]]:
        """What changes the backend, one small step after the other.

        The engine goes through them once after loading, on a thread of its own, while lanes call `run`; each step is
        called while no pass runs. Outputs may change by rounding, and of `traits` only `extra`. Nothing to do: no step.
        """
        ...


@runtime_checkable
class SelectsFiles(Protocol):
    """What a backend class may have besides: files of its own that it reads from a model's repository.

    Repositories hold the same model in many formats. Downloaded are the safetensors and what every backend needs
    (configuration, tokenizer, modules); a backend that reads other files says here which, and they are part of the
    model then: a copy in the cache without them is incomplete.
    """

    @classmethod
    def select_files(cls, names: Sequence[str], options: BackendOptions) -> Iterable[str]:
        """Those of `names` that `load` will read, data files beside them included; of several variants only one.

        Called before anything is downloaded, any number of times. It looks at its arguments and at this machine's
        devices, not at files.

        Args:
            names: of all files in the repository, sorted; paths inside it with `/`, such as `onnx/model.onnx`.
            options: as configured, but `threads` and `worker`, which are not known yet.

        Returns:
            Names out of `names`; what is not in there is ignored. None at all where the repository lacks what this
            backend needs: `load` then says what to do.

        Raises:
            BackendUnavailable: the options cannot be met by any file, so that a download would be for nothing.
        """
        ...


@runtime_checkable
class ChecksOptions(Protocol):
    """What a backend class may have besides: a check of device, dtype and options without a model.

    It is called before the port is opened, where device, dtype or options are configured. Without it, `load` refuses.
    """

    @classmethod
    def check_options(cls, options: BackendOptions) -> None:
        """Refuse what no model could be loaded with; quick, without a model.

        Raises:
            BackendUnavailable: no device or dtype is called that, this machine has no such device, or it does not
                compute in that dtype.
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
    """What a backend class may have besides: models in the memory of a device, instead of the process's."""

    @classmethod
    def device_memory(cls, options: BackendOptions) -> Memory | None:
        """The memory that a model loaded with these options is in; None for that of the process.

        Called before and after a model is loaded: what is held more then is that model's.

        Raises:
            BackendUnavailable: the options cannot be met.
        """
        ...


@runtime_checkable
class Backend(Protocol):
    """Turns batches of token ids into outputs. Synchronous, whole batches, no text, no HTTP.

    A class registers itself as an entry point in the group `provider.backends`. Check it with
    `provider.testing.BackendContract`.

    The engine calls `run` from threads of its own, its *lanes*. It never calls it from two threads at once unless
    `concurrent` is True; then lanes share one instance and its weights. `load` and `close` are called once each, from
    other threads than the lanes, never while `run` runs. The first `run` after `load` is of a single token, and
    called alone.

    Attributes:
        Options: an attrs class with a default for every field: the options this backend takes under `options:` in
            `litestar.yaml`. The engine fills it, checks names and types, and hands it to `load` as `options.own`.
        concurrent: whether several threads may call `run` of one instance at the same time.
        outputs: names of the outputs that it can compute: `dense`, `sparse`, `multi_vector`, `scores`, or what a
            plugin's task is called. A model with another one is refused before it is loaded.
        traits: what the loaded instance says about itself.
    """

    Options: ClassVar[type]
    concurrent: ClassVar[bool]
    outputs: ClassVar[frozenset[str]]
    traits: BackendTraits

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        """Load the weights in `spec.folder` and get ready to run.

        Raises:
            BackendUnavailable: the backend cannot run here (device, library, dtype); the message says what to do.
            InvalidModel: the folder lacks what this backend needs.
        """
        ...

    def run(self, batch: TokenBatch) -> Outputs:
        """Run the model over `batch`.

        Returns:
            Name to one entry a row, for each name in `batch.outputs`; row i belongs to row i of the batch, and all
            arrays are the caller's. `dense`: (rows, dimension) float32, C-contiguous, pooled and passed through the
            head, neither normalised nor cut. `scores`: (rows, labels) float32, logits. `sparse`: a `SparseVector` a
            row. `multi_vector`: (tokens, dimension) float32 a row, one vector for each token of it, none left out.

        Raises:
            MemoryError: memory ran out. The engine runs the halves, and makes smaller batches for a while;
                `kit.devices.memory_errors` makes it out of a library's own error.
            Exception: anything else. The engine fails the rows concerned, and only those, and goes on calling.
        """
        ...

    def close(self) -> None:
        """Free memory and threads. May be called twice."""
        ...
