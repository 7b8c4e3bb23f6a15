"""EmbeddingGemma: a decoder whose tokens see both ways, and two dense layers behind it."""

from pathlib import Path
from typing import Unpack

from attrs import evolve

from provider.testing.tiny.folder import Tiny, TinyOptions, write_folder
from provider.testing.tiny.vocabularies import fallback_bpe


def tiny_gemma(path: Path, **options: Unpack[TinyOptions]) -> Path:
    """Write a Gemma 3 text encoder to `path`; a window is 16 tokens, in every other layer. See `Tiny`."""
    import transformers  # noqa: PLC0415 - seconds that only callers pay

    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    tiny = evolve(Tiny(prompts=prompts, dense=(64, 32), activation="Identity", bias=False), **options)
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokenizer = fallback_bpe(special, before="<bos>", after="<eos>", unknown="<unk>")
    config = transformers.Gemma3TextConfig(
        vocab_size=tokenizer.get_vocab_size(),
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
        max_position_embeddings=tiny.positions,
        sliding_window=16,
        layer_types=["full_attention" if i % 2 else "sliding_attention" for i in range(tiny.layers)],
        use_bidirectional_attention=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        **tiny.sizes,
    )
    tokens = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    adds = {"mask_token": "<mask>", "add_bos_token": True, "add_eos_token": True}
    about = {**tokens, **adds, "padding_side": "right", "tokenizer_class": "GemmaTokenizer"}
    return write_folder(path, tiny, transformers.Gemma3TextModel, config, tokenizer=tokenizer, tokenizer_config=about)
