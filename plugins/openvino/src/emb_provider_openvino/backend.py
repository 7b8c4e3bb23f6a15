"""The backend: which model, on which device, in which dtype; and batches through it."""

import contextlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Literal, Self

import openvino
from attrs import field, frozen

from emb_provider_openvino.compiled import Compiled
from emb_provider_openvino.conversion import convert, one_line
from emb_provider_openvino.converted import Converted, fetch
from emb_provider_openvino.files import default_file, file_digest, is_quantised, read_file, select_names
from emb_provider_openvino.quantisation import CalibrationTexts, quantise
from provider.backends import (
    DENSE,
    SCORES,
    BackendOptions,
    BackendTraits,
    BackendUnavailable,
    ModelSpec,
    PaddedBackend,
    available_cores,
    batch_tokens,
    unknown_name,
)
from provider.domain import ScoreTask
from provider.store import Store

Dtype = Literal["float32", "bfloat16", "int8"]
_DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16", "int8")

# Where compiling kernels for a new shape takes long, widths are rounded up; on the CPU that costs more than it saves.
_ACCELERATOR_MULTIPLE = 16
# Compiled kernels that are kept, by shape. OpenVINO's own limit, 5,000, lets an int8 model take gigabytes.
_KERNELS_KEPT = 128


@frozen
class OpenVINOOptions:
    """Options of the `openvino` backend, under `options:` in `litestar.yaml`.

    Paths are no part of `repr`, by which the engine tells vectors apart: what the files hold is.

    Attributes:
        file: an OpenVINO model (.xml) inside the model's folder to run instead of the converted safetensors, such as
            `openvino/openvino_model.xml`.
        calibration: text file, one text a line, for `dtype: int8`; None for the texts that come with the backend.
        cache_folder: where converted models are kept; None for the user's cache.
    """

    file: str | None = field(default=None, repr=False)
    calibration: str | None = field(default=None, repr=False)
    cache_folder: str | None = field(default=None, repr=False)


class OpenVINOBackend(PaddedBackend):
    """OpenVINO over a padded rectangle. Lanes share one compiled model and its weights."""

    Options: ClassVar[type] = OpenVINOOptions
    outputs: ClassVar[frozenset[str]] = frozenset({DENSE, SCORES})

    @classmethod
    def select_files(cls, names: Sequence[str], options: BackendOptions) -> list[str]:
        """The `.xml` of `options.file` and its `.bin`, if it is set; see `SelectsFiles.select_files`.

        Without it, those of `openvino/openvino_model.xml` where there are no safetensors to convert.
        """
        return select_names(names, options.own.file)

    @classmethod
    def check_options(cls, options: BackendOptions) -> None:
        """See `ChecksOptions.check_options`."""
        core = openvino.Core()
        device = _choose_device(options.device, core.available_devices)
        _choose_dtype(options.dtype, core.get_property(device, "OPTIMIZATION_CAPABILITIES"), is_int8=False)

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        """Take the converted model from the cache, or convert now; see `Backend.load`."""
        cls.check_model(spec)
        own = options.own
        name = own.file or default_file(spec.names("**/*"))
        core = openvino.Core()
        device = _choose_device(options.device, core.available_devices)
        file = read_file(spec, name) if name is not None else None
        is_int8 = file is not None and is_quantised(file)
        dtype = _choose_dtype(options.dtype, core.get_property(device, "OPTIMIZATION_CAPABILITIES"), is_int8=is_int8)
        quantises = dtype == "int8" and not is_int8
        if quantises and spec.find(ScoreTask) is not None:
            msg = (
                f"dtype int8 is made and measured for vectors, and the model {spec.name!r} gives scores; use float32, "
                "or name a file that is int8 already (options.file)"
            )
            raise BackendUnavailable(msg)
        texts = CalibrationTexts.read(own.calibration) if quantises else None
        if own.calibration is not None and texts is None:
            msg = f"options.calibration is for quantising to int8, which is not done here (dtype {dtype}); leave it out"
            raise BackendUnavailable(msg)
        digests = [file_digest(spec, name)] if name is not None else []
        if file is not None and texts is None:
            converted = Converted(file, {}, is_from_disk=True)
        else:
            key = {"model": "".join([spec.fingerprint, *digests]), **_versions("openvino", "torch", "transformers")}
            if texts is not None:
                digests.append(texts.digest)
                key |= {"calibration": texts.digest, "tokens": str(spec.max_tokens), "prompt": spec.default_prompt}
                key |= _versions("nncf")
            converted = fetch(
                Store.at(own.cache_folder, "openvino"),
                f"{spec.fingerprint}-{'float32' if texts is None else 'int8'}",
                key,
                lambda: _make(spec, file, texts, options.threads),
            )
        try:
            engine = Compiled(converted.model, device, _config(device, dtype, options.threads))
        except RuntimeError as exc:
            msg = f"openvino cannot run the model {spec.name!r} on {device}: {one_line(exc)}"
            raise BackendUnavailable(msg) from exc
        source = "file" if file is not None else "cache" if converted.is_from_disk else "conversion"
        traits = BackendTraits(
            device=device.lower(),
            dtype=dtype,
            padding_is_free=False,
            batch_tokens=batch_tokens(device.lower()),
            weights_digest="".join(digests),
            extra={"openvino": version("openvino"), "source": source, **converted.facts},
        )
        multiple_of = 1 if device == "CPU" else _ACCELERATOR_MULTIPLE
        return cls(spec, engine, traits, inputs=engine.inputs, multiple_of=multiple_of)


