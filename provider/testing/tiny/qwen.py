"""Decoders of Qwen's kind: every token sees those before it, the last one holds the text."""

from pathlib import Path
from typing import Unpack

from attrs import evolve

from provider.testing.tiny.folder import Tiny, TinyOptions, write_folder
from provider.testing.tiny.vocabularies import byte_bpe

_END = "<|endoftext|>"
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen's texts fall into words (`PRETOKENIZE_REGEX` in transformers' models/qwen2/tokenization_qwen2.py)."""
_INSTRUCTION = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


def tiny_decoder(path: Path, **options: Unpack[TinyOptions]) -> Path:
    """Write a causal Qwen2 model to `path`; its tokenizer ends every text with an end token. See `Tiny`."""
    import transformers  # noqa: PLC0415

    tiny = evolve(Tiny(pooling="lasttoken", max_seq_length=None, positions=256), **options)
    tokenizer = byte_bpe([_END], before=None, after=_END)
    config = transformers.Qwen2Config(
        vocab_size=tokenizer.get_vocab_size(),
        num_key_value_heads=2,
        max_position_embeddings=tiny.positions,
        eos_token_id=0,
        **tiny.sizes,
    )
    about = {"eos_token": _END, "pad_token": _END, "padding_side": "left", "tokenizer_class": "PreTrainedTokenizerFast"}
    return write_folder(path, tiny, transformers.Qwen2Model, config, tokenizer=tokenizer, tokenizer_config=about)


def tiny_qwen3(path: Path, **options: Unpack[TinyOptions]) -> Path:
    """Write a causal Qwen3 model to `path`, as Qwen3-Embedding is: an instruction before queries. See `Tiny`."""
    import transformers  # noqa: PLC0415

    prompts = {"query": _INSTRUCTION, "document": ""}
    tiny = evolve(Tiny(pooling="lasttoken", max_seq_length=None, positions=256, prompts=prompts), **options)
    tokenizer = byte_bpe([_END, "<|im_start|>", "<|im_end|>"], before=None, after=_END, pattern=QWEN_WORDS)
    config = transformers.Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=tiny.positions,
        bos_token_id=0,
        eos_token_id=0,
        **tiny.sizes,
    )
    about = {"eos_token": _END, "pad_token": _END, "padding_side": "left", "tokenizer_class": "Qwen2Tokenizer"}
    model = transformers.Qwen3Model
    return write_folder(
        path, tiny, model, config, tokenizer=tokenizer, tokenizer_config=about, architecture="Qwen3ForCausalLM"
    )
