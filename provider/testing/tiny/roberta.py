"""RoBERTa and its kin: positions begin behind the padding id."""

from pathlib import Path
from typing import Unpack

from attrs import evolve

from provider.testing.tiny.folder import Tiny, TinyOptions, write_folder
from provider.testing.tiny.vocabularies import byte_bpe, unigram, wordpiece

_TOKENS = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}


def tiny_roberta(path: Path, **options: Unpack[TinyOptions]) -> Path:
    """Write a RoBERTa encoder with a byte-level BPE tokenizer to `path`; its configuration says 2 positions more."""
    import transformers  # noqa: PLC0415

    tiny = evolve(Tiny(), **options)
    tokenizer = byte_bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], before="<s>", after="</s>")
    config = transformers.RobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=tiny.positions + 2,
        type_vocab_size=1,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        **tiny.sizes,
    )
    about = {**_TOKENS, "tokenizer_class": "PreTrainedTokenizerFast"}
    return write_folder(path, tiny, transformers.RobertaModel, config, tokenizer=tokenizer, tokenizer_config=about)


def tiny_xlm_roberta(path: Path, **options: Unpack[TinyOptions]) -> Path:
    """Write an XLM-RoBERTa encoder with a Unigram tokenizer to `path`, as multilingual-e5 is. See `Tiny`."""
    import transformers  # noqa: PLC0415

    tiny = evolve(Tiny(prompts={"query": "query: ", "passage": "passage: "}), **options)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = unigram(special, before="<s>", after="</s>", unknown="<unk>", last="<mask>")
    config = transformers.XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=tiny.positions + 2,
        type_vocab_size=1,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        **tiny.sizes,
    )
    about = {**_TOKENS, "tokenizer_class": "XLMRobertaTokenizer"}
    return write_folder(path, tiny, transformers.XLMRobertaModel, config, tokenizer=tokenizer, tokenizer_config=about)


def tiny_mpnet(path: Path, **options: Unpack[TinyOptions]) -> Path:
    """Write an MPNet encoder to `path`, as all-mpnet-base-v2 is: attention is biased by distance. See `Tiny`."""
    import transformers  # noqa: PLC0415

    tiny = evolve(Tiny(), **options)
    special = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"]
    tokenizer = wordpiece(special, before="<s>", after="</s>", unknown="[UNK]")
    config = transformers.MPNetConfig(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=tiny.positions + 2,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        **tiny.sizes,
    )
    about = {**_TOKENS, "unk_token": "[UNK]", "do_lower_case": True, "tokenizer_class": "MPNetTokenizer"}
    return write_folder(path, tiny, transformers.MPNetModel, config, tokenizer=tokenizer, tokenizer_config=about)


def tiny_gte(path: Path, **options: Unpack[TinyOptions]) -> Path:
    """Write a GTE encoder to `path`, as gte-multilingual is: rotary positions, XLM-RoBERTa's tokenizer. See `Tiny`."""
    import transformers  # noqa: PLC0415

    tiny = evolve(Tiny(pooling="cls"), **options)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = unigram(special, before="<s>", after="</s>", unknown="<unk>", last="<mask>")
    config = transformers.GteConfig(
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=tiny.positions, pad_token_id=1, **tiny.sizes
    )
    about = {**_TOKENS, "tokenizer_class": "XLMRobertaTokenizer"}
    return write_folder(path, tiny, transformers.GteModel, config, tokenizer=tokenizer, tokenizer_config=about)
