"""`modules.json` of sentence-transformers: pooling, and the steps after it.

Formats: `sentence_transformers/base/model.py` (`_load_modules`), `sentence_transformer/modules/pooling.py` and
`base/modules/dense.py`, release 6.2; folders saved since 0.4 read alike there and here.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from attrs import frozen

from provider.domain import DenseTask, HeadStep, PoolingMode
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
# Activations of torch.nn that are made without arguments and keep the width: what a backend has to know.
ACTIVATIONS = frozenset(
    {"CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU"}
    | {"LogSigmoid", "LogSoftmax", "Mish", "PReLU", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softmax"}
    | {"Softmin", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink"}
)
# Modules that do nothing outside of training.
_IDLE = frozenset({"Dropout"})

_VECTOR, _TOKENS, _SCORES = "sentence_embedding", "token_embeddings", "scores"

STATIC, SPARSE_STATIC, ROUTERS = "StaticEmbedding", "SparseStaticEmbedding", ("Router", "Asym")
"""Modules that a pipeline may begin with instead of a Transformer."""


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
        token_head: as in `DenseTask`.
    """

    pooling: tuple[PoolingMode, ...]
    pools_prompt: bool
    head: tuple[HeadStep, ...]
    dimension: int
    normalizes: bool
    files: tuple[Path, ...]
    token_head: tuple[HeadStep, ...] = ()

    def task(self) -> DenseTask:
        """What a dense model does by it."""
        return DenseTask(
            self.dimension, self.pooling, self.pools_prompt, self.head, self.normalizes, token_head=self.token_head
        )

    def weights(self) -> tuple[Path, ...]:
        """The files with the weights of the head, each whole.

        Raises:
            InvalidModel: one is missing, damaged or of another kind.
        """
        return tuple(dense_weights(step.folder) for step in (*self.token_head, *self.head) if step.folder is not None)


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


def read_pipeline(folder: Path, modules: Sequence[Module], hidden_size: int, *, scores: bool = False) -> Pipeline:
    """Read what follows the transformer, or the table of a static model.

    Args:
        folder: the model's folder.
        modules: from the transformer or table on.
        hidden_size: width of the transformer's hidden states, or of the table.
        scores: whether the last step gives the scores of a cross-encoder.

    Raises:
        InvalidModel: a module is not supported, or its configuration is missing or does not fit.
    """
    files = [folder / "modules.json"]
    pooling: tuple[PoolingMode, ...] = ("mean",)
    token_head: list[HeadStep] = []
    pools_prompt, steps = True, modules[1:]
    if modules[0].kind != STATIC:
        at = next((i for i, module in enumerate(modules) if module.kind == "Pooling"), len(modules))
        token_head, hidden_size = _head(folder, modules[1:at], hidden_size, files, over=_TOKENS)
        if at == len(modules):
            raise _unsupported(folder, "no Pooling", "after the transformer")
        where = modules[at].folder / "config.json"
        pooling, pools_prompt = _pooling(where, hidden_size)
        files.append(where)
        steps = modules[at + 1 :]
    width = hidden_size * len(pooling)
    last: list[HeadStep] = []
    if scores:
        head, width = _head(folder, steps[:-1], width, files)
        last, width = _head(folder, steps[-1:], width, files, gives=_SCORES)
        if not last:
            raise _unsupported(folder, "no Dense", f"that gives {_SCORES}")
    else:
        head, width = _head(folder, steps, width, files)
    head += last
    normalizes = bool(head) and head[-1].kind == "normalize"
    # The engine normalises after it has cut a vector to `dimensions`; doing so before changes nothing.
    while head and head[-1].kind == "normalize":
        head.pop()
    return Pipeline(pooling, pools_prompt, tuple(head), width, normalizes, tuple(files), tuple(token_head))


