"""ModernBERT: rotary positions, and layers that see a window of the text only."""

from pathlib import Path
from typing import Unpack

from attrs import evolve

from provider.testing.tiny.folder import Tiny, TinyOptions, write_folder
from provider.testing.tiny.vocabularies import byte_bpe

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tiny_modernbert(path: Path, **options: Unpack[TinyOptions]) -> Path:
    """Write a ModernBERT encoder to `path`; its windows are 16 tokens, so that texts exceed them. See `Tiny`."""
    import transformers  # noqa: PLC0415 - seconds that only callers pay

    tiny = evolve(Tiny(), **options)
    tokenizer = byte_bpe(_SPECIAL, before="[CLS]", after="[SEP]")
    config = transformers.ModernBertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=tiny.positions,
        local_attention=16,
        layer_types=["sliding_attention" if i % 2 else "full_attention" for i in range(tiny.layers)],
        pad_token_id=0,
        bos_token_id=2,
        cls_token_id=2,
        eos_token_id=3,
        sep_token_id=3,
        **tiny.sizes,
    )
    tokens = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    about = {**tokens, "mask_token": "[MASK]", "tokenizer_class": "PreTrainedTokenizerFast"}
    return write_folder(path, tiny, transformers.ModernBertModel, config, tokenizer=tokenizer, tokenizer_config=about)
