"""BERT and its closest kin: WordPiece, positions from 0."""

from pathlib import Path
from typing import Unpack

from attrs import evolve

from provider.testing.tiny.folder import Tiny, TinyOptions, write_folder
from provider.testing.tiny.vocabularies import wordpiece

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
    "do_lower_case": True,
}


def tiny_bert(path: Path, **options: Unpack[TinyOptions]) -> Path:
    """Write a BERT encoder to `path`, as all-MiniLM, bge or e5 are. Options: see `Tiny`."""
    import transformers  # noqa: PLC0415

    tiny = evolve(Tiny(), **options)
    tokenizer = wordpiece(_SPECIAL, before="[CLS]", after="[SEP]", unknown="[UNK]")
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=tiny.positions, pad_token_id=0, **tiny.sizes
    )
    about = {**_TOKENS, "tokenizer_class": "BertTokenizer"}
    return write_folder(path, tiny, transformers.BertModel, config, tokenizer=tokenizer, tokenizer_config=about)


def tiny_distilbert(path: Path, **options: Unpack[TinyOptions]) -> Path:
    """Write a DistilBERT encoder to `path`: BERT without segments, its sizes under other names. See `Tiny`."""
    import transformers  # noqa: PLC0415

    tiny = evolve(Tiny(), **options)
    tokenizer = wordpiece(_SPECIAL, before="[CLS]", after="[SEP]", unknown="[UNK]")
    config = transformers.DistilBertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        dim=tiny.hidden,
        n_layers=tiny.layers,
        n_heads=4,
        hidden_dim=2 * tiny.hidden,
        max_position_embeddings=tiny.positions,
        pad_token_id=0,
    )
    about = {**_TOKENS, "tokenizer_class": "DistilBertTokenizer"}
    return write_folder(path, tiny, transformers.DistilBertModel, config, tokenizer=tokenizer, tokenizer_config=about)


def tiny_nomic(path: Path, **options: Unpack[TinyOptions]) -> Path:
    """Write a NomicBERT encoder to `path`, as nomic-embed-text is: rotary positions, gated layers. See `Tiny`."""
    import transformers  # noqa: PLC0415

    prompts = {"query": "search_query: ", "document": "search_document: "}
    tiny = evolve(Tiny(prompts=prompts), **options)
    tokenizer = wordpiece(_SPECIAL, before="[CLS]", after="[SEP]", unknown="[UNK]")
    config = transformers.NomicBertConfig(
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=tiny.positions, pad_token_id=0, **tiny.sizes
    )
    about = {**_TOKENS, "tokenizer_class": "BertTokenizer"}
    return write_folder(path, tiny, transformers.NomicBertModel, config, tokenizer=tokenizer, tokenizer_config=about)
