"""`modules.json` of sentence-transformers: pooling, and the steps after it.

Formats: `sentence_transformers/base/model.py` (`_load_modules`), `sentence_transformer/modules/pooling.py` and
`base/modules/dense.py`, release 6.2; folders saved since 0.4 read alike there and here.
"""

from pathlib import Path, PurePosixPath
from typing import Any, get_args

from attrs import frozen

from provider.domain import HeadStep, PoolingMode
from provider.errors import InvalidModel
from provider.models.folder import positive, read_document, read_object
from provider.models.weights import HOW_TO_CONVERT, SINGLE_FILE, check_safetensors

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
        files: the files it was read from, the head's weights among them.
    """

    pooling: tuple[PoolingMode, ...]
    pools_prompt: bool
    head: tuple[HeadStep, ...]
    dimension: int
    files: tuple[Path, ...]


def plain_pipeline(config: dict[str, Any], hidden_size: int) -> Pipeline:
    """What sentence-transformers makes of a folder without `modules.json`.

    The last token for models made to continue text, the mean for all others.
    """
    architecture = next(iter(config.get("architectures") or []), "")
    continues_text = str(architecture).endswith("ForCausalLM") and config.get("is_causal", True)
    pooling: tuple[PoolingMode, ...] = ("lasttoken",) if continues_text else ("mean",)
    return Pipeline(pooling, pools_prompt=True, head=(), dimension=hidden_size, files=())


def read_pipeline(folder: Path, hidden_size: int) -> Pipeline:
    """Read `modules.json` and what it names.

    Args:
        folder: the model's folder.
        hidden_size: width of the transformer's hidden states.

    Raises:
        InvalidModel: a module is not supported, or its files are missing or do not fit.
    """
    modules = _modules(folder)
    if not modules or modules[0][0] != "Transformer":
        first = modules[0][0] if modules else "nothing"
        raise _unsupported(folder, first, "as the first module (only Transformer is)")
    if modules[0][1] != folder:
        msg = (
            f"the transformer lies in {modules[0][1]}, expected in {folder} itself; load the model with "
            "sentence-transformers and save it again with save_pretrained"
        )
        raise InvalidModel(msg)
    if len(modules) < 2 or modules[1][0] != "Pooling":
        second = modules[1][0] if len(modules) > 1 else "nothing"
        raise _unsupported(folder, second, "after the transformer (only Pooling is)")
    pooling, pools_prompt = _pooling(modules[1][1] / "config.json", hidden_size)
    files = [folder / "modules.json", modules[1][1] / "config.json"]
    head: list[HeadStep] = []
    width = hidden_size * len(pooling)
    for kind, place in modules[2:]:
        config = read_object(place / "config.json")
        taken = config.get("module_input_name") or "sentence_embedding"
        given = config.get("module_output_name") or taken
        if (taken, given) != ("sentence_embedding", "sentence_embedding"):
            raise _unsupported(folder, kind, f"on {taken!r} (only on the pooled vector)")
        if kind == "Dense":
            step = _dense(place, config, width)
            width = step.out_features or width
            files += [place / "config.json", place / SINGLE_FILE]
            head.append(step)
        elif kind == "Normalize":
            head.append(HeadStep("normalize"))
        elif kind not in _IDLE:
            raise _unsupported(folder, kind, "after pooling (only Dense, Normalize and Dropout are)")
    # Every answer is normalised after it was cut to `dimensions`; doing so before changes nothing.
    while head and head[-1].kind == "normalize":
        head.pop()
    return Pipeline(pooling, pools_prompt, tuple(head), width, tuple(files))


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Class name and folder of each module, in order."""
    where = folder / "modules.json"
    document = read_document(where)
    if not isinstance(document, list) or not all(isinstance(each, dict) for each in document):
        msg = f"{where} is no list of modules; restore the file or download the model again"
        raise InvalidModel(msg)
    modules = []
    for each in document:
        kind, place = str(each.get("type", "")), PurePosixPath(str(each.get("path") or ""))
        # Old and new saves differ in the modules between the first and the last name.
        if not kind.startswith("sentence_transformers."):
            msg = (
                f"{where} has a module {kind!r}, which is code of the model's own; such code is never run. "
                "Choose a model of the sentence_transformers modules Transformer, Pooling, Dense and Normalize"
            )
            raise InvalidModel(msg)
        if place.is_absolute() or ".." in place.parts:
            msg = f"{where} has a module at {str(place)!r}, expected a folder inside the model's own"
            raise InvalidModel(msg)
        modules.append((kind.rpartition(".")[2], folder / place))
    return modules


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
    if not (place / SINGLE_FILE).is_file():
        if (place / "pytorch_model.bin").is_file():
            msg = f"{place} has its weights only in pytorch_model.bin: {HOW_TO_CONVERT}"
        else:
            msg = f"{place} has no {SINGLE_FILE}; copy it there, or download the model again"
        raise InvalidModel(msg)
    check_safetensors(place / SINGLE_FILE)
    return HeadStep("dense", place, given)


def _unsupported(folder: Path, kind: str, where: str) -> InvalidModel:
    return InvalidModel(
        f"{folder / 'modules.json'} has {kind} {where}, which is not supported; supported are Transformer, Pooling, "
        "then any of Dense, Normalize and Dropout"
    )
