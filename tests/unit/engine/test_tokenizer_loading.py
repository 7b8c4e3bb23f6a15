"""Ids of every kind of folder equal those of sentence-transformers, or the folder is refused for the true reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer

from provider.engine.tokenizer import Tokenizer
from provider.errors import InputTooLong, InvalidInput, InvalidModel, InvalidOption
from provider.models.spec import read_spec
from provider.testing import tiny

TEXTS = (
    "the cat and the dog",
    "The CAT and the Dog",
    "naïve café, e\u0301 and Ü: İSTANBUL straße ﬁ",
    "漢字 and 漢x",
    "an emoji 🙂, a zero\u200bwidth and a\u00a0blank",
    "  leading and  double blanks ",
    "a\ttab,\nlines\r\nand more",
    "?",
    "   ",
    "[CLS] the [SEP] cat [MASK][PAD] [unk]",
    "<s> the </s> <mask> <pad><unk> <|endoftext|>",
    "zebra the zebra Zebra zebras azebra",
    "the cat " * 100,
    "x" * 150,
)
FAMILIES = ("bert", "distilbert", "nomic", "roberta", "xlm_roberta", "mpnet", "gte", "modernbert", "t5", "decoder",
            "qwen3", "gemma")  # fmt: skip

Edit = Callable[[Path], None]


def tokenizer_of(folder: Path) -> tuple[Tokenizer, bool]:
    """The folder's tokenizer, and whether its tokenizer.json was enough."""
    spec, _ = read_spec(folder, name="m", max_context_length=None, default_prompt=None)
    tokenizer = Tokenizer.from_folder(
        spec.folder, max_tokens=spec.max_tokens, embedding_rows=spec.vocabulary_size, spec=spec.tokenizer
    )
    return tokenizer, spec.tokenizer.stands_alone


def equals_theirs(folder: Path) -> bool:
    """Compare the ids of all texts; whether tokenizer.json was enough."""
    model = SentenceTransformer(str(folder), device="cpu")
    tokenizer, alone = tokenizer_of(folder)
    for text in TEXTS:
        theirs = [int(i) for i in model.preprocess([text])["input_ids"][0]]
        if theirs and max(theirs) < tokenizer.vocabulary.size:
            assert tokenizer.encode([text], truncate="end")[0].ids.tolist() == theirs, text
        else:
            with pytest.raises(InvalidInput, match="has no embedding" if theirs else "finds no tokens"):
                tokenizer.encode([text], truncate="end")
    return alone


def cuts_left(folder: Path) -> None:
    put(
        folder,
        "tokenizer.json",
        truncation={"direction": "Left", "max_length": 64, "strategy": "LongestFirst", "stride": 0},
    )


def put(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    document = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**document, **changes}))


def about(**changes: Any) -> Edit:
    return lambda folder: put(folder, "tokenizer_config.json", **changes)


def module(**changes: Any) -> Edit:
    return lambda folder: put(folder, "sentence_bert_config.json", **changes)


def without_tokenizer_json(folder: Path) -> None:
    """What remains is BERT's vocabulary, one token a line."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)), encoding="utf-8")
    (folder / "tokenizer.json").unlink()


def added(**flags: Any) -> Edit:
    """One more token in tokenizer.json, and a row for it."""

    def edit(folder: Path) -> None:
        document = json.loads((folder / "tokenizer.json").read_text())
        token = {"id": grow(folder), "content": "zebra", "single_word": False, "lstrip": False, "rstrip": False}
        document["added_tokens"].append({**token, "normalized": True, "special": False, **flags})
        (folder / "tokenizer.json").write_text(json.dumps(document))

    return edit


def grow(folder: Path, rows: int = 1) -> int:
    """Give the model more embeddings; the first new id."""
    import numpy as np

    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    old = len(weights[name])
    weights[name] = np.concatenate([weights[name], np.ones_like(weights[name][:rows])])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    put(folder, "config.json", vocab_size=old + rows)
    return old


def shrink(folder: Path) -> None:
    """Take the model's last embedding away."""
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    weights[name] = weights[name][:-1]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    put(folder, "config.json", vocab_size=len(weights[name]))


def tokens_of_an_earlier_release(folder: Path) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({"zebra": grow(folder)}))


def both(*edits: Edit) -> Edit:
    return lambda folder: [edit(folder) for edit in edits] and None


def document(**changes: Any) -> Edit:
    return lambda folder: put(folder, "tokenizer.json", **changes)


