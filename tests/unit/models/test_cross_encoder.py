"""Cross-encoders' files: labels, activation, tokens, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from provider.domain import ModelSpec, ScoreTask
from provider.errors import InvalidModel
from provider.models.configs import check_supported
from provider.models.spec import read_spec
from provider.testing.tiny import resave_cross_encoder, tiny_classifier, tiny_decoder, tiny_reranker


def change(path: Path, **values: Any) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **values}))


def read(folder: Path) -> tuple[ModelSpec, tuple[str, ...]]:
    check_supported(folder)
    return read_spec(folder, name="m", max_context_length=None, default_prompt=None)


def task(folder: Path) -> ScoreTask:
    return read(folder)[0].scores


def test_one_label_is_a_reranker_and_several_a_classifier(tmp_path: Path) -> None:
    one, several = task(tiny_classifier(tmp_path / "1")), task(tiny_classifier(tmp_path / "3", labels=3))
    assert (one.word, one.activation, one.labels) == ("rerank", "sigmoid", ("LABEL_0",))
    assert (several.word, several.activation) == ("classify", "identity")
    assert several.labels == ("contradiction", "entailment", "neutral")


def test_a_configuration_without_labels_has_two(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "m", labels=2)
    config = json.loads((folder / "config.json").read_text())
    del config["id2label"], config["label2id"]
    (folder / "config.json").write_text(json.dumps(config))
    assert task(folder).labels == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["Identity", "Sigmoid", "Softmax"])
def test_the_activation_is_what_the_configuration_says(name: Any, legacy: bool, tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "m", labels=2, activation_fn=name, legacy_key=legacy)
    assert task(folder).activation == name.lower()


def test_the_file_of_sentence_transformers_goes_before_the_configuration(tmp_path: Path) -> None:
    folder = resave_cross_encoder(tiny_classifier(tmp_path / "s"), tmp_path / "m")
    change(folder / "config_sentence_transformers.json", activation_fn="torch.nn.modules.linear.Identity")
    assert task(folder).activation == "identity"


def test_an_activation_of_the_model_s_own_is_not_run_and_told(tmp_path: Path) -> None:
    folder = resave_cross_encoder(tiny_classifier(tmp_path / "s"), tmp_path / "m")
    change(folder / "config_sentence_transformers.json", activation_fn="own.Activation")
    spec, notices = read(folder)
    assert spec.scores.activation == "sigmoid"
    assert any("own.Activation" in notice for notice in notices)


def test_an_unknown_activation_is_refused(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "m")
    change(folder / "config.json", sentence_transformers={"activation_fn": "torch.nn.modules.activation.Tanh"})
    with pytest.raises(InvalidModel, match="Tanh"):
        read(folder)


def test_a_causal_model_compares_yes_and_no_or_the_tokens_of_its_logit_score(tmp_path: Path) -> None:
    plain = tiny_reranker(tmp_path / "m")
    vocabulary = json.loads((plain / "tokenizer.json").read_text())["model"]["vocab"]
    found = task(plain)
    assert (found.kind, found.true_id, found.false_id) == ("logits", vocabulary["yes"], vocabulary["no"])
    named = task(resave_cross_encoder(plain, tmp_path / "named", true_token="1"))
    assert (named.true_id, named.false_id) == (vocabulary["1"], None)


def test_a_causal_model_without_a_template_for_pairs_is_an_embedder(tmp_path: Path) -> None:
    assert read(tiny_decoder(tmp_path / "m", plain=True))[0].task.word == "embed"


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("config.json", {"id2label": {"0": "a", "2": "b"}}, "id2label"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "fill-mask"),
        (
            "sentence_bert_config.json",
            {"modality_config": {"text": {"method": "forward", "method_output_name": "hidden_states"}}},
            "hidden_states",
        ),
        (
            "modules.json",
            [
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Dense", "type": "sentence_transformers.base.modules.Dense"},
            ],
            "Dense after a sequence classifier",
        ),
    ],
)
def test_what_cannot_be_reproduced_is_refused(file: str, values: Any, words: str, tmp_path: Path) -> None:
    folder = resave_cross_encoder(tiny_classifier(tmp_path / "s", labels=2), tmp_path / "m")
    if isinstance(values, list):
        (folder / file).write_text(json.dumps(values))
    else:
        change(folder / file, **values)
    with pytest.raises(InvalidModel, match=words):
        check_supported(folder)


def test_labels_and_activation_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "m", labels=2)
    before = read(folder)[0].fingerprint
    change(folder / "config.json", id2label={"0": "no", "1": "yes"})
    assert read(folder)[0].fingerprint != before
