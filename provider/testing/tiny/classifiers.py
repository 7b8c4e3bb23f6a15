"""Cross-encoders and classifiers: this package's encoders with a classification head, and causal rerankers.

`tiny_classifier` writes what transformers saves, as ms-marco-MiniLM, bge-reranker or gte-reranker are;
`tiny_reranker` a causal model with a chat template for pairs, as Qwen3-Reranker and mxbai-rerank-v2 are.
`resave_cross_encoder` reads such a folder with sentence-transformers' CrossEncoder and lets it write its own files.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Unpack

from attrs import evolve

from provider.testing.tiny.bert import tiny_bert, tiny_distilbert
from provider.testing.tiny.folder import Tiny, TinyOptions, write_folder
from provider.testing.tiny.modernbert import tiny_modernbert
from provider.testing.tiny.qwen import QWEN_WORDS
from provider.testing.tiny.roberta import tiny_roberta, tiny_xlm_roberta
from provider.testing.tiny.vocabularies import byte_bpe, unigram

Activation = Literal["Identity", "Sigmoid", "Softmax"]

_LABELS = ("contradiction", "entailment", "neutral", "other")
_PATHS = {
    "Identity": "torch.nn.modules.linear.Identity",
    "Sigmoid": "torch.nn.modules.activation.Sigmoid",
    "Softmax": "torch.nn.modules.activation.Softmax",
}


def tiny_deberta(path: Path, **options: Unpack[TinyOptions]) -> Path:
    """Write a DeBERTa-v2 encoder with a Unigram tokenizer to `path`: attention by content and distance. See `Tiny`."""
    import transformers  # noqa: PLC0415 - seconds that only callers pay

    tiny = evolve(Tiny(), **options)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = unigram(special, before="[CLS]", after="[SEP]", unknown="[UNK]", last="[MASK]")
    # Some are attributes that its signature does not name.
    distances: dict[str, Any] = {"position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True}
    config = transformers.DebertaV2Config(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=tiny.positions,
        type_vocab_size=2,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        **distances,
        pad_token_id=0,
        **tiny.sizes,
    )
    tokens = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    about = {**tokens, "mask_token": "[MASK]", "tokenizer_class": "DebertaV2Tokenizer"}
    return write_folder(path, tiny, transformers.DebertaV2Model, config, tokenizer=tokenizer, tokenizer_config=about)


def _roberta(path: Path, **options: Unpack[TinyOptions]) -> Path:
    """RoBERTa with its own tokenizer's class, which puts two separators between the texts of a pair."""
    tiny_roberta(path, **options)
    _change(path / "tokenizer_config.json", tokenizer_class="RobertaTokenizer")
    around = {"sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True, "add_prefix_space": False}
    _change(path / "tokenizer.json", post_processor={"type": "RobertaProcessing", **around})
    return path


def _xlm_roberta(path: Path, **options: Unpack[TinyOptions]) -> Path:
    tiny_xlm_roberta(path, **options)
    pair = ["<s>", "A", "</s>", "</s>", "B", "</s>"]
    template = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))["post_processor"]
    template["pair"] = [{"Sequence" if name in "AB" else "SpecialToken": {"id": name, "type_id": 0}} for name in pair]
    _change(path / "tokenizer.json", post_processor=template)
    return path


TINY_CLASSIFIERS: Mapping[str, Callable[..., Path]] = MappingProxyType(
    {
        "bert": tiny_bert,
        "roberta": _roberta,
        "xlm-roberta": _xlm_roberta,
        "distilbert": tiny_distilbert,
        "deberta-v2": tiny_deberta,
        "modernbert": tiny_modernbert,
    }
)
"""Family to a function that writes its encoder."""


def tiny_classifier(
    path: Path,
    family: str = "bert",
    *,
    labels: int = 1,
    activation_fn: Activation | None = None,
    legacy_key: bool = False,
    **options: Unpack[TinyOptions],
) -> Path:
    """Write an encoder with a sequence classification head to `path`, without files of sentence-transformers.

    Args:
        path: the folder; made if need be.
        family: a key of `TINY_CLASSIFIERS`.
        labels: number of logits; one makes a reranker. Several have names.
        activation_fn: what `config.json` says that CrossEncoder puts on logits; None for its default.
        legacy_key: say so as releases before 4.0 did.
        options: see `Tiny`.

    Returns:
        `path`.
    """
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    TINY_CLASSIFIERS[family](path, **options, plain=True)
    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    names = dict(enumerate(("LABEL_0",) if labels == 1 else _LABELS[:labels]))
    config.id2label, config.label2id = names, {name: i for i, name in names.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.get("seed", 0))
        model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                # The bias of a head is 0 as initialised, which would hide that it is not read.
                parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.2)
    state = {name: value.contiguous() for name, value in model.state_dict().items() if "position_ids" not in name}
    save_file(state, path / "model.safetensors", {"format": "pt"})
    about: dict[str, Any] = {}
    if activation_fn is not None:
        where = _PATHS[activation_fn]
        about = (
            {"sbert_ce_default_activation_function": where}
            if legacy_key
            else {"sentence_transformers": {"activation_fn": where, "version": "4.1.0"}}
        )
    labelled = {"id2label": {str(i): name for i, name in names.items()}, "label2id": config.label2id}
    _change(path / "config.json", architectures=[type(model).__name__], **labelled, **about)
    return path


