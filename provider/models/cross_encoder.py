"""Cross-encoders and classifiers: what their files say about labels, activation and the way a pair is written.

Formats: `sentence_transformers/cross_encoder/model.py` (`_load_default_modules`, `_parse_model_config`,
`get_default_activation_fn`) and `modules/logit_score.py`, release 6.2. Folders saved before 5.4 have no `modules.json`
and say the activation in `config.json`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, frozen

from provider.domain import ScoreTask
from provider.errors import InvalidModel
from provider.models.folder import read_object
from provider.models.kinds import first_architecture
from provider.models.pipeline import Module, Pipeline, read_pipeline
from provider.models.tokenizer_files import vocabulary_of

Activation = Literal["identity", "sigmoid", "softmax"]
MessageFormat = Literal["flat", "structured"]

CROSS_ENCODER = "CrossEncoder"
"""`model_type` in `config_sentence_transformers.json`."""
CHAT_TEMPLATE_FILE = "chat_template.jinja"

_CLASSIFIER, _CAUSAL = "ForSequenceClassification", "ForCausalLM"
_TASK_OF: Mapping[str, Literal["classifier", "logits", "pooled"]] = {
    "sequence-classification": "classifier",
    "text-generation": "logits",
    "feature-extraction": "pooled",
}
_ACTIVATIONS: Mapping[str, Activation] = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Softmax": "softmax",
    "torch.nn.Identity": "identity",
    "torch.nn.Sigmoid": "sigmoid",
    "torch.nn.Softmax": "softmax",
}
# The tokens whose logits CrossEncoder compares where no LogitScore says others.
_TRUE, _FALSE = "yes", "no"
# As in `sentence_transformers/base/modality.py` (`InputFormatter._infer_format`).
_FLAT_TYPES = frozenset({"apertus", "deepseek_v3", "gpt_oss", "seed_oss"})
_STRUCTURED = ("content[0]", ".type", "'type'", '"type"', "item.type", "message.content[")


@frozen
class CrossEncoderFiles:
    """What a folder says of a cross-encoder.

    Attributes:
        task: what it gives.
        files: those that it was read from, beside the transformer's `config.json`.
        notices: sentences that an operator should read.
        pipeline: what follows the transformer, where its class has no head for scores.
    """

    task: ScoreTask
    files: tuple[Path, ...]
    notices: tuple[str, ...]
    pipeline: Pipeline | None = None


def scores_pairs(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether a folder without `modules.json` is a classifier, or a causal model with a template for pairs."""
    architecture = first_architecture(dict(config))
    if architecture.endswith(_CLASSIFIER):
        return True
    template = _chat_template(folder) or ""
    return architecture.endswith(_CAUSAL) and all(re.search(rf"""["']{role}["']""", template) for role in _ROLES)


_ROLES = ("query", "document")


def read_cross_encoder(
    root: Path,
    folder: Path,
    config: dict[str, Any],
    *,
    modules: Sequence[Module],
    about: Mapping[str, Any],
    transformer: Mapping[str, Any],
    hidden_size: int,
) -> CrossEncoderFiles:
    """Read labels, activation and the way a pair is written.

    Args:
        root: the model's folder.
        folder: the transformer's.
        config: its `config.json`.
        modules: of `modules.json`; empty where there is none.
        about: `config_sentence_transformers.json`; empty without `modules.json`.
        transformer: settings of the Transformer module.
        hidden_size: width of its hidden states.

    Returns:
        What was read; a causal model without `modules.json` has no tokens yet, see `with_default_tokens`.

    Raises:
        InvalidModel: a module, an activation or a label is missing or not supported.
    """
    if modules:
        kind = _TASK_OF[str(transformer.get("transformer_task") or "feature-extraction")]
    else:
        kind = "classifier" if first_architecture(config).endswith(_CLASSIFIER) else "logits"
    files: list[Path] = []
    true_id: int | None = None
    false_id: int | None = None
    pipeline: Pipeline | None = None
    if kind == "pooled":
        pipeline = read_pipeline(root, modules, hidden_size, scores=True)
        files += pipeline.files
        labels = tuple(f"LABEL_{i}" for i in range(pipeline.dimension))
    elif kind == "logits":
        labels = ("LABEL_0",)
        if modules:
            true_id, false_id = _logit_score(modules, files)
    else:
        _check_alone(modules)
        labels = _labels(folder, config)
    message_format = _message_format(folder, config, transformer, is_pipeline=bool(modules))
    if message_format is not None:
        files += [path for path in (folder / CHAT_TEMPLATE_FILE,) if path.is_file()]
    notices: list[str] = []
    task = ScoreTask(
        labels=labels,
        activation=_activation(folder, config, about, len(labels), notices),
        kind=kind,
        true_id=true_id,
        false_id=false_id,
        messages=message_format,
        layers=None if pipeline is None else pipeline.task(),
    )
    if about.get("keep_in_fp32_modules"):
        notices.append(
            f"the model asks to compute {', '.join(map(str, about['keep_in_fp32_modules']))} in float32 "
            "(keep_in_fp32_modules), which is so with dtype float32 only"
        )
    return CrossEncoderFiles(task, tuple(files), tuple(notices), pipeline)


