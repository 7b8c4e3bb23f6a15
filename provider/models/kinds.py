"""Kinds of models that are not served, each refused for its reason.

Read are the small JSON files only, so that a repository can be judged before its weights are downloaded. Served are
models that give one dense vector a text, or scores, by transformers' own classes.
"""

import importlib.util
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from provider.errors import InvalidModel
from provider.models.folder import read_object
from provider.models.own_code import JINA_MODULE, is_jina, read_as_known

ABOUT_FILE = "config_sentence_transformers.json"

_WORDS = "a model of word counts or word vectors with modules that are long out of use"
_SPARSE = "a sparse encoder (SPLADE): it gives weights of vocabulary entries, not one dense vector"
_LATE = "a late-interaction model (ColBERT): it gives one vector a token, not one a text"
_CLASSIFIER = "a classifier or reranker of another kind than CrossEncoder's and transformers' sequence classifiers"
_IMAGES = "a model for images, audio or video beside text"

# Modules of sentence-transformers by which a pipeline shows what it is, and `model_type` in its configuration.
_KINDS = {
    "WordEmbeddings": _WORDS,
    "BoW": _WORDS,
    "CLIPModel": _IMAGES,
    "SparseEncoder": _SPARSE,
    "SparseAutoEncoder": _SPARSE,
    "IDF": _SPARSE,
    "MultiVectorEncoder": _LATE,
    "TokenPooling": _LATE,
    "ColBERT": _LATE,
}
_TASKS = {
    "sequence-classification": _CLASSIFIER,
    "text-generation": _CLASSIFIER,
    "any-to-any": _CLASSIFIER,
    "fill-mask": _SPARSE,
    "retrieval": _LATE,
}
# `model_type` in config.json.
_MODEL_TYPES = {"colbert": _LATE}
# What a configuration says of a second tower. Encoders of text name theirs `text_config` alone.
_OTHER_TOWERS = ("vision_config", "audio_config", "image_config", "speech_config", "vision_cfg", "vision_tower")
# Inputs that are no text.
_OTHER_INPUTS = ("patch_size", "num_channels", "num_mel_bins", "input_feat_per_channel", "feat_extract_norm")
_HEADS = re.compile(
    r"For\w*(Classification|QuestionAnswering|MultipleChoice|NextSentencePrediction|Regression)$|Reward|Rerank"
)
# Position embeddings that transformers dropped from the BERT family or never had; only ESM still has the first two.
_DROPPED_POSITIONS = frozenset({"relative_key", "relative_key_query", "alibi"})
_SAVED_AS = ("SentenceTransformer", "CrossEncoder", "SparseEncoder", "MultiVectorEncoder", "ColBERT")
_SERVED = "served are sentence-transformers models for text that give dense, sparse or token vectors, or scores"


def check_saved_as(folder: Path) -> dict[str, Any]:
    """What `config_sentence_transformers.json` says; empty where there is none.

    Raises:
        InvalidModel: it says that the model is something else than a SentenceTransformer or a CrossEncoder.
    """
    about = read_object(folder / ABOUT_FILE)
    kind = str(about.get("model_type") or "SentenceTransformer")
    if kind not in _SAVED_AS:
        raise _refused(folder, _KINDS.get(kind, f"a {kind}"), f"model_type {kind!r} in {ABOUT_FILE}")
    if kind == "SentenceTransformer" and str(about.get("similarity_fn_name")).lower() == "maxsim":
        raise _refused(folder, _LATE, f"similarity_fn_name 'MaxSim' in {ABOUT_FILE}")
    return about


def check_scores_come(folder: Path, about: dict[str, Any]) -> None:
    """See that a folder that was saved as a CrossEncoder has what makes it one.

    Raises:
        InvalidModel: it has neither `modules.json` nor a classification head.
    """
    if about.get("model_type") == "CrossEncoder":
        raise _refused(folder, _CLASSIFIER, f"model_type 'CrossEncoder' in {ABOUT_FILE}, without modules.json")


