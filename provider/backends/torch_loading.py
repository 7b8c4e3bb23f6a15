"""From a model's folder to an encoder: transformers' model classes."""

from collections.abc import Callable
from typing import Any, cast

import torch
import transformers
from safetensors import SafetensorError

from provider.backends.devices import DtypeName
from provider.domain import ModelSpec
from provider.errors import BackendUnavailable, InvalidModel

# Tensors that may be missing from a checkpoint: they take no part in an embedding.
_UNUSED = ("pooler.", "lm_head.", "cls.", "position_ids")


def load_encoder(
    spec: ModelSpec, choose: Callable[[str], DtypeName], attention: str
) -> tuple[torch.nn.Module, DtypeName, str]:
    """The transformers model in `spec.folder`, in inference mode, on the CPU.

    Args:
        spec: which folder.
        choose: from the checkpoint's dtype to the dtype to load in. transformers would keep a half-precision
            checkpoint's dtype by itself, which is slow and inexact on CPUs.
        attention: transformers' `attn_implementation`, or `auto` for the best that the architecture has without
            packages of its own: MPNet and others have no `sdpa`.

    Returns:
        The module, the dtype that was chosen, and the attention implementation.

    Raises:
        InvalidModel: weights missing, damaged or of another shape than the configuration says.
        BackendUnavailable: transformers does not know the architecture, or cannot run it this way.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(spec.folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as exc:
        msg = (
            f"transformers {transformers.__version__} does not know the architecture {spec.architecture!r} "
            f"of {spec.folder}: {_line(exc)}"
        )
        raise BackendUnavailable(msg) from exc
    checkpoint_dtype = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    dtype = choose(checkpoint_dtype)
    # Only the encoder of an encoder-decoder takes part in an embedding.
    loader = transformers.T5EncoderModel if config.model_type == "t5" else transformers.AutoModel
    try:
        loaded = loader.from_pretrained(
            spec.folder,
            config=config,
            dtype=getattr(torch, dtype),
            attn_implementation=None if attention == "auto" else attention,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except ImportError as exc:
        msg = f"the model {spec.name!r} cannot run with attention {attention!r}: {_line(exc)}"
        raise BackendUnavailable(msg) from exc
    except (OSError, ValueError, RuntimeError, SafetensorError) as exc:
        msg = f"the weights in {spec.folder} cannot be loaded: {_line(exc)}"
        raise InvalidModel(msg) from exc
    # With `output_loading_info` the call returns a pair, which its annotation does not say.
    encoder, info = cast("tuple[torch.nn.Module, dict[str, list[str]]]", loaded)
    missing = [key for key in info["missing_keys"] if not any(unused in key for unused in _UNUSED)]
    if missing:
        msg = (
            f"the weights in {spec.folder} lack {len(missing)} tensors that {spec.architecture} needs "
            f"(first: {min(missing)}); the files do not belong to this config.json"
        )
        raise InvalidModel(msg)
    if getattr(encoder, "pooler", None) is not None:
        # Its output is not used, and it costs a matrix product.
        setattr(encoder, "pooler", None)  # noqa: B010 - torch's stubs allow no assignment of None
    chosen: Any = encoder.config
    return encoder.eval(), dtype, str(chosen._attn_implementation)  # noqa: SLF001 - there is no other way


def _line(exc: Exception) -> str:
    """An exception's text in one line; transformers' messages are long."""
    text = " ".join(str(exc).split())
    return text if len(text) <= 300 else f"{text[:300]} …"
