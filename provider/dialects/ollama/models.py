"""What Ollama says of models: `GET /api/tags`, `GET /api/ps` and `POST /api/show`."""

import hashlib
import re
from datetime import UTC, datetime
from typing import Any

from provider.domain import DENSE, Caller
from provider.engine.description import ModelDescription
from provider.engine.engine import Engine
from provider.engine.runtime import ModelRuntime

_LATEST = ":latest"
_QUANTISATIONS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "INT8"}
# Models stay until the configuration changes.
_EXPIRES_AT = "2100-01-01T00:00:00Z"


def known_name(engine: Engine, name: str, caller: Caller) -> str:
    """`name`, without `:latest` if no model is called so: clients append it.

    Raises:
        ModelNotFound: there is no such model.
        ModelForbidden: `caller` may not use it.
    """
    # Of a model that is not loaded, it would be taken for the name of a prompt.
    if name.endswith(_LATEST) and engine.catalogue.split(name)[1] is not None:
        name = name.removesuffix(_LATEST)
    engine.runtime(name, caller)
    return name


def listed(engine: Engine, caller: Caller) -> list[dict[str, Any]]:
    """Every name of the models that give dense vectors, or are not loaded yet."""
    return [
        {"name": _tagged(name), "model": _tagged(name), "modified_at": _modified(runtime), **_facts(runtime)}
        for name, runtime in _shown(engine, caller)
    ]


def running(engine: Engine, caller: Caller) -> list[dict[str, Any]]:
    """Those that are loaded."""
    return [
        {
            "name": _tagged(name),
            "model": _tagged(name),
            **_facts(runtime),
            "expires_at": _EXPIRES_AT,
            "size_vram": 0 if found.device == "cpu" else found.bytes or 0,
            "context_length": found.max_tokens,
        }
        for name, runtime in _shown(engine, caller)
        if (found := _description(runtime)) is not None
    ]


def shown(engine: Engine, name: str, caller: Caller) -> dict[str, Any]:
    """What is known of one model; few things of one that is not loaded.

    Raises:
        ModelNotFound: there is no such model.
        ModelForbidden: `caller` may not use it.
    """
    runtime = engine.runtime(known_name(engine, name, caller), caller)
    found, information = _description(runtime), {}
    if found is not None:
        family = _family(found)
        information = {
            "general.architecture": family,
            f"{family}.context_length": found.max_tokens,
            f"{family}.embedding_length": found.dimensions,
        }
    return {
        "modelfile": "",
        "parameters": "" if found is None else f"num_ctx {found.max_tokens}",
        "template": "",
        "details": _facts(runtime)["details"],
        "model_info": information,
        "capabilities": ["embedding"] if found is None or DENSE in found.outputs else [],
        "modified_at": _modified(runtime),
    }


def _shown(engine: Engine, caller: Caller) -> list[tuple[str, ModelRuntime]]:
    found = [(name, engine.runtime(name)) for name, model in engine.catalogue.names() if caller.may_use(model)]
    return [
        (name, runtime) for name, runtime in found if (known := _description(runtime)) is None or DENSE in known.outputs
    ]


def _description(runtime: ModelRuntime) -> ModelDescription | None:
    return runtime.description if runtime.loaded else None


def _tagged(name: str) -> str:
    return name if ":" in name else name + _LATEST


def _modified(runtime: ModelRuntime) -> str:
    return datetime.fromtimestamp(runtime.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _family(found: ModelDescription) -> str:
    return re.sub(r"(model|for[a-z]+)$", "", found.architecture.lower()) or "transformer"


def _facts(runtime: ModelRuntime) -> dict[str, Any]:
    found = _description(runtime)
    family = "" if found is None else _family(found)
    return {
        "size": 0 if found is None else found.bytes or 0,
        "digest": "" if found is None else hashlib.sha256(found.digest.encode()).hexdigest(),
        "details": {
            "parent_model": "",
            "format": "" if found is None else "safetensors",
            "family": family,
            "families": [family] if family else [],
            "parameter_size": "",
            "quantization_level": "" if found is None else _QUANTISATIONS.get(found.dtype or "", found.dtype or ""),
        },
    }
