"""Tiny random models on disk, for tests: real architectures, real tokenizers, real file formats, a few dozen kilobytes.

Each function writes a folder that sentence-transformers and this service read alike. The same arguments give the same
weights. torch, transformers and tokenizers are needed to call them, not to import this module.
"""

import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

if TYPE_CHECKING:
    import tokenizers
    import transformers

WORDS = tuple(
    """
    the a of and to in is was for on with as by at from it that this are be or an not have has his her their they we
    you one two three first new old more than some other time year day way man woman child world life work part place
    case week company system program question number large cat dog runs sleeps eats plays reads writes sings makes
    takes gives sees knows ing ed er est ly un re
    """.split()  # noqa: SIM905 - so many quoted words are hard to read
)
"""The words that the tokenizers know whole; everything else is spelt."""

_CLASSES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}


class TinyPipeline(TypedDict, total=False):
    """What follows the transformer.

    Attributes:
        pooling: a mode, or several; the mean, or for a decoder the last token, if not given.
        include_prompt: whether prompt tokens are pooled; True if not given.
        dense: width of a dense layer (with tanh) after pooling; no such layer if not given.
        normalize: whether the pipeline ends with Normalize; True if not given.
        prompts: name to text.
        default_prompt_name: the prompt for inputs that choose none.
    """

    pooling: str | Sequence[str]
    include_prompt: bool
    dense: int | None
    normalize: bool
    prompts: Mapping[str, str] | None
    default_prompt_name: str | None


def tiny_bert(
    path: Path,
    *,
    layers: int = 2,
    hidden: int = 32,
    max_seq_length: int | None = 64,
    positions: int = 128,
    plain: bool = False,
    seed: int = 0,
    **pipeline: Unpack[TinyPipeline],
) -> Path:
    """Write a BERT encoder with a WordPiece tokenizer to `path`.

    Args:
        path: the folder; made if need be.
        layers: transformer layers.
        hidden: width of the hidden states, a multiple of 4.
        max_seq_length: most tokens that sentence-transformers gives the model; None for what the tokenizer says.
        positions: most tokens that the model has positions for, and that its tokenizer gives.
        plain: write no sentence-transformers files, as transformers' `save_pretrained` does.
        seed: of the weights.
        pipeline: as in `TinyPipeline`.

    Returns:
        `path`.
    """
    import transformers  # noqa: PLC0415 - seconds that only callers pay

    tokenizer = _wordpiece()
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=positions,
        pad_token_id=0,
    )
    _save(path, transformers.BertModel, config, tokenizer, seed)
    tokens = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    more = {"mask_token": "[MASK]", "do_lower_case": True, "tokenizer_class": "BertTokenizer"}
    _write(path / "tokenizer_config.json", {**tokens, **more, "model_max_length": positions})
    if not plain:
        _write_pipeline(path, hidden, max_seq_length, seed, pipeline)
    return path


def tiny_roberta(
    path: Path,
    *,
    layers: int = 2,
    hidden: int = 32,
    max_seq_length: int | None = 64,
    positions: int = 128,
    plain: bool = False,
    seed: int = 0,
    **pipeline: Unpack[TinyPipeline],
) -> Path:
    """Write a RoBERTa encoder with a byte-level BPE tokenizer to `path`: positions begin behind the padding id.

    Args:
        path: the folder; made if need be.
        layers: transformer layers.
        hidden: width of the hidden states, a multiple of 4.
        max_seq_length: as for `tiny_bert`.
        positions: most tokens that the model has positions for; its configuration says 2 more.
        plain: write no sentence-transformers files.
        seed: of the weights.
        pipeline: as in `TinyPipeline`.

    Returns:
        `path`.
    """
    import transformers  # noqa: PLC0415

    tokenizer = _bytes(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], before="<s>", after="</s>")
    config = transformers.RobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=positions + 2,
        type_vocab_size=1,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    _save(path, transformers.RobertaModel, config, tokenizer, seed)
    tokens = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    more = {"unk_token": "<unk>", "mask_token": "<mask>", "tokenizer_class": "PreTrainedTokenizerFast"}
    _write(path / "tokenizer_config.json", {**tokens, **more, "model_max_length": positions})
    if not plain:
        _write_pipeline(path, hidden, max_seq_length, seed, pipeline)
    return path