# What happens to a tiny BERT, and whether its tokenizer.json is enough afterwards.
EDITS: dict[str, tuple[Edit, bool]] = {
    "nothing": (lambda folder: None, True),
    "a limit": (about(model_max_length=32), True),
    "capitals are kept": (about(do_lower_case=False), False),
    "accents are kept": (about(strip_accents=False), False),
    "CJK is not split": (about(tokenize_chinese_chars=False), False),
    "special tokens in a text are split": (about(split_special_tokens=True), False),
    "an unknown key": (about(something_new=1), False),
    "a special token of another name": (about(sep_token="[MASK]"), False),
    "more special tokens": (about(additional_special_tokens=["cat"]), False),
    "a special token of a new kind": (about(image_token="dog"), False),
    "no class": (about(tokenizer_class=None), True),
    "a class's former name": (about(tokenizer_class="BertTokenizerFast"), True),
    "the generic class": (about(tokenizer_class="PreTrainedTokenizerFast"), True),
    "the generic class's newer name": (about(tokenizer_class="TokenizersBackend", do_lower_case=False), True),
    "another model's class": (about(tokenizer_class="RobertaTokenizer"), False),
    "an unknown class": (about(tokenizer_class="NobodysTokenizer"), False),
    "a normaliser that the class does not know": (document(normalizer={"type": "Lowercase"}), False),
    "a pre-tokeniser that the class does not know": (document(pre_tokenizer={"type": "Whitespace"}), False),
    "no special tokens, which the class puts back": (document(post_processor=None), False),
    "a truncation": (
        document(truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}), True
    ),
    "an added token": (added(), True),
    "an added token that takes the blanks around it": (added(lstrip=True, rstrip=True, normalized=False), True),
    "an added token that is a whole word": (added(single_word=True), True),
    "an added token whose id is not its place": (added(id=999), False),
    "an added token without a row": (both(added(), shrink), True),
    "added_tokens.json": (tokens_of_an_earlier_release, False),
    "special_tokens_map.json": (lambda folder: put(folder, "special_tokens_map.json", sep_token="[PAD]"), False),
    "an empty added_tokens_decoder": (about(added_tokens_decoder={}), False),
    "vocab.txt only": (without_tokenizer_json, False),
    "vocab.txt and nothing beside": (
        both(without_tokenizer_json, lambda folder: (folder / "tokenizer_config.json").unlink()), False
    ),
    "do_lower_case": (module(do_lower_case=True), True),
    "do_lower_case before a tokenizer that keeps capitals": (
        both(about(do_lower_case=False), module(do_lower_case=True)), False
    ),
    "vocab.txt and do_lower_case": (
        both(without_tokenizer_json, about(do_lower_case=False), module(do_lower_case=True)), False
    ),
    "an argument for the class": (module(tokenizer_args={"do_lower_case": False}), False),
    "an argument by its newer name": (module(processor_kwargs={"strip_accents": False}), False),
    "a limit among the arguments": (module(processor_kwargs={"model_max_length": 9}), True),
    "a limit of the call": (module(processing_kwargs={"text": {"max_length": 8}}), True),
    "a limit of any call": (module(processing_kwargs={"common": {"max_length": 8}}), True),
    "arguments that change nothing": (
        module(tokenizer_args={"use_fast": False}, processing_kwargs={"text": {"padding": True}, "image": {"size": 3}}),
        True,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bert(tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "model"))


@pytest.mark.parametrize("edit", EDITS)
def test_ids_are_those_of_sentence_transformers_whatever_the_files_say(edit: str, folder: Path) -> None:
    change, alone = EDITS[edit]
    change(folder)
    assert equals_theirs(folder) is alone


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_saved_by_sentence_transformers_has_its_ids(family: str, tmp_path: Path) -> None:
    made = getattr(tiny, f"tiny_{family}")(tmp_path / "made")
    equals_theirs(made)
    SentenceTransformer(str(made), device="cpu").save_pretrained(str(tmp_path / "saved"))
    alone = equals_theirs(tmp_path / "saved")
    assert alone is (family != "t5")


def test_a_class_that_adds_its_special_tokens_again_takes_their_flags_away(tmp_path: Path) -> None:
    folder = tiny.tiny_qwen3(tmp_path / "made")
    assert equals_theirs(folder)
    tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    put(folder, "tokenizer.json", added_tokens=[{**token, "lstrip": True, "rstrip": True} for token in tokens])
    assert not equals_theirs(folder)


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("PhobertTokenizer", {"vocab.txt": "a 1\n", "bpe.codes": "a b 1\n"}),
        ("BertJapaneseTokenizer", {"vocab.txt": "[UNK]\n[CLS]\n[SEP]\n[PAD]\n[MASK]\n"}),
        ("EsmTokenizer", {"vocab.txt": "<cls>\n<pad>\n<eos>\n<unk>\n<mask>\n"}),
        ("XLMTokenizer", {"vocab.json": "{}", "merges.txt": ""}),
        ("MarianTokenizer", {"vocab.json": "{}", "source.spm": "x", "target.spm": "x"}),
        ("LukeTokenizer", {"vocab.json": '{"<s>": 0}', "merges.txt": "", "entity_vocab.json": '{"[MASK]": 0}'}),
    ],
)
def test_a_tokenizer_that_exists_in_python_only_is_refused_for_that(
    kind: str, files: dict[str, str], folder: Path
) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    for name, content in files.items():
        (folder / name).write_text(content)
    with pytest.raises(InvalidModel, match=rf"is transformers' {kind}, which works in Python.*Choose a model"):
        tokenizer_of(folder)


