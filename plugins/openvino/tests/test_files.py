"""`options.file`: what optimum writes to `openvino/`, in place of the converted safetensors."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from emb_provider_openvino import OpenVINOBackend
from emb_provider_openvino.conversion import tracing
from openvino import opset13 as ops

from provider.backends import BackendUnavailable, InvalidModel, ModelSpec, TokenBatch
from provider.backends.torch.loading import load_encoder
from provider.models.spec import read_spec

Load = Callable[..., OpenVINOBackend]


def spec_of(folder: Path) -> ModelSpec:
    return read_spec(folder, name="tiny", max_context_length=None, default_prompt=None)[0]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where conversions are kept, in a folder for every dtype."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def written(spec: ModelSpec, load: Load, kept: Path, tmp_path: Path) -> Callable[..., ModelSpec]:
    """A copy of the model with its own conversion as `openvino/NAME`."""

    def write(dtype: str = "float32", name: str = "openvino_model") -> ModelSpec:
        copy = tmp_path / "model"
        if not copy.exists():
            shutil.copytree(spec.folder, copy)
        load(spec, dtype=dtype, cache_folder=str(kept / dtype))
        (found,) = (kept / dtype).glob("[!.]*")
        (copy / "openvino").mkdir(exist_ok=True)
        for suffix in ("xml", "bin"):
            shutil.copy(found / f"model.{suffix}", copy / "openvino" / f"{name}.{suffix}")
        return spec_of(copy)

    return write


def test_its_vectors_are_those_of_the_converted_model(written: Any, load: Load, batch: TokenBatch) -> None:
    spec = written()
    backend = load(spec, file="openvino/openvino_model.xml")
    assert backend.traits.extra["source"] == "file"
    np.testing.assert_allclose(backend.run(batch)["dense"], load(spec).run(batch)["dense"], atol=1e-5)


def test_its_digest_tells_it_from_another(written: Any, load: Load) -> None:
    digests = {
        load(written(dtype, name), file=f"openvino/{name}.xml").traits.weights_digest
        for dtype, name in [("float32", "a"), ("int8", "b")]
    }
    assert len(digests - {""}) == 2


def test_a_quantised_one_is_int8_and_nothing_else(written: Any, load: Load) -> None:
    spec = written("int8")
    for dtype in ("auto", "int8"):
        assert load(spec, dtype=dtype, file="openvino/openvino_model.xml").traits.dtype == "int8"
    with pytest.raises(BackendUnavailable, match=r"weights in options\.file are int8; use int8 or auto"):
        load(spec, dtype="float32", file="openvino/openvino_model.xml")


def test_a_float32_one_can_be_quantised(written: Any, load: Load, batch: TokenBatch, few_texts: str) -> None:
    backend = load(written(), dtype="int8", file="openvino/openvino_model.xml", calibration=few_texts)
    assert (backend.traits.dtype, backend.traits.extra["source"]) == ("int8", "file")
    assert np.isfinite(backend.run(batch)["dense"]).all()


def test_one_that_wants_segments_and_positions_gets_them(
    spec: ModelSpec, load: Load, batch: TokenBatch, tmp_path: Path
) -> None:
    loaded, *_ = load_encoder(spec, lambda _: "float32", "sdpa")

    class Wants(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = loaded

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            token_type_ids: torch.Tensor,
            position_ids: torch.Tensor,
        ) -> torch.Tensor:
            found: torch.Tensor = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                token_type_ids=token_type_ids,
                position_ids=position_ids,
            ).last_hidden_state
            return found

    names = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
    example = {name: torch.tensor([[1, 1, 1], [1, 1, 0]]) for name in names}
    with tracing():
        model = openvino.convert_model(Wants(), example_input=example, input=[(n, [-1, -1]) for n in names])
    shutil.copytree(spec.folder, tmp_path / "model")
    openvino.save_model(model, tmp_path / "model" / "more.xml", compress_to_fp16=False)
    ours = load(spec_of(tmp_path / "model"), file="more.xml").run(batch)["dense"]
    np.testing.assert_allclose(ours, load(spec).run(batch)["dense"], atol=1e-5)


def test_one_that_is_missing_is_refused_with_those_there_are(written: Any, load: Load) -> None:
    with pytest.raises(InvalidModel, match=r"no other.xml and no other.bin.*has openvino/openvino_model.xml"):
        load(written(), file="openvino/other.xml")


def test_one_of_another_kind_is_refused(spec: ModelSpec, load: Load) -> None:
    with pytest.raises(BackendUnavailable, match=r"'model\.safetensors', expected an OpenVINO model's \.xml file"):
        load(spec, file="model.safetensors")


@pytest.mark.parametrize("upwards", [True, False])
def test_one_outside_the_folder_is_refused(written: Any, load: Load, upwards: bool) -> None:
    spec = written()
    (spec.folder / "openvino").rename(spec.folder.parent / "openvino")
    file = "../openvino/openvino_model.xml" if upwards else f"{spec.folder.parent}/openvino/openvino_model.xml"
    with pytest.raises(BackendUnavailable, match="inside the model's folder"):
        load(spec, file=file)


def test_a_damaged_one_is_refused(written: Any, load: Load) -> None:
    spec = written()
    (spec.folder / "openvino" / "openvino_model.xml").write_text("<net")
    with pytest.raises(InvalidModel, match="damaged or no OpenVINO model"):
        load(spec, file="openvino/openvino_model.xml")


def test_one_that_is_no_encoder_of_this_model_is_refused(spec: ModelSpec, load: Load, tmp_path: Path) -> None:
    shutil.copytree(spec.folder, tmp_path / "model")
    copy = spec_of(tmp_path / "model")
    ids = ops.parameter([-1, -1], np.int64, name="input_ids")
    other = ops.parameter([-1, -1], np.int64, name="beam_idx")
    openvino.save_model(openvino.Model([ops.add(ids, other)], [ids, other]), tmp_path / "model" / "beam.xml")
    openvino.save_model(openvino.Model([ops.negative(ids)], [ids]), tmp_path / "model" / "flat.xml")
    with pytest.raises(InvalidModel, match="asks for the inputs input_ids, beam_idx; supported are"):
        load(copy, file="beam.xml")
    with pytest.raises(InvalidModel, match=r"expected hidden states \(rows, width, 32\)"):
        load(copy, file="flat.xml")