def tiny_decoder(
    path: Path,
    *,
    layers: int = 2,
    hidden: int = 32,
    max_seq_length: int | None = None,
    positions: int = 256,
    plain: bool = False,
    seed: int = 0,
    **pipeline: Unpack[TinyPipeline],
) -> Path:
    """Write a causal Qwen2 model with a byte-level BPE tokenizer to `path`; every text ends with an end token.

    Args:
        path: the folder; made if need be.
        layers: transformer layers.
        hidden: width of the hidden states, a multiple of 8.
        max_seq_length: as for `tiny_bert`.
        positions: most tokens that the model was made for.
        plain: write no sentence-transformers files.
        seed: of the weights.
        pipeline: as in `TinyPipeline`.

    Returns:
        `path`.
    """
    import transformers  # noqa: PLC0415

    tokenizer = _bytes(["<|endoftext|>"], before=None, after="<|endoftext|>")
    config = transformers.Qwen2Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=positions,
        eos_token_id=0,
    )
    _save(path, transformers.Qwen2Model, config, tokenizer, seed)
    tokens = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "padding_side": "left"}
    more = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": positions}
    _write(path / "tokenizer_config.json", {**tokens, **more})
    if not plain:
        last: TinyPipeline = {"pooling": "lasttoken", **pipeline}
        _write_pipeline(path, hidden, max_seq_length, seed, last)
    return path


def _wordpiece() -> "tokenizers.Tokenizer":
    """Lower-cased words of `WORDS`, everything else in letters."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors  # noqa: PLC0415

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = list(string.ascii_lowercase + string.digits)
    spelt = [*characters, *(f"##{each}" for each in characters), *string.punctuation]
    known = [*special, *dict.fromkeys([*spelt, *WORDS, *(f"##{word}" for word in WORDS if len(word) < 4)])]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(known))}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))  # noqa: S106 - a token of another kind
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.add_special_tokens(special)
    return tokenizer


def _bytes(special: list[str], *, before: str | None, after: str) -> "tokenizers.Tokenizer":
    """Byte-level BPE whose merges join the words of `WORDS` letter by letter."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors  # noqa: PLC0415

    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    merges: dict[tuple[str, str], None] = {}
    for word in (f"\u0120{word}" for word in WORDS):  # U+0120 stands for the blank before a word
        for end in range(1, len(word)):
            merges.setdefault((word[:end], word[end]))
            vocabulary.setdefault(word[: end + 1], len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = [(token, vocabulary[token]) for token in dict.fromkeys((before or after, after))]
    start = f"{before} " if before else ""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start}$A {after}", pair=f"{start}$A {after} $B {after}", special_tokens=ends
    )
    tokenizer.add_special_tokens(special)
    return tokenizer


def _save(
    path: Path,
    model_class: "type[transformers.PreTrainedModel]",
    config: "transformers.PretrainedConfig",
    tokenizer: "tokenizers.Tokenizer",
    seed: int,
) -> None:
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    path.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).eval()
        # Random weights as initialised leave texts almost equal; wider ones tell them apart.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.2)
    state = {name: value.contiguous() for name, value in model.state_dict().items() if "position_ids" not in name}
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    config.architectures = [model_class.__name__]
    config.save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))


def _write_pipeline(path: Path, hidden: int, max_seq_length: int | None, seed: int, about: TinyPipeline) -> None:
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    asked, dense = about.get("pooling", "mean"), about.get("dense")
    modes = [asked] if isinstance(asked, str) else list(asked)
    width = hidden * len(modes)
    pooling = {"embedding_dimension": hidden, "pooling_mode": modes[0] if len(modes) == 1 else modes}
    _write(path / "1_Pooling" / "config.json", {**pooling, "include_prompt": about.get("include_prompt", True)})
    steps = ["Transformer", "Pooling"]
    if dense is not None:
        folder = path / "2_Dense"
        activation = "torch.nn.modules.activation.Tanh"
        shape = {"in_features": width, "out_features": dense, "bias": True}
        _write(folder / "config.json", {**shape, "activation_function": activation})
        random = torch.Generator().manual_seed(seed + 1)
        weight = torch.randn(dense, width, generator=random) * width**-0.5
        layer = {"linear.weight": weight, "linear.bias": torch.randn(dense, generator=random) * 0.1}
        save_file(layer, folder / "model.safetensors", metadata={"format": "pt"})
        steps.append("Dense")
    if about.get("normalize", True):
        steps.append("Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{step}" if i else "", "type": _CLASSES[step]}
        for i, step in enumerate(steps)
    ]
    _write(path / "modules.json", modules)
    limit = {} if max_seq_length is None else {"max_seq_length": max_seq_length}
    _write(path / "sentence_bert_config.json", {**limit, "do_lower_case": False})
    prompts = {"prompts": dict(about.get("prompts") or {}), "default_prompt_name": about.get("default_prompt_name")}
    kind = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"}
    _write(path / "config_sentence_transformers.json", {**kind, **prompts})


def _write(path: Path, document: Any) -> None:  # noqa: ANN401 - JSON
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")