def test_a_package_that_a_conversion_needs_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XLMRobertaTokenizer"}))
    (folder / "sentencepiece.bpe.model").write_bytes(b"damaged")
    monkeypatch.setattr("provider.engine.tokenizer_loading._CONVERTERS", {"no_such_module": "its-package"})
    with pytest.raises(InvalidModel, match=r"sentencepiece\.bpe\.model.*pip install its-package"):
        tokenizer_of(folder)


def test_files_that_the_class_cannot_read_are_refused_with_its_name(folder: Path) -> None:
    put(folder, "tokenizer_config.json", tokenizer_class="AlbertTokenizer")
    with pytest.raises(InvalidModel, match=r"transformers' AlbertTokenizer cannot be made"):
        tokenizer_of(folder)


def test_special_tokens_are_found_though_the_vocabulary_has_no_letters(folder: Path) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"] = {"type": "WordLevel", "vocab": {"[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "42": 9}, "unk_token": "?"}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    put(folder, "tokenizer_config.json", tokenizer_class="TokenizersBackend")
    tokenizer, _ = tokenizer_of(folder)
    assert tokenizer.encode(["42 " * 100], truncate="end")[0].ids.tolist() == [2, *[9] * 62, 3]


def test_a_token_without_a_row_is_refused_by_its_place_token_and_id(folder: Path) -> None:
    both(added(), shrink)(folder)
    tokenizer, _ = tokenizer_of(folder)
    first = tokenizer.vocabulary.size
    assert tokenizer.vocabulary.ids_without_embedding == 1
    assert tokenizer.encode(["the cat", "no horse"])
    with pytest.raises(InvalidInput, match=rf"input 1: the token 'zebra' \(id {first}\).*0 to {first - 1}") as raised:
        tokenizer.encode(["the cat", "a zebra"])
    assert raised.value.index == 1


def test_a_text_that_the_tokenizer_cannot_encode_is_refused_by_its_place(folder: Path) -> None:
    put(folder, "tokenizer_config.json", unk_token="zebra")
    tokenizer, _ = tokenizer_of(folder)
    with pytest.raises(InvalidInput, match=r"input 1: .*cannot encode it .*Missing \[UNK\]"):
        tokenizer.encode(["the cat", "the \u2603"])


def test_special_tokens_without_a_row_are_refused_at_once(folder: Path) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())
    document["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [9999]
    (folder / "tokenizer.json").write_text(json.dumps(document))
    put(folder, "tokenizer_config.json", tokenizer_class="TokenizersBackend")
    with pytest.raises(InvalidModel, match=r"id 9999.*every text has no row"):
        tokenizer_of(folder)


def without(name: str, *keys: str) -> Edit:
    def edit(folder: Path) -> None:
        if (folder / name).exists():
            document = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({key: document[key] for key in document if key not in keys}))

    return edit


unnamed_separator = both(
    without("tokenizer_config.json", "sep_token"),
    without("special_tokens_map.json", "sep_token"),
    about(tokenizer_class="PreTrainedTokenizerFast"),
)


@pytest.mark.parametrize("prompt", ["the cat ", "dog cat [SEP]", "query: "])
@pytest.mark.parametrize("edit", [lambda _: None, unnamed_separator, document(post_processor=None)])
@pytest.mark.parametrize("make", [tiny.tiny_bert, tiny.tiny_roberta, tiny.tiny_t5, tiny.tiny_qwen3])
def test_as_many_prompt_tokens_are_left_out_as_by_sentence_transformers(
    tmp_path: Path, make: Callable[..., Path], edit: Edit, prompt: str
) -> None:
    folder = make(tmp_path / "m", include_prompt=False)
    edit(folder)
    theirs = SentenceTransformer(str(folder), device="cpu")[0]._get_prompt_length(prompt)
    spec, _ = read_spec(folder, name="m", max_context_length=None, default_prompt=None)
    tokenizer = Tokenizer.from_folder(
        spec.folder, max_tokens=64, pools_prompt=spec.dense.pools_prompt, spec=spec.tokenizer
    )
    (encoded,) = tokenizer.encode(["the dog and the cat and the dog"], prompt=prompt)
    assert encoded.skip == theirs


