"""int8 stays close to float32 on the real model, and says what it needs."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from emb_provider_openvino import OpenVINOBackend
from emb_provider_openvino.quantisation import CalibrationTexts
from numpy.typing import NDArray

from provider.backends import BackendUnavailable, ModelSpec, TokenBatch, Vectors
from provider.engine.tokenizer import Tokenizer
from provider.models.spec import read_spec
from provider.testing.tiny import tiny_bert

pytestmark = pytest.mark.slow

Load = Callable[..., OpenVINOBackend]

# Pairs from alike to unlike.
PAIRS = [
    ("A man is playing a guitar.", "A man plays the guitar."),
    ("A woman is cutting onions.", "A woman is slicing an onion."),
    ("The children are playing in the garden.", "Kids are playing outside in a garden."),
    ("A plane is taking off.", "An aeroplane leaves the runway."),
    ("The bank raised interest rates on Friday.", "Interest rates were raised by the bank."),
    ("A dog runs across the beach.", "A brown dog is running on sand."),
    ("A cat is drinking milk.", "A kitten drinks from a bowl."),
    ("The train to Berlin is late.", "The bus to Hamburg is delayed."),
    ("Two boys are riding bicycles.", "A girl is riding a horse."),
    ("A man is slicing bread.", "A man is slicing a tomato."),
    ("The company reported a loss for the year.", "Shares of the company fell sharply."),
    ("A woman is dancing on a stage.", "A singer performs in front of a crowd."),
    ("Someone is typing on a keyboard.", "A person is playing the piano."),
    ("It is raining heavily in the north.", "The weather will be sunny tomorrow."),
    ("A baby panda goes down a slide.", "A polar bear is swimming in the water."),
    ("The chef prepares a meal.", "The mechanic repairs an engine."),
    ("A man is climbing a rock.", "The parliament passed a new law."),
    ("How do I bake bread?", "The football match ended in a draw."),
    ("The moon is full tonight.", "He signed the contract yesterday."),
    ("Three cats are sleeping.", "The function returns a list of numbers."),
]


def embed(backend: OpenVINOBackend, spec: ModelSpec, texts: list[str]) -> Vectors:
    tokenizer = Tokenizer.from_folder(spec.folder, max_tokens=spec.max_tokens, pools_prompt=spec.dense.pools_prompt)
    vectors = backend.run(TokenBatch.of_rows([each.ids for each in tokenizer.encode(texts, truncate="end")]))["dense"]
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@pytest.mark.slow
def test_memory_is_bounded_however_many_shapes_there_are(minilm_spec: ModelSpec, load: Load) -> None:
    """Kernels are compiled by shape; if all are kept, the second half takes 160 MiB, and memory goes on growing."""
    backend = load(minilm_spec, dtype="int8")
    shapes = [(rows, width) for rows in range(1, 9) for width in range(1, 33)]
    np.random.default_rng(0).shuffle(shapes)
    resident = []
    for rows, width in shapes:
        backend.run(TokenBatch.of_rows([np.full(width, 1000, np.int32)] * rows))["dense"]
        resident.append(psutil.Process().memory_info().rss / 2**20)
    assert resident[-1] - resident[len(shapes) // 2] < 80


def test_int8_ranks_pairs_as_float32_does_and_keeps_every_vector_close(minilm_spec: ModelSpec, load: Load) -> None:
    texts = [text for pair in PAIRS for text in pair]
    int8 = load(minilm_spec, dtype="int8")
    assert int8.traits.dtype == "int8"
    exact, close = embed(load(minilm_spec), minilm_spec, texts), embed(int8, minilm_spec, texts)
    assert (exact * close).sum(axis=1).min() >= 0.97
    theirs, ours = ((vectors[::2] * vectors[1::2]).sum(axis=1).argsort().argsort() for vectors in (exact, close))
    assert np.corrcoef(theirs, ours)[0, 1] >= 0.98
    assert 0.9 < int8.traits.extra["calibration_cosine"]["smallest"] < int8.traits.extra["calibration_cosine"]["mean"]


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return read_spec(tiny_bert(tmp_path / "model"), name="tiny", max_context_length=None, default_prompt=None)[0]


def test_other_calibration_texts_are_another_model_with_another_digest(
    spec: ModelSpec, load: Load, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("the cat sleeps\n\na dog runs\n", encoding="utf-8")
    digests = [load(spec, dtype="int8", **own).traits.weights_digest for own in ({}, {"calibration": str(mine)})]
    assert len({*digests, ""}) == 3
    mine.write_text("two cats sing\n", encoding="utf-8")
    assert load(spec, dtype="int8", calibration=str(mine)).traits.weights_digest not in digests


def test_lines_are_spread_over_a_long_file_and_blank_ones_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("\n\n".join(str(i) for i in range(1000)), encoding="utf-8")
    lines = CalibrationTexts.read(str(path)).lines
    assert (len(lines), lines[0], lines[-1]) == (300, "0", "999")
    assert len(CalibrationTexts.read(None).lines) > 200


@pytest.mark.parametrize(
    ("content", "told"), [(None, "cannot be read"), (b" \n\n", "has no texts"), (b"\xff", "UTF-8")]
)
def test_a_calibration_file_that_is_missing_or_empty_or_no_text_is_refused(
    spec: ModelSpec, load: Load, tmp_path: Path, content: bytes | None, told: str
) -> None:
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BackendUnavailable, match=f"options.calibration .*{told}.*one text a line"):
        load(spec, dtype="int8", calibration=str(path))


def test_calibration_without_quantising_is_refused(spec: ModelSpec, load: Load, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="not done here \\(dtype float32\\); leave it out"):
        load(spec, calibration=str(tmp_path / "texts.txt"))


def test_a_missing_nncf_is_named_with_what_installs_it(
    spec: ModelSpec, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(BackendUnavailable, match=r"needs nncf.*pip install 'emb-provider-openvino\[int8\]'"):
        load(spec, dtype="int8", cache_folder=str(tmp_path / "kept"))


def test_a_quantisation_that_fails_is_one_line_and_leaves_nothing_behind(
    spec: ModelSpec, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        msg = "out of\nmemory"
        raise MemoryError(msg)

    monkeypatch.setattr("nncf.quantize", fails)
    with pytest.raises(BackendUnavailable, match=r"cannot quantise the model 'tiny' \(out of\); use float32"):
        load(spec, dtype="int8", cache_folder=str(tmp_path / "kept"))
    assert list(tmp_path.glob("kept/[!.]*")) == []


def test_calibration_texts_become_the_ids_that_the_service_makes_of_them(
    load: Load, few_texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder has a vocabulary only, without a tokenizer.json."""
    folder = tiny_bert(tmp_path / "model")
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)))
    (folder / "tokenizer.json").unlink()
    spec = read_spec(folder, name="tiny", max_context_length=None, default_prompt=None)[0]
    tokenizer = Tokenizer.from_folder(folder, max_tokens=spec.max_tokens, spec=spec.tokenizer)
    given: list[list[int]] = []

    def keep(rows: list[NDArray[np.int64]], _: object) -> None:
        given.extend(row[0].tolist() for row in rows)
        raise MemoryError

    monkeypatch.setattr("nncf.Dataset", keep)
    with pytest.raises(BackendUnavailable):
        load(spec, dtype="int8", calibration=few_texts, cache_folder=str(tmp_path / "kept"))
    texts = Path(few_texts).read_text().splitlines()
    assert given == [each.ids.tolist() for each in tokenizer.encode(texts)]


def test_nothing_is_printed_while_it_quantises(
    spec: ModelSpec, load: Load, few_texts: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load(spec, dtype="int8", calibration=few_texts, cache_folder=str(tmp_path / "kept"))
    assert capfd.readouterr().out == ""