def _head(
    folder: Path, steps: Sequence[Module], width: int, files: list[Path], *, over: str = _VECTOR, gives: str = ""
) -> tuple[list[HeadStep], int]:
    """The steps from vectors called `over` to the same or to `gives`, and the width behind them.

    The files they were read from are added to `files`.
    """
    head: list[HeadStep] = []
    for module in steps:
        kind, place = module.kind, module.folder
        if kind in _IDLE:
            continue
        config = read_object(place / "config.json")
        taken = config.get("module_input_name") or _VECTOR
        given = config.get("module_output_name") or taken
        if (taken, given) != (over, gives or over):
            way = f"from {taken!r} to {given!r} (only from {over!r} to {gives or over!r})"
            raise _unsupported(folder, kind, way)
        if kind == "Normalize":
            head.append(HeadStep("normalize"))
        elif kind in {"Dense", "LayerNorm"}:
            head.append(dense_step(place, config, width) if kind == "Dense" else _layer_norm(place, config, width))
            width = head[-1].out_features or width
            files.append(place / "config.json")
        else:
            raise _unsupported(folder, kind, "there (only Dense, LayerNorm, Normalize and Dropout are)")
    return head, width


def read_modules(folder: Path) -> tuple[Module, ...]:
    """The modules in `modules.json`, in order. Empty where there is no such file.

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
    modules = tuple(
        Module(kind, inside(folder, each.get("path"), where)) for each, kind in zip(document, types, strict=True)
    )
    if not modules or modules[0].kind not in {"Transformer", "MLMTransformer", STATIC, *ROUTERS}:
        first = modules[0].kind if modules else "nothing"
        raise _unsupported(folder, first, "as the first module (only Transformer, StaticEmbedding and Router are)")
    return modules


def inside(folder: Path, path: object, where: Path) -> Path:
    """The folder of a module, which `where` says is at `path` in `folder`.

    Raises:
        InvalidModel: it is elsewhere.
    """
    place = PurePosixPath(str(path or ""))
    if place.is_absolute() or ".." in place.parts:
        msg = f"{where} has a module at {str(place)!r}, expected a folder inside the model's own"
        raise InvalidModel(msg)
    return folder / place


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


def dense_step(place: Path, config: dict[str, Any], width: int) -> HeadStep:
    """The Dense layer in `place`, over vectors of `width`.

    Raises:
        InvalidModel: its `config.json` is missing, does not fit, or asks for an unknown activation.
    """
    where = place / "config.json"
    if not config:
        msg = f"{where} is missing; download the model again"
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


def _layer_norm(place: Path, config: dict[str, Any], width: int) -> HeadStep:
    where = place / "config.json"
    taken = positive(config.get("dimension"), f"dimension of {where}")
    if taken != width:
        msg = f"{where} takes vectors of {taken}, but the step before gives {width}; the files do not belong together"
        raise InvalidModel(msg)
    return HeadStep("layer_norm", place)


def dense_weights(place: Path) -> Path:
    """The file with the weights of the layer in `place`, whole.

    Raises:
        InvalidModel: it is missing, damaged or of another kind.
    """
    if not (place / SINGLE_FILE).is_file():
        if (place / PICKLED_FILE).is_file():
            raise pickled_only(str(place.parent), [f"{place.name}/{PICKLED_FILE}"])
        msg = f"{place} has no {SINGLE_FILE}; copy it there, or download the model again"
        raise InvalidModel(msg)
    check_safetensors(place / SINGLE_FILE)
    return place / SINGLE_FILE


def _unsupported(folder: Path, kind: str, where: str) -> InvalidModel:
    return InvalidModel(
        f"{folder / 'modules.json'} has {kind} {where}, which is not supported; supported are Transformer and Pooling, "
        "or StaticEmbedding, or a Router of these, then any of Dense, LayerNorm, Normalize and Dropout"
    )


def unsupported_modules(folder: Path, way: Sequence[Module], supported: str) -> InvalidModel:
    """The error for modules that are not supported together."""
    kinds = ", ".join(module.kind for module in way)
    return InvalidModel(f"{folder} has the modules {kinds}, which are not supported together; supported: {supported}")