_END = "<|endoftext|>"
_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_QWEN3_TEMPLATE = """\
{%- set ns = namespace(instruction="INSTRUCTION", query="", document="") -%}
{%- for message in messages -%}
{%- if message.role == "system" %}{% set ns.instruction = message.content %}{% endif -%}
{%- if message.role == "query" %}{% set ns.query = message.content %}{% endif -%}
{%- if message.role == "document" %}{% set ns.document = message.content %}{% endif -%}
{%- endfor -%}
<|im_start|>system
Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer \
can only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: {{ ns.instruction }}
<Query>: {{ ns.query }}
<Document>: {{ ns.document }}<|im_end|>
<|im_start|>assistant
<think>

</think>

{{ "" }}""".replace("INSTRUCTION", _INSTRUCTION)
_MXBAI_TEMPLATE = """\
{%- set query = messages | selectattr("role", "eq", "query") | map(attribute="content") | first -%}
{%- set document = messages | selectattr("role", "eq", "document") | map(attribute="content") | first -%}
{%- set system = messages | selectattr("role", "eq", "system") | map(attribute="content") | list -%}
<|im_start|>user
{% if system %}instruction: {{ system[0] }}
{% endif %}query: {{ query }}
document: {{ document }}
You are a search relevance expert who evaluates how well documents match search queries. For each query-document pair, \
carefully analyze the semantic relationship between them, then provide your binary relevance judgment (0 for not \
relevant, 1 for relevant).
Relevance:<|im_end|>
<|im_start|>assistant
{{ "" }}"""


def tiny_reranker(path: Path, family: Literal["qwen3", "mxbai"] = "qwen3", **options: Unpack[TinyOptions]) -> Path:
    """Write a causal model with a chat template for a query and a document to `path`, as transformers saves it.

    Args:
        path: the folder; made if need be.
        family: `qwen3`: as Qwen3-Reranker, answering `yes` or `no`; `mxbai`: as mxbai-rerank-v2 (Qwen2), `1` or `0`.
        options: see `Tiny`.

    Returns:
        `path`.
    """
    import transformers  # noqa: PLC0415

    tiny = evolve(evolve(Tiny(positions=512), **options), plain=True)
    tokenizer = byte_bpe(
        [_END, "<|im_start|>", "<|im_end|>"], before=None, after=None, pattern=QWEN_WORDS, more=("yes", "no")
    )
    sizes: dict[str, Any] = {"vocab_size": tokenizer.get_vocab_size(), "num_key_value_heads": 2, **tiny.sizes}
    ids: dict[str, Any] = {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "max_position_embeddings": tiny.positions,
    }
    about = {"eos_token": _END, "pad_token": _END, "padding_side": "left", "tokenizer_class": "Qwen2Tokenizer"}
    config: transformers.PretrainedConfig
    kind: type[transformers.PreTrainedModel]
    if family == "qwen3":
        config = transformers.Qwen3Config(head_dim=16, tie_word_embeddings=True, **sizes, **ids)
        kind, template = transformers.Qwen3ForCausalLM, _QWEN3_TEMPLATE
    else:
        config = transformers.Qwen2Config(tie_word_embeddings=False, **sizes, **ids)
        kind, template = transformers.Qwen2ForCausalLM, _MXBAI_TEMPLATE
    write_folder(path, tiny, kind, config, tokenizer=tokenizer, tokenizer_config=about)
    (path / "chat_template.jinja").write_text(template, encoding="utf-8")
    return path


def resave_cross_encoder(
    source: Path,
    path: Path,
    *,
    true_token: str | None = None,
    false_token: str | None = None,
    prompts: Mapping[str, str] | None = None,
    default_prompt_name: str | None = None,
    **options: Any,  # noqa: ANN401 - CrossEncoder's own
) -> Path:
    """Read `source` with sentence-transformers' CrossEncoder and save it to `path`, with `modules.json`.

    Args:
        source: a folder of `tiny_classifier` or `tiny_reranker`.
        path: the folder to write.
        true_token: for causal models: the token of a match; None for CrossEncoder's own (`yes` and `no`).
        false_token: the token of no match; with `true_token` alone the score is one logit.
        prompts: name to text.
        default_prompt_name: the prompt for pairs that choose none.
        options: CrossEncoder's other arguments.

    Returns:
        `path`.
    """
    from sentence_transformers import CrossEncoder  # noqa: PLC0415
    from sentence_transformers.base.modules import Transformer  # noqa: PLC0415
    from sentence_transformers.cross_encoder.modules import LogitScore  # noqa: PLC0415

    more: dict[str, Any] = {"prompts": dict(prompts or {}), "default_prompt_name": default_prompt_name, **options}
    if true_token is None:
        model = CrossEncoder(str(source), device="cpu", local_files_only=True, **more)
    else:
        transformer: Any = Transformer(str(source), transformer_task="text-generation")
        scored = LogitScore(
            transformer.tokenizer.convert_tokens_to_ids(true_token),
            None if false_token is None else transformer.tokenizer.convert_tokens_to_ids(false_token),
        )
        model = CrossEncoder(modules=[transformer, scored], device="cpu", **more)
    model.save_pretrained(str(path), create_model_card=False)
    return path


def _change(path: Path, **values: object) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, **values}, indent=2), encoding="utf-8")
