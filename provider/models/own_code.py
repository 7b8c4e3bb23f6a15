"""Models whose repositories bring code of their own, read as the class that transformers has for them by now.

Their code is never run. What it computes was compared with transformers' classes: `modeling.py` of Alibaba-NLP/new-impl
with `gte`, and `modeling_xlm_roberta.py` of jinaai/xlm-roberta-flash-implementation with `jina_embeddings_v3`, or for
absolute positions with `xlm-roberta`, whose tensors it names otherwise.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from provider.errors import InvalidModel

JINA_MODULE = "custom_st.Transformer"
"""The first module of jina-embeddings-v3: a Transformer with task adapters."""

# Fields of Alibaba's configuration, and the only values (the default first) that transformers' class computes.
_GTE_VALUES: dict[str, tuple[object, ...]] = {
    "logn_attention_scale": (False, None),
    "layer_norm_type": ("layer_norm", None),
    "position_embedding_type": ("rope", None),
    "pack_qkv": (True, None),
}
# By these a configuration under transformers' own name shows that it was written for the original code.
_ORIGINAL = frozenset({"rope_theta", "rope_scaling", "pack_qkv", "logn_attention_scale"})
# Their defaults differ from those of transformers' class.
_GTE_DEFAULTS = {"vocab_size": 30_528, "max_position_embeddings": 2048, "rope_theta": 10_000.0, "pad_token_id": 0}
_SAME_FIELDS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id",
    "architectures", "dtype", "torch_dtype", "num_labels", "id2label", "label2id",
)  # fmt: skip


def read_as_known(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `config.json` would say if it were written for transformers' own class; None where it is.

    Args:
        folder: the transformer's, for messages.
        config: its `config.json`.

    Raises:
        InvalidModel: it asks for what transformers' class does not compute.
    """
    if is_jina(config):
        return _fields(config, "jina_embeddings_v3") | _rope(config.get("rotary_emb_base", 10_000.0))
    model_type = config.get("model_type")
    is_original = "rope_parameters" not in config and not _ORIGINAL.isdisjoint(config)
    if model_type == "new" or (model_type == "gte" and is_original):
        return _gte(folder, {**_GTE_DEFAULTS, **config})
    return None


def is_flash(config: Mapping[str, Any]) -> bool:
    """Whether the model is a usual XLM-RoBERTa whose tensors have the names of jina's code, as jina-reranker-v2 is."""
    auto_map = config.get("auto_map")
    named = auto_map.get("AutoConfig") if isinstance(auto_map, dict) else None
    is_usual = config.get("model_type") == "xlm-roberta" and not is_jina(config)
    return is_usual and str(named).endswith("XLMRobertaFlashConfig")


def is_jina(config: Mapping[str, Any]) -> bool:
    """Whether the model is an XLM-RoBERTa with rotary positions, as jina-embeddings-v3 is."""
    return config.get("model_type") == "xlm-roberta" and config.get("position_embedding_type") == "rotary"


def _gte(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    for name, allowed in _GTE_VALUES.items():
        if config.get(name) not in allowed:
            msg = (
                f"{folder / 'config.json'} has {name} = {config[name]!r}, which only the model's own code computes; "
                f"transformers' class computes {allowed[0]!r}. Such code is never run; choose another model"
            )
            raise InvalidModel(msg)
    theta, scaling = float(config["rope_theta"]), config.get("rope_scaling")
    if not scaling:
        return _fields(config, "gte") | _rope(theta)
    kind = scaling.get("type", scaling.get("rope_type")) if isinstance(scaling, dict) else None
    if kind != "ntk" or scaling.get("mixed_b") is not None:
        msg = (
            f"{folder / 'config.json'} has rope_scaling = {scaling!r}; supported is type 'ntk' with a factor and "
            "without mixed_b. Choose another model"
        )
        raise InvalidModel(msg)
    factor = float(scaling["factor"])
    if factor <= 1:
        return _fields(config, "gte") | _rope(theta)
    # Fixed NTK scaling (https://kexue.fm/archives/9706, formula 6), whatever the text's length: a larger base, and all
    # frequencies divided by one number, which transformers calls linear scaling.
    per_head = config["hidden_size"] // config["num_attention_heads"]
    return _fields(config, "gte") | _rope(theta * factor, rope_type="linear", factor=factor ** (2 / per_head))


def _fields(config: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    return {"model_type": model_type, **{name: config[name] for name in _SAME_FIELDS if name in config}}


def _rope(theta: float, **scaling: object) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": float(theta), **scaling}}
