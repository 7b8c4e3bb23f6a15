"""The `onnx` backend: a model's ONNX file, run by ONNX Runtime."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import onnxruntime
from attrs import field, frozen
from numpy.typing import NDArray

from emb_provider_onnx.selection import select_file, select_names
from emb_provider_onnx.session import choose_providers, device_name, open_session
from provider.backends import (
    BackendOptions,
    BackendTraits,
    Head,
    InvalidModel,
    ModelSpec,
    TokenBatch,
    Vectors,
    pool,
)

# On the CPU, batches that keep the activations in the cache are fastest; an accelerator wants to be filled.
_CPU_BATCH_TOKENS = 512
_ACCELERATOR_BATCH_TOKENS = 16_384
_HIDDEN_STATES = ("last_hidden_state", "token_embeddings")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
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


class OnnxBackend:
    """One session, shared by all lanes, over a padded rectangle."""

    Options: ClassVar[type] = OnnxOptions
    concurrent: ClassVar[bool] = True

    def __init__(
        self, spec: ModelSpec, session: onnxruntime.InferenceSession, head: Head, traits: BackendTraits
    ) -> None:
        """Use `load`."""
        self.traits = traits
        self._spec, self._head = spec, head
        self._session: onnxruntime.InferenceSession | None = session
        self._inputs = {each.name: _INTEGERS[each.type] for each in session.get_inputs()}
        self._output = _hidden_states(session)
        self._multiple = 1 if traits.device == "cpu" else _ACCELERATOR_MULTIPLE

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
        providers = choose_providers(options.device, options.own.providers)
        selected = select_file(spec, dtype=options.dtype, file=options.own.file)
        session = open_session(selected.path, providers, threads=options.threads)
        _check_interface(selected.path.name, session, spec)
        device = device_name(providers)
        traits = BackendTraits(
            device=device,
            dtype=selected.graph.dtype,
            padding_is_free=False,
            batch_tokens=_CPU_BATCH_TOKENS if device == "cpu" else _ACCELERATOR_BATCH_TOKENS,
            weights_digest=selected.graph.digest(),
            extra={"file": selected.path.name, "onnxruntime": onnxruntime.__version__},
        )
        return cls(spec, session, Head.load(spec), traits)

    def embed(self, batch: TokenBatch) -> Vectors:
        """See `Backend.embed`."""
        session = self._session
        if session is None:
            msg = "the backend is closed"
            raise RuntimeError(msg)
        ids, mask = batch.padded(pad_id=self._spec.pad_id, multiple_of=self._multiple)
        (hidden,) = session.run([self._output], {name: self._input(name, ids, mask) for name in self._inputs})
        pooled = pool(np, hidden, batch.lengths, batch.skips, self._spec.pooling)
        return self._head(pooled)

    def close(self) -> None:
        """Drop the session; see `Backend.close`."""
        self._session = None

    def _input(self, name: str, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[Any]:
        if name == "token_type_ids":
            values = np.zeros_like(ids)
        elif name == "position_ids":
            values = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        else:
            values = ids if name == "input_ids" else mask
        return np.ascontiguousarray(values, self._inputs[name])


def _hidden_states(session: onnxruntime.InferenceSession) -> str:
    names = [each.name for each in session.get_outputs()]
    return next((name for name in _HIDDEN_STATES if name in names), "")


def _check_interface(name: str, session: onnxruntime.InferenceSession, spec: ModelSpec) -> None:
    """See that the graph takes ids and gives hidden states, so that pooling and prompts are ours.

    Raises:
        InvalidModel: it does not.
    """
    again = f"export the model again: emb-provider export {spec.folder} --to onnx --output NEW_FOLDER"
    strange = [each.name for each in session.get_inputs() if each.name not in _INPUTS or each.type not in _INTEGERS]
    if strange:
        msg = f"{name} asks for {', '.join(strange)}, supported are the inputs {', '.join(_INPUTS)}; {again}"
        raise InvalidModel(msg)
    output = _hidden_states(session)
    shapes = {each.name: each.shape for each in session.get_outputs()}
    if not output:
        msg = (
            f"{name} gives {', '.join(shapes)} and no hidden states ({' or '.join(_HIDDEN_STATES)}), so it pools by "
            f"itself, which leaves out prompts and the model's own settings; {again}"
        )
        raise InvalidModel(msg)
    width = shapes[output][-1]
    if len(shapes[output]) != 3 or (isinstance(width, int) and width != spec.hidden_size):
        msg = f"{name} gives {output} of shape {shapes[output]}, expected a width of {spec.hidden_size}; {again}"
        raise InvalidModel(msg)
