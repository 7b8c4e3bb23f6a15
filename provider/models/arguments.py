"""What sentence-transformers saves about its Transformer module, and the arguments it hands to transformers.

Format: `sentence_transformers/base/modules/transformer.py` (`load_config` and `__init__`), release 6.2.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from provider.errors import InvalidModel
from provider.models.folder import read_object
from provider.models.kinds import check_task

# sentence-transformers tries these names in this order.
_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Where files come from, and who may read them: the folder is given.
_PLACES = frozenset(
    {"cache_dir", "force_download", "local_files_only", "proxies", "revision", "token", "code_revision"}
)
# What cannot change a vector in inference. dtype, device and attention are this service's own settings.
_WITHOUT_EFFECT = _PLACES | {
    "trust_remote_code", "use_auth_token", "use_cache", "return_dict", "output_attentions", "output_hidden_states",
    "attn_implementation", "_attn_implementation", "dtype", "torch_dtype", "device_map", "low_cpu_mem_usage",
    "use_safetensors", "max_memory", "offload_folder", "offload_state_dict", "offload_buffers", "weights_only",
    "add_pooling_layer", "classifier_dropout", "gradient_checkpointing", "name_or_path", "_name_or_path",
    "architectures", "transformers_version", "use_memory_efficient_attention", "unpad_inputs", "reference_compile",
    "provider", "export", "file_name", "num_labels", "id2label", "label2id", "problem_type", "finetuning_task",
}  # fmt: skip
_ARGUMENTS = {"config_kwargs": ("config_args", "config_kwargs"), "model_kwargs": ("model_args", "model_kwargs")}


def read_transformer(
    folder: Path, config: dict[str, Any], check: Callable[[Path, str, dict[str, Any]], None] = check_task
) -> tuple[dict[str, Any], Path | None]:
    """The settings of the Transformer module, and the file they stand in; without a file, {} and None.

    Args:
        folder: the transformer's.
        config: its `config.json`.
        check: refuses settings that ask for another kind of model.

    Raises:
        InvalidModel: they ask for another kind of model, or for an argument that would change the vectors.
    """
    for name in _FILES:
        settings = read_object(folder / name)
        if not settings:
            continue
        check(folder, name, settings)
        for old, new in _ARGUMENTS.values():
            # As there, the older name wins where a file has both.
            key = old if old in settings else new
            _check_arguments(folder / name, key, settings.get(key), config)
        return settings, folder / name
    return {}, None


def _check_arguments(where: Path, key: str, arguments: object, config: dict[str, Any]) -> None:
    if arguments is None:
        return
    if not isinstance(arguments, dict):
        msg = f"{where} has {key} = {arguments!r}, expected a JSON object; mend the file"
        raise InvalidModel(msg)
    for name, value in arguments.items():
        if name in _WITHOUT_EFFECT or name.endswith(("dropout", "dropout_prob", "_pdrop")):
            continue
        if key.startswith("config") and name in config and config[name] == value:
            continue
        if value is None and key.startswith("model"):
            continue
        way = (
            "write it into config.json instead, if the model was trained so"
            if key.startswith("config")
            else "remove it, if the model was trained without"
        )
        msg = f"{where} has {name} = {value!r} in {key}, which changes the vectors and is not applied; {way}"
        raise InvalidModel(msg)
