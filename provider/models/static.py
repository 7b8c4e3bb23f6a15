"""Static models: a table of token vectors whose mean is a text's vector, without a transformer.

Formats: `sentence_transformers/sentence_transformer/modules/static_embedding.py`, release 6.2, and the folders of
model2vec 0.10, which it reads too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from provider.domain import ModelSpec, TokenizerSpec
from provider.errors import InvalidModel
from provider.models.folder import positive, read_document, read_object
from provider.models.kinds import ABOUT_FILE, check_adapter
from provider.models.pipeline import STATIC, Module, read_pipeline
from provider.models.tokenizer_files import CUTS_THE_START
from provider.models.tokenizer_json import count_ids
from provider.models.weights import SINGLE_FILE, check_safetensors, fingerprint, tensor_headers, weight_files

# Longer texts are refused unless the configuration allows them: their tokens are counted before anything else.
STATIC_MAX_TOKENS = 8192
_MODEL2VEC = "model2vec"
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
# What model2vec quantises to; sentence-transformers reads it only with a weight for each token.
_INTEGERS = frozenset({"I8"})

AS_SENTENCE_TRANSFORMERS = (
    "the model has no modules.json: it is read as sentence-transformers does by from_model2vec: "
    "the token for unknown words counts, which model2vec leaves out"
)
"""What to tell an operator of a bare model2vec folder."""


@frozen
class StaticFiles:
    """The files of a static model.

    Attributes:
        dimension: width of the table.
        rows: token ids that have a vector.
        limit: most tokens that its tokenizer gives; None for no limit.
        tokenizer: how texts become ids.
        files: the tokenizer and the table.
    """

    dimension: int
    rows: int
    limit: int | None
    tokenizer: TokenizerSpec
    files: tuple[Path, ...]


def bare_model2vec(folder: Path) -> tuple[Module, ...]:
    """The modules of a folder as model2vec saves it without `modules.json`; empty for any other folder."""
    config = read_object(folder / "config.json")
    if config.get("model_type") != _MODEL2VEC:
        return ()
    table = Module(f"sentence_transformers.{STATIC}", folder)
    return (table, Module("sentence_transformers.Normalize", folder)) if config.get("normalize") else (table,)


def read_table(folder: Path) -> tuple[int, int]:
    """Rows and width of the table of the static model in `folder`; reads the header only.

    Raises:
        InvalidModel: the weights are missing, damaged, or none that sentence-transformers reads.
    """
    (path,) = weight_files(folder)[:1]
    check_safetensors(path)
    tensors = tensor_headers(path)
    name = "embedding.weight" if "embedding.weight" in tensors else "embeddings"
    if name not in tensors:
        found = ", ".join(sorted(tensors)[:5]) or "none"
        msg = f"{path} has no tensor 'embedding.weight' or 'embeddings', as static models have; it has {found}"
        raise InvalidModel(msg)
    allowed = _FLOATS | (_INTEGERS if name == "embeddings" and "weights" in tensors else frozenset())
    dtype, shape = tensors[name]["dtype"], tensors[name]["shape"]
    if dtype not in allowed or len(shape) != 2:
        msg = (
            f"{path} has the table {name} of {dtype} {shape}, supported are {', '.join(sorted(allowed))} with two "
            "dimensions; choose a copy of the model in floating point"
        )
        raise InvalidModel(msg)
    rows, width = shape
    if name == "embeddings":
        # Rows that several ids share, and a factor for each id.
        rows = _length(path, tensors, "mapping") or rows
        weighted = _length(path, tensors, "weights")
        if weighted is not None and weighted != rows:
            msg = f"{path} has weights for {weighted} tokens, but {rows} tokens; the tensors do not belong together"
            raise InvalidModel(msg)
    return rows, positive(width, f"the width of {name} in {path}")


def read_static(folder: Path) -> StaticFiles:
    """Read table and tokenizer of the static model in `folder`, without loading them.

    Raises:
        InvalidModel: they are missing, damaged, or do not fit together.
    """
    rows, dimension = read_table(folder)
    where = folder / "tokenizer.json"
    document = read_document(where)
    if not isinstance(document, dict):
        msg = f"{folder} has no tokenizer.json, which static models need; download the model again"
        raise InvalidModel(msg)
    try:
        ids = count_ids(document)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        msg = f"{where} is no file of the tokenizers library ({type(exc).__name__}: {exc}); download the model again"
        raise InvalidModel(msg) from exc
    truncation = document.get("truncation") or {}
    limit = positive(truncation["max_length"], f"truncation.max_length in {where}") if truncation else None
    return StaticFiles(
        dimension,
        rows,
        limit,
        TokenizerSpec(
            adds_special_tokens=False, ids=ids, cuts_start=str(truncation.get("direction")).lower() == "left"
        ),
        (where, folder / SINGLE_FILE),
    )


def read_static_spec(
    folder: Path, way: tuple[Module, ...], about: dict[str, Any], name: str, max_context_length: int | None
) -> tuple[ModelSpec, list[str]]:
    """The spec of a static model, and notices; whether it normalises is what its pipeline says.

    Args:
        folder: the model's.
        way: its modules, the table first.
        about: `config_sentence_transformers.json`.
        name: the configured name.
        max_context_length: most tokens of one input; None for the model's own limit, but at most 8192.

    Raises:
        InvalidModel: files are missing, damaged or do not fit together.
    """
    place = way[0].folder
    check_adapter(place)
    static = read_static(place)
    pipeline = read_pipeline(folder, way, static.dimension)
    notices = [CUTS_THE_START] if static.tokenizer.cuts_start else []
    files = [path for path in pipeline.files if path.is_file()]
    if not files:
        files, notices = [folder / "config.json"], [*notices, AS_SENTENCE_TRANSFORMERS]
    files += [folder / ABOUT_FILE] if about else []
    return ModelSpec(
        name=name,
        folder=place,
        architecture=STATIC,
        hidden_size=static.dimension,
        max_tokens=max_context_length or min(STATIC_MAX_TOKENS, static.limit or STATIC_MAX_TOKENS),
        max_positions=None,
        tasks=(pipeline.task(),),
        fingerprint=fingerprint(folder, (*files, *static.files, *pipeline.weights())),
        vocabulary_size=static.rows,
        tokenizer=static.tokenizer,
        encoder="static",
    ), notices


def is_static(modules: Sequence[Module]) -> bool:
    """Whether these modules begin with a table instead of a transformer."""
    return bool(modules) and modules[0].kind == STATIC


def _length(path: Path, tensors: dict[str, Any], name: str) -> int | None:
    if name not in tensors:
        return None
    shape = tensors[name]["shape"]
    if len(shape) != 1:
        msg = f"{path} has {name} of the shape {shape}, expected one number a token"
        raise InvalidModel(msg)
    return int(shape[0])