def check_transformer(folder: Path, file: str, transformer: Mapping[str, Any]) -> None:
    """See that the Transformer module of a cross-encoder reads text and gives logits.

    Raises:
        InvalidModel: it asks for something else.
    """
    task = str(transformer.get("transformer_task") or "feature-extraction")
    if task not in _TASK_OF:
        msg = f"{folder / file} asks for {task} in a CrossEncoder; supported are {' and '.join(_TASK_OF)}"
        raise InvalidModel(msg)
    modalities = transformer.get("modality_config")
    if modalities is None:
        return
    output = "last_hidden_state" if _TASK_OF[task] == "pooled" else "logits"
    as_usual = {"method": "forward", "method_output_name": output}
    used = modalities.get("message", modalities.get("text")) if isinstance(modalities, dict) else None
    if not isinstance(used, dict) or {key: used.get(key) for key in as_usual} != as_usual:
        msg = f"{folder / file} asks for {used or modalities} in modality_config; supported are texts by {as_usual}"
        raise InvalidModel(msg)
    more = sorted({part for key in modalities for part in str(key).split("+")} - {"text", "message"})
    if more:
        msg = f"{folder} is a model for images, audio or video beside text (modality {more[0]!r} in {file})"
        raise InvalidModel(msg)


def _labels(folder: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    names = config.get("id2label")
    if names is None:
        # transformers writes none where there are two.
        count = config.get("num_labels", 2)
        if not isinstance(count, int) or count < 1:
            msg = f"num_labels in {folder / 'config.json'} is {count!r}, expected a number of labels; mend the file"
            raise InvalidModel(msg)
        return tuple(f"LABEL_{i}" for i in range(count))
    try:
        found = {int(key): str(name) for key, name in names.items()}
    except (AttributeError, ValueError):
        found = {}
    if not found or sorted(found) != list(range(len(found))):
        msg = f"id2label in {folder / 'config.json'} is {names!r}, expected a name for each of 0, 1, …; mend the file"
        raise InvalidModel(msg)
    return tuple(found[i] for i in range(len(found)))


def _activation(
    folder: Path, config: Mapping[str, Any], about: Mapping[str, Any], labels: int, notices: list[str]
) -> Activation:
    own = config.get("sentence_transformers")
    in_config = own["activation_fn"] if isinstance(own, dict) and "activation_fn" in own else None
    if not (isinstance(own, dict) and "activation_fn" in own):
        in_config = config.get("sbert_ce_default_activation_function")
    for path in (about.get("activation_fn"), in_config):
        if path is None:
            continue
        if not str(path).startswith("torch."):
            # As there, without trust in the code of models.
            notices.append(f"the model names the activation {path!r}, which is code of its own and never run")
            continue
        if path not in _ACTIVATIONS:
            msg = f"{folder} asks for the activation {path!r}, supported are {', '.join(sorted(_ACTIVATIONS)[3:])}"
            raise InvalidModel(msg)
        return _ACTIVATIONS[str(path)]
    return "sigmoid" if labels == 1 else "identity"


def _check_alone(modules: Sequence[Module]) -> None:
    if len(modules) > 1:
        where = modules[1].folder.parent / "modules.json"
        msg = f"{where} has {modules[1].kind} after a sequence classifier, which is not supported; supported is nothing"
        raise InvalidModel(msg)


def _logit_score(modules: Sequence[Module], files: list[Path]) -> tuple[int, int | None]:
    if len(modules) != 2 or modules[1].kind != "LogitScore":
        kinds = ", ".join(module.kind for module in modules[1:]) or "nothing"
        msg = f"the cross-encoder in {modules[0].folder} has {kinds} after a causal model; supported is LogitScore"
        raise InvalidModel(msg)
    where = modules[1].folder / "config.json"
    config = read_object(where)
    files.append(where)
    ids = [config.get(key) for key in ("true_token_id", "false_token_id")]
    is_usual = config.get("module_input_name", "causal_logits") == "causal_logits"
    true_id, false_id = (each if isinstance(each, int) else None for each in ids)
    if not is_usual or true_id is None or ids[1] != false_id:
        msg = f"{where} is {config!r}; expected the ids of one or two tokens, of 'causal_logits'"
        raise InvalidModel(msg)
    return true_id, false_id


def with_default_tokens(task: ScoreTask, folder: Path) -> ScoreTask:
    """`task`, with the tokens that CrossEncoder compares where no `LogitScore` names some.

    Raises:
        InvalidModel: the tokenizer in `folder` has no such tokens.
    """
    if task.kind != "logits" or task.true_id is not None:
        return task
    known = vocabulary_of(folder)
    if _TRUE not in known or _FALSE not in known:
        msg = (
            f"the tokenizer in {folder} has no tokens {_TRUE!r} and {_FALSE!r}, whose logits CrossEncoder compares; "
            "save the model with sentence-transformers and a LogitScore that names its tokens"
        )
        raise InvalidModel(msg)
    return evolve(task, true_id=int(known[_TRUE]), false_id=int(known[_FALSE]))


def _message_format(
    folder: Path, config: Mapping[str, Any], transformer: Mapping[str, Any], *, is_pipeline: bool
) -> MessageFormat | None:
    """How the chat template wants a pair's messages; None where pairs go to the tokenizer as they are."""
    template = _chat_template(folder)
    if is_pipeline:
        modalities = transformer.get("modality_config") or {}
        if "message" not in modalities:
            return None
        said = (modalities["message"] or {}).get("format", "auto")
        if said in {"flat", "structured"}:
            return "flat" if said == "flat" else "structured"
    elif template is None:
        return None
    if config.get("model_type") in _FLAT_TYPES:
        return "flat"
    is_structured = not template or any(pattern in template for pattern in _STRUCTURED)
    return "structured" if is_structured else "flat"


def _chat_template(folder: Path) -> str | None:
    path = folder / CHAT_TEMPLATE_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    said = read_object(folder / "tokenizer_config.json").get("chat_template")
    return said if isinstance(said, str) else None if said is None else ""
