"""The eager PyTorch backend keeps the contract on models of every shape, and equals sentence-transformers on each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from sentence_transformers import SentenceTransformer
from waiting import finish

from provider.backends import BackendOptions, BackendUnavailable, InvalidModel, ModelSpec, TokenBatch
from provider.backends.torch.backend import TorchBackend, TorchOptions
from provider.engine.tokenizer import Tokenizer
from provider.models.spec import read_spec
from provider.testing import BackendContract, packaged_minilm
from provider.testing.tiny import (
    TINY_SHAPES,
    tiny_bert,
    tiny_decoder,
    tiny_distilbert,
    tiny_mpnet,
    tiny_splade,
    tiny_static,
    tiny_t5,
)

SHAPES: dict[str, Callable[[Path], Path]] = {
    **TINY_SHAPES,
    "max": lambda path: tiny_bert(path, pooling="max"),
    "weighted mean": lambda path: tiny_bert(path, pooling="weightedmean"),
    "root of length": lambda path: tiny_bert(path, pooling="mean_sqrt_len_tokens"),
    "decoder, mean": lambda path: tiny_decoder(path, pooling="mean"),
    "cls of twelve layers": lambda path: tiny_bert(path, layers=12, pooling="cls"),
    "no normalize": lambda path: tiny_bert(path, normalize=False),
    "plain folder": lambda path: tiny_bert(path, plain=True),
    "no sdpa": tiny_mpnet,
}
TEXTS = [
    "a cat",
    "The quick brown fox jumps over the lazy dog, and over the fence behind it.",
    "?",
    "naïve café - 漢字 and emoji 🙂 in one text",
    "A man is eating food. " * 3,
    "the same the same the same",
]


def spec_of(folder: Path) -> ModelSpec:
    return read_spec(folder, name="tiny", max_context_length=None, default_prompt=None)[0]


def load(spec: ModelSpec, **options: Any) -> TorchBackend:
    return TorchBackend.load(spec, BackendOptions(threads=1, own=TorchOptions(), **options))


class TestTorchBackend(BackendContract):
    backend_class = TorchBackend


class TestTorchBackendWithPadding(BackendContract):
    backend_class = TorchBackend
    options: ClassVar = {"packed": False}


class TestTorchBackendInHalfPrecision(BackendContract):
    backend_class = TorchBackend
    dtype = "bfloat16"
    shapes: ClassVar = {"mean": tiny_bert}
    least_cosine = 0.999
    least_same = 0.999


class TestTorchBackendOnTheRealModel(BackendContract):
    backend_class = TorchBackend
    shapes: ClassVar = {"all-MiniLM-L6-v2": packaged_minilm}


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_equals_sentence_transformers(tmp_path: Path, shape: str) -> None:
    spec = spec_of(SHAPES[shape](tmp_path / "model"))
    tokenizer = Tokenizer.from_folder(spec.folder, max_tokens=spec.max_tokens, pools_prompt=spec.dense.pools_prompt)
    encoded = tokenizer.encode(TEXTS, truncate="end")
    ours = load(spec).run(TokenBatch.of_rows([each.ids for each in encoded], [each.skip for each in encoded]))["dense"]
    theirs = SentenceTransformer(str(spec.folder), device="cpu").encode(TEXTS)
    assert unit(ours).shape == theirs.shape
    assert (unit(ours) * unit(theirs)).sum(axis=1).min() > 0.99999


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bert(tmp_path / "model")


@pytest.mark.parametrize("prompt", ["query: ", "Represent this sentence for searching: "])
def test_a_model_that_leaves_its_prompt_out_of_pooling_equals_sentence_transformers(
    tmp_path: Path, prompt: str
) -> None:
    spec = spec_of(tiny_bert(tmp_path / "model", include_prompt=False, prompts={"query": prompt}))
    tokenizer = Tokenizer.from_folder(spec.folder, max_tokens=spec.max_tokens, pools_prompt=spec.dense.pools_prompt)
    encoded = tokenizer.encode(TEXTS, prompt=prompt, truncate="end")
    ours = load(spec).run(TokenBatch.of_rows([each.ids for each in encoded], [each.skip for each in encoded]))["dense"]
    theirs = SentenceTransformer(str(spec.folder), device="cpu").encode(TEXTS, prompt_name="query")
    assert (unit(ours) * unit(theirs)).sum(axis=1).min() > 0.99999


@pytest.mark.parametrize("shape", ["mean", "cls of twelve layers", "dense head", "positions from an offset"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_padding_the_vectors_are_those_of_the_plain_way(tmp_path: Path, shape: str, dtype: str) -> None:
    spec = spec_of(SHAPES[shape](tmp_path / "model"))
    random = np.random.default_rng(1)
    rows = [random.integers(5, 60, length).astype(np.int32) for length in (9, 1, 30, 9, 4, 1, 62, 9, 17)]
    batch = TokenBatch.of_rows(rows, [0, 0, 3, 1, 0, 0, 5, 0, 2])
    packed, plain = (
        TorchBackend.load(spec, BackendOptions(dtype=dtype, own=TorchOptions(packed=packed)))
        for packed in (True, False)
    )
    assert (packed.traits.padding_is_free, plain.traits.padding_is_free) == (True, False)
    cosines = (unit(packed.run(batch)["dense"]) * unit(plain.run(batch)["dense"])).sum(axis=1)
    assert cosines.min() > (0.999999 if dtype == "float32" else 0.999)


PACKED = ("DistilBERT", "XLM-RoBERTa", "NomicBERT", "GTE", "ModernBERT", "Qwen3", "Gemma 3", "EuroBERT", "Mistral")


@pytest.mark.parametrize("architecture", PACKED)
def test_transformers_models_give_without_padding_what_they_give_with_it(tmp_path: Path, architecture: str) -> None:
    ARCHITECTURES[architecture].build(tmp_path / "model")
    spec = spec_of(tmp_path / "model")
    random = np.random.default_rng(1)
    lengths = (9, 1, 30, 9, 4, 1, 62, 9, 17, 58)
    rows = [random.integers(5, 60, length).astype(np.int32) for length in lengths]
    # A text may contain the padding token, and a batch more tokens than there are positions.
    rows[2][7] = spec.pad_id
    skips = [0, 0, 3, 1, 0, 0, 5, 0, 2, 0]
    packed = load(spec)
    plain = TorchBackend.load(spec, BackendOptions(own=TorchOptions(packed=False)))
    assert (packed.traits.padding_is_free, plain.traits.padding_is_free) == (True, False)
    together = packed.run(TokenBatch.of_rows(rows, skips))["dense"]
    for i, row in enumerate(rows):
        batch = TokenBatch.of_rows([row], [skips[i]])
        expected = unit(plain.run(batch)["dense"])
        assert (unit(together[i : i + 1]) * expected).sum() > 0.99999
        assert (unit(packed.run(batch)["dense"]) * expected).sum() > 0.99999


@pytest.mark.parametrize("architecture", ["MPNet", "FNet"])
def test_models_that_differ_without_padding_run_padded_and_say_why(tmp_path: Path, architecture: str) -> None:
    ARCHITECTURES[architecture].build(tmp_path / "model")
    backend = load(spec_of(tmp_path / "model"))
    assert (backend.traits.padding_is_free, backend.traits.extra["packed"]) == (False, False)
    assert backend.traits.extra["padded_because"].startswith("attention is eager")


def test_the_shapes_of_batches_are_few_so_that_memory_does_not_grow_with_them(folder: Path) -> None:
    # Those of libraries; our own kernels keep nothing.
    backend = load(spec_of(folder), dtype="bfloat16")
    encoder: Any = backend._encoder
    layers, seen = encoder._layers._layers, set()
    first = layers[0]

    def watching(states: torch.Tensor, *more: Any) -> torch.Tensor:
        seen.add(len(states))
        return first(states, *more)

    layers[0] = watching
    random = np.random.default_rng(0)
    for _ in range(100):
        lengths = random.integers(1, 40, random.integers(1, 8))
        vectors = backend.run(TokenBatch.of_rows([random.integers(5, 60, n).astype(np.int32) for n in lengths]))[
            "dense"
        ]
        assert np.isfinite(vectors).all()
    assert all(tokens % 16 == 0 for tokens in seen)
    assert len(seen) <= 18


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_attention_implementation_is_the_one_asked_for_and_changes_nothing(folder: Path, attention: Any) -> None:
    spec = spec_of(folder)
    backend = TorchBackend.load(spec, BackendOptions(own=TorchOptions(attention=attention)))
    assert (backend.traits.extra["attention"], backend.traits.extra["packed"]) == (attention, attention == "sdpa")
    assert ("padded_because" in backend.traits.extra) is (attention == "eager")
    batch = TokenBatch.of_rows([np.array([5, 6, 7], np.int32), np.array([8], np.int32)])
    np.testing.assert_allclose(backend.run(batch)["dense"], load(spec).run(batch)["dense"], atol=1e-5)


def test_a_missing_attention_package_is_named(folder: Path) -> None:
    with pytest.raises(BackendUnavailable, match="flash_attention_2"):
        TorchBackend.load(spec_of(folder), BackendOptions(own=TorchOptions(attention="flash_attention_2")))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close_and_answers_float32(folder: Path, dtype: str) -> None:
    spec = spec_of(folder)
    batch = TokenBatch.of_rows([np.arange(5, 25, dtype=np.int32), np.array([8], np.int32)])
    half, full = load(spec, dtype=dtype), load(spec)
    assert (half.traits.dtype, full.traits.dtype) == (dtype, "float32")
    assert (unit(half.run(batch)["dense"]) * unit(full.run(batch)["dense"])).sum(axis=1).min() > 0.999


def test_a_half_precision_checkpoint_runs_in_float32_on_the_cpu(tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = tiny_bert(tmp_path / "model")
    AutoModel.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder)
    backend = load(spec_of(folder))
    assert backend.traits.dtype == "float32"
    assert backend._encoder is not None
    batch = TokenBatch.of_rows([np.array([5, 6, 7], np.int32)])
    np.testing.assert_allclose(
        backend.run(batch)["dense"], load(spec_of(folder), dtype="float32").run(batch)["dense"], atol=1e-6
    )


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists mappings")
@pytest.mark.parametrize("make", [tiny_bert, tiny_distilbert, tiny_t5, tiny_splade, tiny_static])
def test_no_file_of_a_loaded_model_is_mapped_so_that_what_happens_to_it_reaches_nobody(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    spec = spec_of(make(tmp_path / "model"))
    backend = load(spec)
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(spec.folder) in line]
    assert not mapped
    backend.close()


def changed(folder: Path, **changes: Any) -> Path:
    """The folder of a model with other entries in its `config.json`."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_weights_that_do_not_belong_to_the_configuration_are_refused(tmp_path: Path) -> None:
    folder = changed(tiny_bert(tmp_path / "model"), num_hidden_layers=3)
    with pytest.raises(InvalidModel, match=r"lack \d+ tensors that BertModel needs \(first: encoder\.layer\.2"):
        load(spec_of(folder))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"intermediate_size": 7}, r"intermediate\.dense\.\w+ of shape \(64.*\), but by config\.json it has \(7"),
        ({"max_position_embeddings": 512}, r"position_embeddings\.weight of shape \(128, 32\).*it has \(512, 32\)"),
        ({"vocab_size": 9}, r"word_embeddings\.weight of shape \(\d+, 32\).*it has \(9, 32\).*correct config\.json"),
    ],
)
def test_a_tensor_of_another_shape_is_named_with_both_sizes(
    changes: dict[str, int], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidModel, match=words):
        load(spec_of(changed(tiny_bert(tmp_path / "model"), **changes)))