def _make(
    spec: ModelSpec, file: openvino.Model | None, texts: CalibrationTexts | None, threads: int
) -> tuple[openvino.Model, dict[str, Any]]:
    model = convert(spec, threads) if file is None else file
    return (model, {}) if texts is None else quantise(model, spec, texts)


def _versions(*distributions: str) -> dict[str, str]:
    """Of what takes part in a conversion; another release may do it differently."""
    found = {}
    for name in distributions:
        # A missing one is told of where it is needed.
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _choose_device(requested: str, available: list[str]) -> str:
    """OpenVINO's name of the device; `auto` is the CPU.

    Raises:
        BackendUnavailable: it is not there.
    """
    name = "CPU" if requested == "auto" else requested.upper()
    if name not in available:
        msg = (
            f"device {requested!r} is not available: OpenVINO finds {', '.join(available).lower()} here. "
            "Use one of those, or auto, which is the CPU"
        )
        raise BackendUnavailable(msg)
    return name


def _choose_dtype(requested: str, capabilities: list[str], *, is_int8: bool) -> Dtype:
    """The dtype for `requested`; `auto` is float32, or int8 for a file that is int8 already.

    Raises:
        BackendUnavailable: no such dtype, the device does not compute in it, or the file is int8.
    """
    if requested == "auto":
        return "int8" if is_int8 else "float32"
    for dtype in _DTYPES:
        if requested == dtype:
            if is_int8 and dtype != "int8":
                msg = f"dtype {dtype!r} was asked for, but the weights in options.file are int8; use int8 or auto"
                raise BackendUnavailable(msg)
            if dtype == "bfloat16" and "BF16" not in capabilities:
                msg = (
                    "dtype 'bfloat16' is not supported by this processor, which has no instructions for it "
                    "(avx512_bf16 or amx_bf16); use float32, or int8"
                )
                raise BackendUnavailable(msg)
            return dtype
    raise unknown_name(requested, ("auto", *_DTYPES), what="dtype")


def _config(device: str, dtype: Dtype, threads: int) -> dict[str, Any]:
    """Every property that the result or the speed depends on; OpenVINO's defaults follow the machine."""
    # By default it would be half precision wherever the processor has it.
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if dtype == "bfloat16" else "f32"}
    if device == "CPU":
        streams = max(1, available_cores() // threads)
        config |= {
            # One stream a lane, each with the threads of one forward pass: lanes do not wait for each other.
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams * threads,
            # A lane's thread shares the cores with the event loop; bound to one core it would wait for it.
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": str(_KERNELS_KEPT),
        }
    return config
