"""Tiny random models on disk, for tests: real architectures, real tokenizers, real file formats, a few dozen kilobytes.

Each function writes a folder that sentence-transformers and this service read alike. The same arguments give the same
weights. torch, transformers and tokenizers are needed to call them, not to import this module.
"""

import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers
    import transformers

WORDS = tuple(
    "the a of and to in is was for on with as by at from it that this are be or an not have has his her their they we "
    "you one two three first new old more than some other time year day way man woman child world life work part place "
    "case week company system program question number night point home water room mother area money story fact month lot "
    "right study book eye job word business issue side kind head house service friend father power hour game line end "
    "member law car city name team minute idea body back face level office door health person art war history party "
    "result change morning reason research girl guy moment air teacher force education red green blue small large cat "
    "dog runs sleeps eats plays reads writes sings makes takes gives sees knows ing ed er est ly un re".split()
)
"""The words that the tokenizers know whole; everything else is spelt."""

_CLASSES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}


def tiny_bert(
    path: Path,
    *,
    layers: int = 2,
    hidden: int = 32,
    pooling: str | Sequence[str] = "mean",
    include_prompt: bool = True,
    dense: int | None = None,
    normalize: bool = True,
    prompts: Mapping[str, str] | None = None,
    default_prompt_name: str | None = None,
    max_seq_length: int = 64,
    positions: int = 128,
    plain: bool = False,
    seed: int = 0,
) -> Path:
    """Write a BERT encoder with a WordPiece tokenizer to `path`.

    Args:
        path: the folder; made if need be.
        layers: transformer layers.
        hidden: width of the hidden states, a multiple of 4.
        pooling: a mode, or several.
        include_prompt: whether prompt tokens are pooled.
        dense: width of a dense layer (with tanh) after pooling; None for none.
        normalize: whether the pipeline ends with Normalize.
        prompts: name to text.
        default_prompt_name: the prompt for inputs that choose none.
        max_seq_length: most tokens that sentence-transformers gives the model.
        positions: most tokens that the model has positions for.
        plain: write no sentence-transformers files, as transformers' `save_pretrained` does.
        seed: of the weights.

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
        steps = _steps(path, hidden, pooling, dense, normalize=normalize, include_prompt=include_prompt, seed=seed)
        _write_pipeline(path, steps, max_seq_length, prompts, default_prompt_name)
    return path


def tiny_roberta(
    path: Path,
    *,
    layers: int = 2,
    hidden: int = 32,
    pooling: str | Sequence[str] = "mean",
    dense: int | None = None,
    normalize: bool = True,
    prompts: Mapping[str, str] | None = None,
    max_seq_length: int | None = 64,
    positions: int = 128,
    plain: bool = False,
    seed: int = 0,
) -> Path:
    """Write an XLM-RoBERTa encoder with a byte-level BPE tokenizer to `path`: positions begin behind the padding id.

    Args:
        path: the folder; made if need be.
        layers: transformer layers.
        hidden: width of the hidden states, a multiple of 4.
        pooling: a mode, or several.
        dense: width of a dense layer (with tanh) after pooling; None for none.
        normalize: whether the pipeline ends with Normalize.
        prompts: name to text.
        max_seq_length: most tokens that sentence-transformers gives the model; None to say it in the tokenizer only.
        positions: most tokens that the model has positions for; its configuration says 2 more.
        plain: write no sentence-transformers files.
        seed: of the weights.

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
        steps = _steps(path, hidden, pooling, dense, normalize=normalize, include_prompt=True, seed=seed)
        _write_pipeline(path, steps, max_seq_length, prompts, None)
    return path


def tiny_decoder(
    path: Path,
    *,
    layers: int = 2,
    hidden: int = 32,
    pooling: str | Sequence[str] = "lasttoken",
    dense: int | None = None,
    normalize: bool = True,
    prompts: Mapping[str, str] | None = None,
    max_seq_length: int | None = None,
    positions: int = 256,
    plain: bool = False,
    seed: int = 0,
) -> Path:
    """Write a causal Qwen2 model with a byte-level BPE tokenizer to `path`; every text ends with an end token.

    Args:
        path: the folder; made if need be.
        layers: transformer layers.
        hidden: width of the hidden states, a multiple of 8.
        pooling: a mode, or several.
        dense: width of a dense layer (with tanh) after pooling; None for none.
        normalize: whether the pipeline ends with Normalize.
        prompts: name to text.
        max_seq_length: most tokens that sentence-transformers gives the model; None for what the tokenizer says.
        positions: most tokens that the model was made for.
        plain: write no sentence-transformers files.
        seed: of the weights.

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
        steps = _steps(path, hidden, pooling, dense, normalize=normalize, include_prompt=True, seed=seed)
        _write_pipeline(path, steps, max_seq_length, prompts, None)
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
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(special)
    return tokenizer


def _bytes(special: list[str], *, before: str | None, after: str) -> "tokenizers.Tokenizer":
    """Byte-level BPE whose merges join the words of `WORDS` letter by letter."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors  # noqa: PLC0415

    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    merges: dict[tuple[str, str], None] = {}
    for word in (f"\u0120{word}" for word in WORDS[:60]):  # U+0120 stands for the blank before a word
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
                    parameter.normal_(0.0, 0.15)
    state = {name: value.contiguous() for name, value in model.state_dict().items() if "position_ids" not in name}
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    config.architectures = [model_class.__name__]
    config.save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))


def _steps(
    path: Path,
    hidden: int,
    pooling: str | Sequence[str],
    dense: int | None,
    *,
    normalize: bool,
    include_prompt: bool,
    seed: int,
) -> list[str]:
    """Write the folders of the modules after the transformer; their class names in order."""
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    modes = [pooling] if isinstance(pooling, str) else list(pooling)
    width = hidden * len(modes)
    mode = modes[0] if len(modes) == 1 else modes
    about = {"embedding_dimension": hidden, "pooling_mode": mode, "include_prompt": include_prompt}
    _write(path / "1_Pooling" / "config.json", about)
    steps = ["Transformer", "Pooling"]
    if dense is not None:
        folder = path / f"{len(steps)}_Dense"
        activation = "torch.nn.modules.activation.Tanh"
        about = {"in_features": width, "out_features": dense, "bias": True, "activation_function": activation}
        _write(folder / "config.json", about)
        random = torch.Generator().manual_seed(seed + 1)
        weight = torch.randn(dense, width, generator=random) * width**-0.5
        bias = torch.randn(dense, generator=random) * 0.1
        save_file({"linear.weight": weight, "linear.bias": bias}, folder / "model.safetensors", metadata={"format": "pt"})
        steps.append("Dense")
    if normalize:
        steps.append("Normalize")
    return steps


def _write_pipeline(
    path: Path,
    steps: list[str],
    max_seq_length: int | None,
    prompts: Mapping[str, str] | None,
    default_prompt_name: str | None,
) -> None:
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{step}" if i else "", "type": _CLASSES[step]}
        for i, step in enumerate(steps)
    ]
    _write(path / "modules.json", modules)
    limit = {} if max_seq_length is None else {"max_seq_length": max_seq_length}
    _write(path / "sentence_bert_config.json", {**limit, "do_lower_case": False})
    about = {"prompts": dict(prompts or {}), "default_prompt_name": default_prompt_name, "similarity_fn_name": "cosine"}
    _write(path / "config_sentence_transformers.json", {"model_type": "SentenceTransformer", **about})


def _write(path: Path, document: Any) -> None:  # noqa: ANN401 - JSON
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")
