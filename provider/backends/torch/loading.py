"""From a model's folder to an encoder or a scorer: transformers' model classes."""

import inspect
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from typing import Any, cast

import torch
import transformers
from safetensors import SafetensorError
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, WeightConverter, WeightRenaming

from provider.backends.kit.devices import DtypeName
from provider.domain import ModelSpec, ScoreTask, SparseTask
from provider.errors import BackendUnavailable, InvalidModel

# Tensors that may be missing from a checkpoint: they take no part in an embedding.
_UNUSED = ("pooler.", "lm_head.", "cls.", "position_ids")
# Of these encoder-decoders sentence-transformers runs the encoder alone (`_ENCODER_ONLY_MODELS` in its
# base/modules/transformer.py), of all others the whole model. model_type to the class, which lies in the module of that
# name.
_ENCODERS = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "longt5": "LongT5EncoderModel",
    "switch_transformers": "SwitchTransformersEncoderModel",
    "t5gemma": "T5GemmaEncoderModel",
    "prophetnet": "ProphetNetEncoder",
    "blenderbot": "BlenderbotEncoder",
    "blenderbot-small": "BlenderbotSmallEncoder",
    "m2m_100": "M2M100Encoder",
    "marian": "MarianEncoder",
    "pegasus": "PegasusEncoder",
    "pegasus_x": "PegasusXEncoder",
}
# Tensors of checkpoints written by code of the model's own; what else differs, transformers renames by itself.
_RENAMED = {"jina_embeddings_v3": {r"\.parametrizations\.weight\.original$": ".weight"}}
# Tokens of the passes that show whether a class can run on text alone.
_TRIAL_LENGTHS = (1, 3)


def load_encoder(
    spec: ModelSpec, choose: Callable[[str], DtypeName], attention: str, device: str = "cpu"
) -> tuple[torch.nn.Module, DtypeName, str]:
    """The transformers model in `spec.folder`, in inference mode, on `device`: an encoder, or a scorer with its head.

    Args:
        spec: which folder.
        choose: from the checkpoint's dtype to the dtype to load in. transformers would keep a half-precision
            checkpoint's dtype by itself, which is slow and inexact on CPUs.
        attention: transformers' `attn_implementation`, or `auto` for the best that the architecture has without
            packages of its own: MPNet and others have no `sdpa`.
        device: as torch calls it. The model is tried out there: dtypes and attention may run nowhere else.

    Returns:
        The module, the dtype that was chosen, and the attention implementation.

    Raises:
        InvalidModel: weights missing, damaged or of another shape than the configuration says.
        BackendUnavailable: transformers does not know the architecture, or cannot run it this way.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config = read_config(spec)
    _register_conversions()
    dtype = choose(checkpoint_dtype(config))
    try:
        loaded = _loader(spec, config).from_pretrained(
            spec.folder,
            config=config,
            dtype=getattr(torch, dtype),
            attn_implementation=None if attention == "auto" else attention,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            # Not ignored: they are told below, with sizes.
            ignore_mismatched_sizes=True,
            key_mapping=_RENAMED.get(config.model_type),
        )
    except ImportError as exc:
        msg = f"the model {spec.name!r} cannot run with attention {attention!r}: {_line(exc)}"
        raise BackendUnavailable(msg) from exc
    except (OSError, ValueError, RuntimeError, SafetensorError) as exc:
        msg = f"the weights in {spec.folder} cannot be loaded: {_line(exc)}"
        raise InvalidModel(msg) from exc
    except (AttributeError, KeyError, TypeError, AssertionError, ZeroDivisionError) as exc:
        # A name that transformers does not know, such as that of an activation, is a KeyError.
        unknown = [f"{key} = {value!r}" for key, value in config.to_dict().items() if (value,) == exc.args]
        msg = (
            f"transformers {transformers.__version__} cannot build {spec.architecture} from "
            f"{spec.folder / 'config.json'} ({' or '.join(unknown) or f'{type(exc).__name__}: {_line(exc)}'}); correct "
            "the file, or restore it"
        )
        raise InvalidModel(msg) from exc
    # With `output_loading_info` the call returns a pair, which its annotation does not say.
    model, info = cast("tuple[torch.nn.Module, dict[str, Any]]", loaded)
    scores = head_task(spec)
    _check_tensors(spec, model, info)
    if scores is None and getattr(model, "pooler", None) is not None:
        # Its output is not used, and it costs a matrix product.
        model.pooler = _NoPooler()
    model.eval().to(device)
    # Out of the mapped file: what becomes of that later must not reach a model that serves.
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
    if scores is None:
        _try_out(spec, model)
        _check_types(spec, model)
    else:
        _try_scores(spec, model, scores)
    chosen: Any = model.config
    return model, dtype, str(chosen._attn_implementation)  # noqa: SLF001 - not public


def head_task(spec: ModelSpec) -> ScoreTask | None:
    """The task whose logits transformers' class computes; None where its hidden states are pooled."""
    scores = spec.find(ScoreTask)
    return None if scores is None or scores.kind == "pooled" else scores


