"""The `onnx` backend: a model's ONNX file, run by ONNX Runtime."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import onnxruntime
from attrs import field, frozen
from numpy.typing import NDArray

from emb_provider_onnx.selection import select_file, select_names
from emb_provider_onnx.session import choose_providers, device_name, open_session
from provider.backends import (
    DENSE,
    SCORES,
    BackendOptions,
    BackendTraits,
    InvalidModel,
    ModelSpec,
    PaddedBackend,
    batch_tokens,
    check_interface,
)
from provider.domain import ScoreTask

_HIDDEN_STATES = ("last_hidden_state", "token_embeddings")
_LOGITS = ("logits",)
_INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
# On accelerators each new shape costs planning.
_ACCELERATOR_MULTIPLE = 16


@frozen
class OnnxOptions:
    """Options of the `onnx` backend.

    Attributes:
        file: the name of the `.onnx` file, in the model's `onnx/` or else beside its configuration (`onnx/NAME`: only
            in `onnx/`); None for `model.onnx`, or with dtype `int8` for the quantised file of this processor.
        providers: ONNX Runtime's execution providers, best first (`CUDA`, `CoreML`, …); empty: as `device` says.
    """

    file: str | None = None
    providers: list[str] = field(factory=list)


class OnnxBackend(PaddedBackend):
    """One session, shared by all lanes, over a padded rectangle."""

    Options: ClassVar[type] = OnnxOptions
    outputs: ClassVar[frozenset[str]] = frozenset({DENSE, SCORES})

    @classmethod
    def select_files(cls, names: Sequence[str], options: BackendOptions) -> tuple[str, ...]:
        """The `.onnx` file that options and dtype ask for, with its data files; see `SelectsFiles.select_files`."""
        return select_names(names, dtype=options.dtype, file=options.own.file)

    @classmethod
    def check_options(cls, options: BackendOptions) -> None:
        """See `ChecksOptions.check_options`."""
        choose_providers(options.device, options.own.providers)
        select_names((), dtype=options.dtype, file=options.own.file)

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        """Load the `.onnx` file of the model's folder that options and dtype ask for; see `Backend.load`."""
        cls.check_model(spec)
        providers = choose_providers(options.device, options.own.providers)
        selected = select_file(spec, dtype=options.dtype, file=options.own.file)
        session = open_session(selected.path, providers, threads=options.threads)
        _check_interface(selected.path.name, session, spec)
        device = device_name(providers)
        traits = BackendTraits(
            device=device,
            dtype=selected.graph.dtype,
            padding_is_free=False,
            batch_tokens=batch_tokens(device),
            weights_digest=selected.graph.digest(),
            extra={"file": selected.path.name, "onnxruntime": onnxruntime.__version__},
        )
        names = [each.name for each in session.get_inputs()]
        multiple_of = 1 if device == "cpu" else _ACCELERATOR_MULTIPLE
        return cls(spec, _engine(session, _output(session, spec)), traits, inputs=names, multiple_of=multiple_of)


def _engine(session: onnxruntime.InferenceSession, output: str) -> Callable[..., NDArray[np.float32]]:
    inputs = {each.name: _INTEGERS[each.type] for each in session.get_inputs()}

    def run(*arrays: NDArray[Any]) -> NDArray[np.float32]:
        given = zip(inputs.items(), arrays, strict=True)
        (answer,) = session.run([output], {name: array.astype(dtype, copy=False) for (name, dtype), array in given})
        answered: NDArray[np.float32] = answer
        return answered

    return run


def _output(session: onnxruntime.InferenceSession, spec: ModelSpec) -> str:
    """The name of the output to read; "" if there is none."""
    names = [each.name for each in session.get_outputs()]
    wanted = _HIDDEN_STATES if spec.find(ScoreTask) is None else _LOGITS
    return next((name for name in wanted if name in names), "")


def _check_interface(name: str, session: onnxruntime.InferenceSession, spec: ModelSpec) -> None:
    """See that the graph takes ids and gives hidden states, so that pooling and prompts are ours; or logits.

    Raises:
        InvalidModel: it does not.
    """
    again = f"export the model again: emb-provider export {spec.root} --to onnx --output NEW_FOLDER"
    inputs = {each.name: each.type for each in session.get_inputs()}
    strange = [f"{name} ({kind})" for name, kind in inputs.items() if kind not in _INTEGERS]
    if strange:
        msg = f"{name} asks for {', '.join(strange)}; supported are inputs of {' or '.join(_INTEGERS)}; {again}"
        raise InvalidModel(msg)
    output = _output(session, spec)
    shapes = {each.name: each.shape for each in session.get_outputs()}
    if not output and spec.find(ScoreTask) is None:
        msg = (
            f"{name} gives {', '.join(shapes)} and no hidden states ({' or '.join(_HIDDEN_STATES)}), so it pools by "
            f"itself, which leaves out prompts and the model's own settings; {again}"
        )
        raise InvalidModel(msg)
    if not output:
        msg = f"{name} gives {', '.join(shapes)} and no {_LOGITS[0]}, as models with a classification head do; {again}"
        raise InvalidModel(msg)
    check_interface(spec, name, list(inputs), shapes[output], advice=again)
