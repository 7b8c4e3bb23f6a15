"""The steps after pooling, as torch modules: the dense layers of sentence-transformers' pipelines."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from provider.domain import ModelSpec
from provider.errors import InvalidModel


def load_head(spec: ModelSpec) -> torch.nn.Sequential:
    """The steps after pooling, in float32: vectors are small, and this is where rounding would show.

    Raises:
        InvalidModel: a layer's files are missing or do not fit.
    """
    layers = (_Normalize() if step.folder is None else _dense(step.folder) for step in spec.head)
    return torch.nn.Sequential(*layers)


def _dense(folder: Path) -> torch.nn.Module:
    try:
        config = json.loads((folder / "config.json").read_bytes())
        linear = torch.nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
        state = {
            key.removeprefix("linear."): value.float() for key, value in load_file(folder / "model.safetensors").items()
        }
        linear.load_state_dict(state)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as exc:
        msg = f"the dense layer in {folder} cannot be loaded: {exc}"
        raise InvalidModel(msg) from exc
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    return torch.nn.Sequential(linear, getattr(torch.nn, name)()).eval().requires_grad_(requires_grad=False)


class _Normalize(torch.nn.Module):
    """A `Normalize` that is not the pipeline's last step."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(vectors, dim=-1)