PANICS: dict[str, dict[str, Any]] = {
    "at loading": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "at encoding": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
}


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("changes", PANICS.values(), ids=list(PANICS))
def test_a_panic_of_the_library_is_an_error_about_the_file_or_the_text(
    changes: dict[str, Any], alone: bool, tmp_path: Path
) -> None:
    folder = tiny.tiny_modernbert(tmp_path / "model")
    document = json.loads((folder / "tokenizer.json").read_bytes())
    (folder / "tokenizer.json").write_text(json.dumps(document | changes))
    if not alone:
        # A key that the comparison does not know.
        edit_json(folder / "tokenizer_config.json", unknown=True)
    with pytest.raises(InvalidModel if "normalizer" in changes else InvalidInput, match="token"):
        tokenizer_of(folder)[0].encode(["the cat"])


def test_a_post_processor_without_its_special_token_is_refused(tmp_path: Path) -> None:
    folder = tiny.tiny_modernbert(tmp_path / "model")
    document = json.loads((folder / "tokenizer.json").read_bytes())
    document["post_processor"]["special_tokens"] = {}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(InvalidModel, match="lacks its special token"):
        tokenizer_of(folder)


def test_a_class_that_is_no_tokenizers_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = tiny.tiny_bert(tmp_path / "model")
    edit_json(folder / "tokenizer_config.json", tokenizer_class="AutoTokenizer")
    with pytest.raises(InvalidModel, match="name AutoTokenizer as tokenizer_class"):
        tokenizer_of(folder)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


LONG = "one the cat and the dog " * 20


@pytest.mark.parametrize("prompt", ["", "query: the "])
@pytest.mark.parametrize(
    ("edit", "cuts_start"),
    [
        (about(truncation_side="left"), True),
        (module(tokenizer_args={"truncation_side": "left"}), True),
        (cuts_left, True),
        (both(cuts_left, about(truncation_side="right")), False),
        (both(about(truncation_side="left"), module(tokenizer_args={"truncation_side": "right"})), False),
    ],
)
def test_long_texts_are_cut_where_sentence_transformers_cuts_them(
    tmp_path: Path, edit: Edit, cuts_start: bool, prompt: str
) -> None:
    folder = tiny.tiny_bert(tmp_path / "m")
    edit(folder)
    theirs = SentenceTransformer(str(folder), device="cpu").preprocess([LONG], prompt=prompt)["input_ids"][0].tolist()
    tokenizer, _ = tokenizer_of(folder)
    cut = {each: tokenizer.encode([LONG], prompt=prompt, truncate=each)[0] for each in ("auto", "start", "end")}
    assert cut["auto"].ids.tolist() == theirs
    assert (cut["auto"].ids.tolist() == cut["end"].ids.tolist()) is not cuts_start
    # What a request asks for by itself keeps its prompt.
    kept = len(tokenizer.contents([prompt])[0].ids)
    assert cut["start"].ids.tolist()[: 1 + kept] == cut["end"].ids.tolist()[: 1 + kept]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_requests_own_limit_cuts_as_the_library_does(tmp_path: Path, side: str) -> None:
    folder = tiny.tiny_bert(tmp_path / "m")
    about(truncation_side=side)(folder)
    model = SentenceTransformer(str(folder), device="cpu")
    tokenizer, _ = tokenizer_of(folder)
    for most in (3, 17, 63, 64, 500):
        model.max_seq_length = min(most, tokenizer.max_tokens)
        for text in (LONG, "the cat " * 10_000, "the cat", "the"):
            (mine,) = tokenizer.encode([text], truncate="auto", max_tokens=most)
            assert mine.ids.tolist() == model.preprocess([text])["input_ids"][0].tolist()


def test_a_requests_own_limit_is_told_by_errors(tmp_path: Path) -> None:
    tokenizer, _ = tokenizer_of(tiny.tiny_bert(tmp_path / "m"))
    with pytest.raises(InputTooLong, match="input 1 has 12 tokens, the request allows 11") as raised:
        tokenizer.encode(["the", "the " * 10], max_tokens=11)
    assert raised.value.is_requested
    with pytest.raises(InputTooLong, match="the model takes 64"):
        tokenizer.encode(["the " * 100], max_tokens=100)
    with pytest.raises(InvalidOption, match=r"2 leave no room for text, as this model adds 2\. Send 3 or more\."):
        tokenizer.encode(["the"], truncate="end", max_tokens=2)
    ids = tokenizer.encode(["the " * 10])[0].ids
    assert tokenizer.check_ids([ids], truncate="end", max_tokens=1)[0].ids.tolist() == ids[:1].tolist()