def test_a_name_that_transformers_does_not_know_is_told_with_its_key(tmp_path: Path) -> None:
    folder = changed(tiny_bert(tmp_path / "model"), hidden_act="gelu_of_tomorrow")
    with pytest.raises(InvalidModel, match=r"hidden_act = 'gelu_of_tomorrow'.*correct the file"):
        load(spec_of(folder))


def test_types_of_tokens_that_change_the_vectors_are_refused_if_the_tokenizer_gives_them(tmp_path: Path) -> None:
    folder = ARCHITECTURES["GPT-2"].build(tmp_path / "model")
    assert load(spec_of(folder)).traits.device == "cpu"
    path = folder / "tokenizer_config.json"
    names = ["input_ids", "token_type_ids", "attention_mask"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_input_names": names}))
    with pytest.raises(InvalidModel, match=r"token_type_ids.*change what GPT2Model computes.*model_input_names"):
        load(spec_of(folder))


def test_of_an_encoder_decoder_the_encoder_is_loaded_if_it_was_saved_alone(tmp_path: Path) -> None:
    ARCHITECTURES["Pegasus, whole"].build(tmp_path / "whole")
    with pytest.raises(InvalidModel, match=r"PegasusEncoder needs .*get_encoder\(\)\.save_pretrained"):
        load(spec_of(tmp_path / "whole"))
    ARCHITECTURES["Pegasus"].build(tmp_path / "alone")
    backend = load(spec_of(tmp_path / "alone"))
    assert backend.run(TokenBatch.of_rows([np.array([5, 6], np.int32)]))["dense"].shape == (1, 32)


def test_an_architecture_that_transformers_does_not_know_is_named(tmp_path: Path) -> None:
    folder = changed(tiny_bert(tmp_path / "model"), model_type="brand-new", architectures=["BrandNewModel"])
    spec = read_spec(folder, name="tiny", max_context_length=None, default_prompt=None, needs_class=False)[0]
    with pytest.raises(BackendUnavailable, match="BrandNewModel"):
        load(spec)


def test_a_device_that_is_not_there_is_an_error(folder: Path) -> None:
    with pytest.raises(BackendUnavailable, match="cuda:7"):
        load(spec_of(folder), device="cuda:7")


def test_every_lane_computes_with_the_threads_it_was_given(folder: Path) -> None:
    import threading

    backend = load(spec_of(folder))
    before = torch.get_num_threads()
    seen: list[int] = []

    def lane() -> None:
        backend.run(TokenBatch.of_rows([np.array([5], np.int32)]))["dense"]
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=lane)
    finish([thread])
    assert seen == [1]
    torch.set_num_threads(before)


@pytest.mark.parametrize("packed", [True, False])
def test_memory_that_runs_out_on_the_device_is_a_memory_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    spec = spec_of(folder)
    # In float32 the kernels of our own, which ask for no memory of a device, would run all of it.
    backend = TorchBackend.load(spec, BackendOptions(dtype="bfloat16", own=TorchOptions(packed=packed)))

    def run_out(*_: object, **__: object) -> None:
        msg = "CUDA out of memory. Tried to allocate 2.00 GiB"
        raise torch.OutOfMemoryError(msg)

    monkeypatch.setattr(torch.nn.functional, "layer_norm", run_out)
    with pytest.raises(MemoryError, match=r"2\.00 GiB"):
        backend.run(TokenBatch.of_rows([np.array([1, 2, 3], np.int32)], outputs=spec.outputs))