def check_modules(folder: Path, types: Sequence[str]) -> None:
    """See that no module shows another kind of model.

    Args:
        folder: the model's.
        types: the classes in `modules.json`, with their packages, in order.

    Raises:
        InvalidModel: one does, or is code of the model's own.
    """
    for kind in types:
        package, _, name = kind.rpartition(".")
        if kind == "pylate.models.Dense.Dense":
            continue
        if package.startswith("pylate"):
            raise _refused(folder, _LATE, f"module {kind} in modules.json")
        # Whether this one can be read as another is seen from its config.json.
        if not kind.startswith("sentence_transformers.") and kind != JINA_MODULE:
            raise _needs_module(folder, kind)
        if name in _KINDS:
            raise _refused(folder, _KINDS[name], f"module {name} in modules.json")


def check_task(
    folder: Path, file: str, transformer: dict[str, Any], *, wanted: str = "feature-extraction", is_late: bool = False
) -> None:
    """See that the Transformer module's own settings ask for hidden states of text.

    Args:
        folder: the transformer's.
        file: the name of the file with the settings.
        transformer: what it holds.
        wanted: the task that the modules behind need.
        is_late: whether the model gives one vector a token.

    Raises:
        InvalidModel: they ask for something else.
    """
    task = str(transformer.get("transformer_task") or wanted)
    if task != wanted:
        raise _refused(folder, _TASKS.get(task, f"a model for {task}"), f"transformer_task {task!r} in {file}")
    modalities = transformer.get("modality_config")
    output = "logits" if wanted == "fill-mask" else "last_hidden_state"
    as_usual = {"method": "forward", "method_output_name": output}
    if modalities is not None:
        way = modalities.get("text") if isinstance(modalities, dict) else None
        # A path into the output may be written as a list.
        if isinstance(way, dict) and way.get("method_output_name") == [output]:
            way = {**way, "method_output_name": output}
        if not isinstance(way, dict) or {**as_usual, **way} != as_usual:
            shown = f"text by {way}" if isinstance(way, dict) else f"the modalities {modalities}"
            msg = (
                f"{folder / file} asks for {shown} in modality_config; supported are models that read text and answer "
                f"their {output}: {as_usual}"
            )
            raise InvalidModel(msg)
        more = sorted({part for key in modalities for part in str(key).split("+")} - {"text", "message"})
        if more:
            raise _refused(folder, _IMAGES, f"modality {more[0]!r} in {file}")
    if transformer.get("query_expansion") and not is_late:
        raise _refused(folder, _LATE, f"query_expansion in {file}")


def check_adapter(folder: Path) -> None:
    """See that the weights in `folder` are a model's own, without an adapter to apply.

    Raises:
        InvalidModel: there is an adapter, alone or beside weights.
    """
    if (folder / "adapter_config.json").is_file():
        base = read_object(folder / "adapter_config.json").get("base_model_name_or_path") or "its base model"
        msg = (
            f"{folder} holds an adapter for {base} (adapter_config.json), and adapters are not applied; merge it "
            "(peft: merge_and_unload), save that model, and give its folder"
        )
        raise InvalidModel(msg)


def check_config(
    folder: Path, config: dict[str, Any], *, first_module: str, needs_class: bool, gives_scores: bool = False
) -> None:
    """See that `config.json` is that of an encoder of text.

    Args:
        folder: the transformer's.
        config: its `config.json`.
        first_module: the first type in `modules.json`; "" where there is no such file.
        needs_class: whether the backend computes the model by a class of transformers, from its weights. One that
            reads a graph of its own does not.
        gives_scores: whether the folder was read as that of a cross-encoder or classifier.

    Raises:
        InvalidModel: it is another kind of model, or nothing but code of its own can compute it.
    """
    model_type = str(config.get("model_type") or "")
    architecture = first_architecture(config)
    if model_type in _MODEL_TYPES:
        raise _refused(folder, _MODEL_TYPES[model_type], f"model_type {model_type!r} in config.json")
    other = next((key for key in (*_OTHER_TOWERS, *_OTHER_INPUTS) if config.get(key)), None)
    if other is not None:
        raise _refused(folder, _IMAGES, f"{other} in config.json")
    if ("ColBERT" in architecture and architecture != "HF_ColBERT") or architecture.endswith("ForRetrieval"):
        raise _refused(folder, _LATE, f"architecture {architecture} in config.json")
    if not first_module and not gives_scores:
        _check_head(folder, config, architecture)
    elif first_module == JINA_MODULE and not is_jina(config):
        raise _needs_module(folder, first_module)
    if needs_class:
        _check_class(folder, config, model_type)


