"""The steps after pooling in numpy are those of torch, whatever the activation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from provider.backends import Head, InvalidModel, ModelSpec
from provider.backends.kit.head import read_tensors
from provider.backends.torch.head import load_head
from provider.domain import DenseTask, HeadStep
from provider.models.pipeline import ACTIVATIONS


def spec_of(tmp_path: Path, *steps: HeadStep) -> ModelSpec:
    return ModelSpec("m", tmp_path, "none", 6, 8, None, "f", (DenseTask(4, head=steps),))


def dense(folder: Path, activation: str, *, bias: bool = True) -> HeadStep:
    folder.mkdir()
    about = {"in_features": 6, "out_features": 4, "bias": bias, "activation_function": f"torch.nn.modules.{activation}"}
    (folder / "config.json").write_text(json.dumps(about))
    random = np.random.default_rng(1)
    tensors = {"linear.weight": random.standard_normal((4, 6)).astype(np.float32)}
    if activation == "PReLU":
        tensors["activation_function.weight"] = np.array([0.4], np.float32)
    if bias:
        tensors["linear.bias"] = random.standard_normal(4).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    return HeadStep("dense", folder, 4)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_a_dense_layer_with_its_activation_is_that_of_torch(tmp_path: Path, activation: str) -> None:
    spec = spec_of(tmp_path, dense(tmp_path / "2_Dense", activation))
    pooled = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32) * 3
    vectors = Head.load(spec)(pooled)
    assert (vectors.dtype, vectors.shape) == (np.float32, (50, 4))
    np.testing.assert_allclose(vectors, load_head(spec)(torch.tensor(pooled)).numpy(), rtol=1e-4, atol=1e-5)


def test_a_layer_norm_is_that_of_torch(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    (tmp_path / "2_LayerNorm").mkdir()
    (tmp_path / "2_LayerNorm" / "config.json").write_text(json.dumps({"dimension": 6}))
    weights = {f"norm.{name}": random.standard_normal(6).astype(np.float32) for name in ("weight", "bias")}
    save_file(weights, tmp_path / "2_LayerNorm" / "model.safetensors")
    spec = spec_of(tmp_path, HeadStep("layer_norm", tmp_path / "2_LayerNorm"))
    pooled = random.standard_normal((5, 6)).astype(np.float32)
    expected = torch.nn.functional.layer_norm(
        torch.tensor(pooled), (6,), *(torch.tensor(weights[f"norm.{name}"]) for name in ("weight", "bias"))
    )
    np.testing.assert_allclose(Head.load(spec)(pooled), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(load_head(spec)(torch.tensor(pooled)), expected, rtol=1e-5, atol=1e-6)


def test_bfloat16_which_numpy_does_not_know_is_read(tmp_path: Path) -> None:
    values = torch.tensor([[1.5, -2.25, 1e-30]], dtype=torch.bfloat16)
    save_torch({"x": values}, tmp_path / "x.safetensors")
    assert read_tensors(tmp_path / "x.safetensors")["x"].tolist() == values.float().tolist()


def test_steps_run_in_order_and_a_layer_may_have_no_bias(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, HeadStep("normalize"), dense(tmp_path / "2_Dense", "Identity", bias=False))
    pooled = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    pooled[0] = 0
    expected = load_head(spec)(torch.tensor(pooled)).numpy()
    np.testing.assert_allclose(Head.load(spec)(pooled), expected, rtol=1e-4, atol=1e-6)


def test_a_layer_whose_files_do_not_fit_is_named(tmp_path: Path) -> None:
    step = dense(tmp_path / "2_Dense", "Tanh")
    save_file(
        {"linear.weight": np.zeros((3, 6), np.float32), "linear.bias": np.zeros(3, np.float32)},
        tmp_path / "2_Dense" / "model.safetensors",
    )
    with pytest.raises(InvalidModel, match=r"2_Dense has linear.weight of \(3, 6\), expected \(4, 6\)"):
        Head.load(spec_of(tmp_path, step))
    (tmp_path / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(InvalidModel, match="2_Dense cannot be loaded"):
        Head.load(spec_of(tmp_path, step))