@cache
def _register_conversions() -> None:
    """Let transformers read the tensors of XLM-RoBERTas that jina's code wrote, beside those of its own."""
    names = {
        "emb_ln": "embeddings.LayerNorm",
        r"encoder\.layers": "encoder.layer",
        r"mixer\.out_proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "norm2": "output.LayerNorm",
        r"mlp\.fc1": "intermediate.dense",
        r"mlp\.fc2": "output.dense",
    }
    parts = [f"attention.self.{name}" for name in ("query", "key", "value")]
    fused = WeightConverter(source_patterns=r"mixer\.Wqkv", target_patterns=parts, operations=[Chunk(dim=0)])
    renamed = [WeightRenaming(source_patterns=old, target_patterns=new) for old, new in names.items()]
    register_checkpoint_conversion_mapping("xlm-roberta", [*renamed, fused])


class _NoPooler(torch.nn.Module):
    """In the place of a pooler, which some classes call without asking whether they have one."""

    def forward(self, hidden: torch.Tensor, *_: object) -> torch.Tensor:
        return hidden


def checkpoint_dtype(config: transformers.PretrainedConfig) -> str:
    """What a checkpoint says it is stored in, as torch calls it."""
    return str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")


def read_config(spec: ModelSpec) -> transformers.PretrainedConfig:
    """What transformers makes of the folder's `config.json`."""
    config: transformers.PretrainedConfig
    try:
        if spec.config is not None:
            config = transformers.AutoConfig.for_model(**spec.config)
        else:
            config = transformers.AutoConfig.from_pretrained(
                spec.folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as exc:
        msg = (
            f"transformers {transformers.__version__} cannot read {spec.folder / 'config.json'} of the architecture "
            f"{spec.architecture}: {_line(exc)}"
        )
        raise BackendUnavailable(msg) from exc
    # Its classes would be looked up before transformers' own.
    config.auto_map = {}
    if config.model_type == "t5gemma":
        config.is_encoder_decoder = False
    return config


def _loader(spec: ModelSpec, config: transformers.PretrainedConfig) -> Any:  # noqa: ANN401 - with `from_pretrained`
    scores = head_task(spec)
    if scores is not None:
        is_causal = scores.kind == "logits"
        return transformers.AutoModelForCausalLM if is_causal else transformers.AutoModelForSequenceClassification
    if _is_masked_lm(spec):
        return transformers.AutoModelForMaskedLM
    name = _ENCODERS.get(config.model_type)
    if name is None:
        return transformers.AutoModel
    module = config.model_type.replace("-", "_")
    return getattr(import_module(f"transformers.models.{module}.modeling_{module}"), name)


def _is_masked_lm(spec: ModelSpec) -> bool:
    task = spec.find(SparseTask)
    return task is not None and task.kind == "splade"


def _check_tensors(spec: ModelSpec, encoder: torch.nn.Module, info: dict[str, Any]) -> None:
    mismatched = sorted(info["mismatched_keys"])
    if mismatched:
        name, has, wanted = mismatched[0]
        more = f" (and {len(mismatched) - 1} more)" if len(mismatched) > 1 else ""
        msg = (
            f"the weights in {spec.folder} have {name} of shape {tuple(has)}, but by config.json it has {tuple(wanted)}"
            f"{more}; correct config.json, or take the weights that belong to it"
        )
        raise InvalidModel(msg)
    needs_head = head_task(spec) is not None or _is_masked_lm(spec)
    missing = sorted(info["missing_keys"]) if needs_head else _needed(info["missing_keys"])
    if not missing:
        return
    kind = type(encoder).__name__
    msg = f"the weights in {spec.folder} lack {len(missing)} tensors that {kind} needs (first: {missing[0]})"
    if kind in _ENCODERS.values() and not kind.endswith("Model"):
        msg += (
            "; sentence-transformers reads the encoder alone and would leave these random. If they are the weights of "
            "the whole model, save its encoder: transformers.AutoModel.from_pretrained(FOLDER).get_encoder()."
            "save_pretrained(NEW)"
        )
    else:
        msg += "; the files do not belong to this config.json"
    raise InvalidModel(msg)


def _needed(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not any(unused in name for unused in _UNUSED))


@torch.inference_mode()
def _try_out(spec: ModelSpec, encoder: torch.nn.Module) -> None:
    """See that the class runs on ids and a mask alone, and gives one hidden state a token."""
    kind = f"{type(encoder).__name__} of transformers {transformers.__version__}"
    for tokens in _TRIAL_LENGTHS:
        # Not of padding: some classes look for the last token that is not padding.
        ids = torch.full((1, tokens), 1 if spec.pad_id == 0 else 0, device=next(encoder.parameters()).device)
        try:
            answer = encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
            hidden = answer.logits if _is_masked_lm(spec) else answer.last_hidden_state
        except Exception as exc:
            msg = (
                f"{kind} does not run on a text of {tokens} token{'s'[: tokens - 1]}, given ids and a mask "
                f"({type(exc).__name__}: {_line(exc)}); choose a model that encodes text of any length"
            )
            raise BackendUnavailable(msg) from exc
        width = hidden.shape[-1] if _is_masked_lm(spec) else spec.hidden_size
        if tuple(hidden.shape) != (1, tokens, width):
            msg = (
                f"{kind} gives hidden states of shape {tuple(hidden.shape)} for {tokens} token{'s'[: tokens - 1]}, "
                f"expected {(1, tokens, spec.hidden_size)}: one a token, as wide as config.json says"
            )
            raise InvalidModel(msg)


@torch.inference_mode()
def _try_scores(spec: ModelSpec, model: torch.nn.Module, task: ScoreTask) -> None:
    """See that the class runs on ids and a mask alone, several rows at a time, and gives a logit a label."""
    kind = f"{type(model).__name__} of transformers {transformers.__version__}"
    ids = torch.full((2, _TRIAL_LENGTHS[-1]), 1 if spec.pad_id == 0 else 0, device=next(model.parameters()).device)
    try:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    except Exception as exc:
        msg = f"{kind} does not run on two texts, given ids and a mask ({type(exc).__name__}: {_line(exc)})"
        raise BackendUnavailable(msg) from exc
    if task.kind == "classifier":
        if tuple(logits.shape) != (2, len(task.labels)):
            msg = f"{kind} gives logits of shape {tuple(logits.shape)} for two texts, expected {(2, len(task.labels))}"
            raise InvalidModel(msg)
        return
    largest = max(task.true_id or 0, task.false_id or 0)
    if logits.ndim != 3 or largest >= logits.shape[-1]:
        msg = f"{kind} gives logits of shape {tuple(logits.shape)}; the score needs that of token {largest}"
        raise InvalidModel(msg)


@torch.inference_mode()
def _check_types(spec: ModelSpec, encoder: torch.nn.Module) -> None:
    """See that hidden states without types of tokens are those with types of 0, if the tokenizer gives types."""
    if "token_type_ids" not in inspect.signature(encoder.forward).parameters:
        return
    ids = torch.full((1, _TRIAL_LENGTHS[-1]), 1 if spec.pad_id == 0 else 0, device=next(encoder.parameters()).device)
    mask = torch.ones_like(ids)
    without, typed = (
        encoder(input_ids=ids, attention_mask=mask, **more)[0].float()
        for more in ({}, {"token_type_ids": torch.zeros_like(ids)})
    )
    if torch.allclose(without, typed, rtol=0, atol=1e-4 * float(without.abs().max())):
        return
    # GPT-2 and XLM take a type for one more token. Only for them the tokenizer is loaded a second time.
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        spec.folder, local_files_only=True, trust_remote_code=False, **spec.tokenizer.arguments
    )
    if "token_type_ids" in tokenizer.model_input_names:
        msg = (
            f"the tokenizer of {spec.folder} ({type(tokenizer).__name__}) gives types of tokens (token_type_ids). They "
            f"change what {type(encoder).__name__} computes, and models run without types; if the model was trained "
            'without, set "model_input_names": ["input_ids", "attention_mask"] in tokenizer_config.json'
        )
        raise InvalidModel(msg)


def _line(exc: Exception) -> str:
    """An exception's text in one line; transformers' messages are long."""
    text = " ".join(str(exc).split())
    return text if len(text) <= 300 else f"{text[:300]} …"