def _check_head(folder: Path, config: dict[str, Any], architecture: str) -> None:
    without = "and there is no modules.json"
    if _HEADS.search(architecture):
        raise _refused(folder, _CLASSIFIER, f"architecture {architecture} in config.json, {without}")
    if config.get("sentence_transformers"):
        raise _refused(folder, _CLASSIFIER, f"sentence_transformers in config.json, as CrossEncoder saves, {without}")
    if not architecture and ("id2label" in config or "num_labels" in config):
        raise _refused(folder, _CLASSIFIER, f"labels and no architecture in config.json, {without}")
    if (folder / "artifact.metadata").is_file() and architecture != "HF_ColBERT":
        raise _refused(folder, _LATE, "the file artifact.metadata")
    if (folder / "idf.json").is_file():
        raise _refused(folder, _SPARSE, "the file idf.json")


def _check_class(folder: Path, config: dict[str, Any], model_type: str) -> None:
    where = folder / "config.json"
    key = next((key for key in ("quantization_config", "compression_config") if config.get(key)), None)
    if key is not None:
        method = config[key].get("quant_method", "unknown") if isinstance(config[key], dict) else config[key]
        msg = (
            f"the weights of {folder} are quantised ({key} in config.json, method {method!r}); "
            "choose a repository with weights in float32, bfloat16 or float16"
        )
        raise InvalidModel(msg)
    positions = config.get("position_embedding_type")
    if isinstance(positions, str) and positions in _DROPPED_POSITIONS and model_type != "esm":
        msg = (
            f"{where} has position_embedding_type {positions!r}, which transformers does not compute for "
            f"{model_type}; choose another model"
        )
        raise InvalidModel(msg)
    if not model_type:
        msg = f'{where} has no model_type, which says the architecture; add it, for instance "model_type": "bert"'
        raise InvalidModel(msg)
    if read_as_known(folder, config) is None and not is_known_type(model_type):
        code = own_code(config)
        needs = f"needs code of its own ({code}, auto_map in config.json), which is never run" if code else "is unknown"
        msg = (
            f"the model in {folder} {needs}: transformers has no class for model_type {model_type!r}; "
            "choose a model that runs without trust_remote_code"
        )
        raise InvalidModel(msg)


def first_architecture(config: dict[str, Any]) -> str:
    """The first class in `architectures`; "" where there is none."""
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def is_masked_lm(config: dict[str, Any]) -> bool:
    """Whether `architectures` names a masked language model."""
    named = config.get("architectures")
    return isinstance(named, list) and any(str(name).endswith("ForMaskedLM") for name in named)


def own_code(config: dict[str, Any]) -> str:
    """The class of the model's own that `auto_map` would load as its encoder; "" for none."""
    auto_map = config.get("auto_map")
    return str(auto_map.get("AutoModel") or "") if isinstance(auto_map, dict) else ""


def is_known_type(model_type: str) -> bool:
    """Whether transformers has a class for `model_type`."""
    table = _auto_table("auto_mappings")
    return table is None or f'("{model_type}", "' in table


def is_known_processor(name: str) -> bool:
    """Whether transformers has a processor or tokenizer called `name`, other than the one that it takes without."""
    if name == "AutoTokenizer":
        return False
    tables = [_auto_table(each) for each in ("auto_mappings", "processing_auto", "tokenization_auto")]
    return any(table is None or f'"{name}"' in table for table in tables)


@cache
def _auto_table(name: str) -> str | None:
    """A table of transformers' classes, as text: importing it takes seconds. None where there is none."""
    found = importlib.util.find_spec("transformers")
    if found is None or found.origin is None:
        return None
    try:
        return (Path(found.origin).parent / "models" / "auto" / f"{name}.py").read_text(encoding="utf-8")
    except OSError:
        return None


def _needs_module(folder: Path, kind: str) -> InvalidModel:
    return InvalidModel(
        f"{folder / 'modules.json'} has a module {kind!r}, which is code of the model's own and never run; choose a "
        "model of the sentence_transformers modules Transformer, Pooling, Dense and Normalize"
    )


def _refused(folder: Path, kind: str, shown_by: str) -> InvalidModel:
    return InvalidModel(f"{folder} is {kind} ({shown_by}); {_SERVED}")
