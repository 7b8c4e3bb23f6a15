"""T5: the encoder half alone, positions as distances."""

from pathlib import Path
from typing import Unpack

from attrs import evolve

from provider.testing.tiny.folder import Tiny, TinyOptions, write_folder
from provider.testing.tiny.vocabularies import unigram


def tiny_t5(path: Path, **options: Unpack[TinyOptions]) -> Path:
    """Write a T5 encoder to `path`, as sentence-t5 and gtr are, with their dense layer. See `Tiny`."""
    import transformers  # noqa: PLC0415 - seconds that only callers pay

    tiny = evolve(Tiny(dense=24, activation="Identity", bias=False), **options)
    tokenizer = unigram(["<pad>", "</s>", "<unk>"], before=None, after="</s>", unknown="<unk>")
    config = transformers.T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=tiny.hidden,
        d_kv=8,
        d_ff=2 * tiny.hidden,
        num_layers=tiny.layers,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=1,
    )
    tokens = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    about = {**tokens, "extra_ids": 0, "tokenizer_class": "T5Tokenizer"}
    return write_folder(path, tiny, transformers.T5EncoderModel, config, tokenizer=tokenizer, tokenizer_config=about)
