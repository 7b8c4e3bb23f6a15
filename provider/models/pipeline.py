"""`modules.json` of sentence-transformers: pooling, and the steps after it.

Formats: `sentence_transformers/base/model.py` (`_load_modules`), `sentence_transformer/modules/pooling.py` and
`base/modules/dense.py`, release 6.2; folders saved since 0.4 read alike there and here.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from attrs import frozen

from provider.domain import HeadStep, PoolingMode
from provider.errors import InvalidModel
from provider.models.folder import positive, read_document, read_object
from provider.models.kinds import check_modules, first_architecture
from provider.models.weights import PICKLED_FILE, SINGLE_FILE, check_safetensors, pickled_only

# Older names of the modes, in the order in which several are concatenated.
_LEGACY_MODES: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Activations without parameters or arguments, by their name in torch.nn: what a backend has to know.
ACTIVATIONS = frozenset({"Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU", "LeakyReLU", "ELU", "Softplus", "Mish"})
# Modules that do nothing outside of training.
_IDLE = frozenset({"Dropout"})


@frozen
class Pipeline:
    """What follows the transformer.

    Attributes:
        pooling: as in `ModelSpec`.
        pools_prompt: as in `ModelSpec`.
        head: as in `ModelSpec`.
        dimension: width of the vector after it.
        normalizes: whether the vectors have length 1 at its end.
        files: the JSON files it was read from.
    """

    pooling: tuple[PoolingMode, ...]
    pools_prompt: bool
    head: tuple[HeadStep, ...]
    dimension: int
    normalizes: bool
    files: tuple[Path, ...]

    def weights(self) -> tuple[Path, ...]:
        """The files with the weights of the head, each whole.

        Raises:
            InvalidModel: one is missing, damaged or of another kind.
        """
        return tuple(_dense_weights(step.folder) for step in self.head if step.folder is not None)


@frozen
class Module:
    """An entry of `modules.json`: its class with the package, and its folder."""

    type: str
    folder: Path

    @property
    def kind(self) -> str:
        """The name of the class; old and new saves differ in the packages before it."""
        return self.type.rpartition(".")[2]


def plain_pipeline(config: dict[str, Any], hidden_size: int) -> Pipeline:
    """What sentence-transformers makes of a folder without `modules.json`.

    The last token for models made to continue text, the mean for all others.
    """
    continues_text = first_architecture(config).endswith("ForCausalLM") and config.get("is_causal", True)
    pooling: tuple[PoolingMode, ...] = ("lasttoken",) if continues_text else ("mean",)
    return Pipeline(pooling, pools_prompt=True, head=(), dimension=hidden_size, normalizes=False, files=())


def read_pipeline(folder: Path, modules: Sequence[Module], hidden_size: int) -> Pipeline:
    """Read what follows the transformer.

    Args:
        folder: the model's folder.
        modules: as `read_modules` gives them.
        hidden_size: width of the transformer's hidden states.

    Raises:
        InvalidModel: a module is not supported, or its configuration is missing or does not fit.
    """
    if len(modules) < 2 or modules[1].kind != "Pooling":
        second = modules[1].kind if len(modules) > 1 else "nothing"
        raise _unsupported(folder, second, "after the transformer (only Pooling is)")
    where = modules[1].folder / "config.json"
    pooling, pools_prompt = _pooling(where, hidden_size)
    files = [folder / "modules.json", where]
    head: list[HeadStep] = []
    width = hidden_size * len(pooling)
    for kind, place in ((module.kind, module.folder) for module in modules[2:]):
        config = read_object(place / "config.json")
        taken = config.get("module_input_name") or "sentence_embedding"
        given = config.get("module_output_name") or taken
        if (taken, given) != ("sentence_embedding", "sentence_embedding"):
            raise _unsupported(folder, kind, f"on {taken!r} (only on the pooled vector)")
        if kind == "Dense":
            step = _dense(place, config, width)
            width = step.out_features or width
            files.append(place / "config.json")
            head.append(step)
        elif kind == "Normalize":
            head.append(HeadStep("normalize"))
        elif kind not in _IDLE:
            raise _unsupported(folder, kind, "after pooling (only Dense, Normalize and Dropout are)")
    normalizes = bool(head) and head[-1].kind == "normalize"
    # The engine normalises after it has cut a vector to `dimensions`; doing so before changes nothing.
    while head and head[-1].kind == "normalize":
        head.pop()
    return Pipeline(pooling, pools_prompt, tuple(head), width, normalizes, tuple(files))


def read_modules(folder: Path) -> tuple[Module, ...]:
    """The modules in `modules.json`, in order: a Transformer, and at least one more. Empty where there is no such file.

    Raises:
        InvalidModel: the file is damaged, or the model is of another kind.
    """
    where = folder / "modules.json"
    document = read_document(where)
    if document is None and not where.exists():
        return ()
    if not isinstance(document, list) or not all(isinstance(each, dict) for each in document):
        msg = f"{where} is no list of modules; restore the file or download the model again"
        raise InvalidModel(msg)
    types = [str(each.get("type", "")) for each in document]
    check_modules(folder, types)
    modules = []
    for each, kind in zip(document, types, strict=True):
        place = PurePosixPath(str(each.get("path") or ""))
        if place.is_absolute() or ".." in place.parts:
            msg = f"{where} has a module at {str(place)!r}, expected a folder inside the model's own"
            raise InvalidModel(msg)
        modules.append(Module(kind, folder / place))
    if not modules or modules[0].kind != "Transformer":
        first = modules[0].kind if modules else "nothing"
        raise _unsupported(folder, first, "as the first module (only Transformer is)")
    return tuple(modules)


def _pooling(path: Path, hidden_size: int) -> tuple[tuple[PoolingMode, ...], bool]:
    config = read_object(path)
    if not config:
        msg = f"{path} is missing or empty, so it is not known how to pool; download the model again"
        raise InvalidModel(msg)
    declared = config.get("pooling_mode")
    if declared is None:
        modes: list[Any] = [mode for key, mode in _LEGACY_MODES.items() if config.get(key)] or ["mean"]
    else:
        modes = list(declared) if isinstance(declared, list) else [declared]
    for mode in modes:
        if mode not in get_args(PoolingMode):
            msg = f"{path} asks for pooling {mode!r}, supported are {', '.join(get_args(PoolingMode))}"
            raise InvalidModel(msg)
    if not modes:
        msg = f"{path} has an empty pooling_mode; restore the file or download the model again"
        raise InvalidModel(msg)
    width = config.get("embedding_dimension", config.get("word_embedding_dimension", hidden_size))
    if width != hidden_size:
        msg = (
            f"{path} pools vectors of {width}, but config.json has hidden states of {hidden_size}; "
            "the files do not belong together"
        )
        raise InvalidModel(msg)
    return tuple(modes), bool(config.get("include_prompt", True))


def _dense(place: Path, config: dict[str, Any], width: int) -> HeadStep:
    where = place / "config.json"
    if not config:
        msg = f"{where} is missing; download the model again"
        raise InvalidModel(msg)
    if config.get("use_residual"):
        msg = f"{where} asks for a residual connection (use_residual); supported is a linear map with an activation"
        raise InvalidModel(msg)
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    package, _, name = str(activation).rpartition(".")
    if not package.startswith("torch.nn") or name not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        msg = f"{where} asks for the activation {activation!r}, supported are torch.nn's {known}"
        raise InvalidModel(msg)
    taken = positive(config.get("in_features"), f"in_features of {where}")
    given = positive(config.get("out_features"), f"out_features of {where}")
    if taken != width:
        msg = f"{where} takes vectors of {taken}, but the step before gives {width}; the files do not belong together"
        raise InvalidModel(msg)
    return HeadStep("dense", place, given)


def _dense_weights(place: Path) -> Path:
    if not (place / SINGLE_FILE).is_file():
        if (place / PICKLED_FILE).is_file():
            raise pickled_only(str(place.parent), [f"{place.name}/{PICKLED_FILE}"])
        msg = f"{place} has no {SINGLE_FILE}; copy it there, or download the model again"
        raise InvalidModel(msg)
    check_safetensors(place / SINGLE_FILE)
    return place / SINGLE_FILE


def _unsupported(folder: Path, kind: str, where: str) -> InvalidModel:
    return InvalidModel(
        f"{folder / 'modules.json'} has {kind} {where}, which is not supported; supported are Transformer, Pooling, "
        "then any of Dense, Normalize and Dropout"
    )
