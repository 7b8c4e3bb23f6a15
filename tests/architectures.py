"""Tiny models of many architectures, and what becomes of each when it is served.

`docs/reference/architectures.md` is the table of it: `scripts/architectures-table` prints it, and a test compares them.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from attrs import field, frozen
from sentence_transformers import SentenceTransformer
from tokenizers import processors

from provider.domain import EmbedRequest
from provider.engine.engine import Engine
from provider.engine.finding import find_model
from provider.engine.loading import load_parts
from provider.errors import ProviderError
from provider.settings import CacheSettings, ModelSettings, Settings
from provider.testing import tiny
from provider.testing.tiny.folder import Tiny, write_folder
from provider.testing.tiny.vocabularies import wordpiece

TEXTS = (
    "a cat",
    "The quick brown fox jumps over the lazy dog, and over the fence behind it.",
    "?",
    "the same the same the same",
    "one two three new old day way work",
    "This is a long text, of more than every limit. " * 8,
)
PROMPT = "find this: "
LEAST_COSINE = 0.9999
WAYS = {"any": "rows of any length", "equal_length": "rows of equal length", "none": "one row at a time"}

_BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_ROBERTA = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]


@frozen
class Architecture:
    """One kind of model.

    Attributes:
        build: writes a tiny model of it to a folder.
        models: some that people know.
    """

    build: Callable[[Path], object]
    models: str = field(default="")


def generic(
    name: str,
    *,
    pooling: str = "mean",
    roberta: bool = False,
    encoder: str = "",
    halves: Mapping[str, Any] | None = None,
    first_type: int = 0,
    **sizes: Any,
) -> Any:
    """A builder for the base class of `name` (as transformers' classes begin), with a tokenizer of BERT's kind.

    Args:
        name: of the family.
        pooling: of the hidden states.
        roberta: whether special tokens have RoBERTa's ids.
        encoder: the class of an encoder-decoder's encoder, where it is saved alone.
        halves: the configuration of encoder and decoder, where each has its own.
        first_type: the token type of the first special token.
        sizes: of the configuration.
    """

    def build(path: Path) -> Path:
        special = _ROBERTA if roberta else _BERT
        before, after = (special[0], special[2]) if roberta else (special[2], special[3])
        tokenizer = wordpiece(special, before=before, after=after, unknown="[UNK]")
        if first_type:
            known = [(token, tokenizer.token_to_id(token)) for token in (before, after)]
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{before}:{first_type} $A:0 {after}:0", special_tokens=known
            )
        about = {"pad_token": special[1 if roberta else 0], "unk_token": "[UNK]", "cls_token": before}
        about |= {"sep_token": after, "tokenizer_class": "PreTrainedTokenizerFast"}
        ids: dict[str, Any] = (
            {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2} if roberta else {"pad_token_id": 0}
        )
        if halves is not None:
            ids |= {half: dict(halves) for half in ("encoder", "decoder")}
        config = getattr(transformers, f"{name}Config")(vocab_size=tokenizer.get_vocab_size(), **{**ids, **sizes})
        options = Tiny(pooling=pooling, max_seq_length=64)
        model = _encoder(name, encoder) if encoder else getattr(transformers, f"{name}Model")
        return write_folder(path, options, model, config, tokenizer=tokenizer, tokenizer_config=about)

    return build


def _encoder(name: str, encoder: str) -> Any:
    """An encoder's class, which transformers does not always export."""
    module = getattr(transformers, f"{name}PreTrainedModel").__module__
    return getattr(__import__(module, fromlist=[encoder]), encoder)


_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}
_BEHIND_PAD = {**_SIZES, "max_position_embeddings": 130, "type_vocab_size": 1, "roberta": True}
_HALVES: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 2,
}
_T5: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
_T5 |= {"eos_token_id": 3, "decoder_start_token_id": 0}
_XLM: dict[str, Any] = {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 128, "pad_index": 0}
_GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "pooling": "lasttoken"}
_LLAMA = {**_SIZES, "num_key_value_heads": 2, "pooling": "lasttoken"}

_GEMMA: dict[str, Any] = {**_SIZES, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 256}

ARCHITECTURES: Mapping[str, Architecture] = {
    # Encoders
    "BERT": Architecture(tiny.tiny_bert, "all-MiniLM, bge, e5, gte-small to gte-large"),
    "DistilBERT": Architecture(tiny.tiny_distilbert, "msmarco-distilbert, distiluse"),
    "RoBERTa": Architecture(tiny.tiny_roberta, "all-distilroberta, all-roberta-large"),
    "XLM-RoBERTa": Architecture(tiny.tiny_xlm_roberta, "multilingual-e5, bge-m3 (dense), arctic-embed-l-v2.0"),
    "XLM-RoBERTa-XL": Architecture(generic("XLMRobertaXL", **_BEHIND_PAD)),
    "RoBERTa-PreLayerNorm": Architecture(generic("RobertaPreLayerNorm", **_BEHIND_PAD)),
    "CamemBERT": Architecture(generic("Camembert", **_BEHIND_PAD), "sentence-camembert"),
    "Data2Vec text": Architecture(generic("Data2VecText", **_BEHIND_PAD)),
    "MPNet": Architecture(tiny.tiny_mpnet, "all-mpnet-base, multi-qa-mpnet"),
    "ModernBERT": Architecture(tiny.tiny_modernbert, "gte-modernbert, granite-embedding-r2"),
    "NomicBERT": Architecture(tiny.tiny_nomic, "nomic-embed-text"),
    "GTE": Architecture(tiny.tiny_gte, "gte-multilingual, gte-en-v1.5, arctic-embed-m-v2.0"),
    "Jina embeddings v3": Architecture(
        generic("JinaEmbeddingsV3", **{**_BEHIND_PAD, "max_position_embeddings": 128}), "jina-embeddings-v3"
    ),
    "EuroBERT": Architecture(generic("EuroBert", **_SIZES, num_key_value_heads=4), "EuroBERT"),
    "ALBERT": Architecture(generic("Albert", **_SIZES, embedding_size=16), "paraphrase-albert"),
    "ELECTRA": Architecture(generic("Electra", **_SIZES, embedding_size=16)),
    "DeBERTa": Architecture(
        generic("Deberta", **_SIZES, relative_attention=True, pos_att_type="c2p|p2c", max_relative_positions=-1)
    ),
    "DeBERTa v2, v3": Architecture(
        generic("DebertaV2", **_SIZES, relative_attention=True, pos_att_type="c2p|p2c", position_buckets=16,
                norm_rel_ebd="layer_norm", share_att_key=True)
    ),
    "ERNIE": Architecture(generic("Ernie", **_SIZES)),
    "MegatronBERT": Architecture(generic("MegatronBert", **_SIZES)),
    "MobileBERT": Architecture(
        generic("MobileBert", **{**_SIZES, "hidden_size": 32}, embedding_size=16, intra_bottleneck_size=16,
                num_feedforward_networks=2)
    ),
    "RemBERT": Architecture(generic("RemBert", **_SIZES, input_embedding_size=16, output_embedding_size=16)),
    "RoFormer": Architecture(generic("RoFormer", **_SIZES, embedding_size=32)),
    "RoCBert": Architecture(
        generic("RoCBert", **_SIZES, enable_pronunciation=False, enable_shape=False)
    ),
    "I-BERT": Architecture(generic("IBert", **_BEHIND_PAD)),
    "SqueezeBERT": Architecture(generic("SqueezeBert", **_SIZES, embedding_size=32)),
    "ConvBERT": Architecture(generic("ConvBert", **_SIZES, embedding_size=32, head_ratio=2, conv_kernel_size=3)),
    "FNet": Architecture(
        generic("FNet", hidden_size=32, num_hidden_layers=2, intermediate_size=64, max_position_embeddings=128)
    ),
    "Nystromformer": Architecture(
        generic("Nystromformer", **_SIZES, num_landmarks=8, segment_means_seq_len=8, conv_kernel_size=3)
    ),
    "YOSO": Architecture(generic("Yoso", **{**_SIZES, "max_position_embeddings": 130})),
    "MRA": Architecture(generic("Mra", **{**_SIZES, "max_position_embeddings": 130})),
    "Longformer": Architecture(generic("Longformer", **_BEHIND_PAD, attention_window=8)),
    "BigBird": Architecture(generic("BigBird", **_SIZES, attention_type="original_full")),
    "BigBird, block-sparse": Architecture(
        generic("BigBird", **_SIZES, attention_type="block_sparse", block_size=16, num_random_blocks=1)
    ),
    "Reformer": Architecture(
        generic("Reformer", hidden_size=32, num_attention_heads=4, attention_head_size=8, feed_forward_size=64,
                attn_layers=["local", "local"], axial_pos_shape=[8, 16], axial_pos_embds_dim=[16, 16],
                max_position_embeddings=128, local_attn_chunk_length=8, is_decoder=False)
    ),
    "Funnel": Architecture(
        generic("Funnel", first_type=2, d_model=32, n_head=4, d_head=8, d_inner=64, block_sizes=[1, 1],
                num_decoder_layers=1)
    ),
    "XLNet": Architecture(generic("XLNet", first_type=2, d_model=32, n_layer=2, n_head=4, d_inner=64)),
    "XLM": Architecture(generic("XLM", **_XLM)),
    "FlauBERT": Architecture(generic("Flaubert", **_XLM)),
    "X-MOD": Architecture(generic("Xmod", **_BEHIND_PAD, languages=["en_XX"], default_language="en_XX")),
    "LUKE": Architecture(generic("Luke", **_BEHIND_PAD, entity_vocab_size=8, entity_emb_size=16)),
    "Splinter": Architecture(generic("Splinter", **_SIZES)),
    "LayoutLM": Architecture(generic("LayoutLM", **_SIZES)),
    "Canine": Architecture(generic("Canine", **_SIZES)),
    "Perceiver": Architecture(generic("Perceiver", d_model=32, d_latents=32, num_latents=8, num_blocks=1)),
    "BERT for generation": Architecture(generic("BertGeneration", encoder="BertGenerationEncoder", **_SIZES)),
    # Encoder-decoders
    "T5": Architecture(tiny.tiny_t5, "sentence-t5, gtr"),
    "mT5": Architecture(generic("MT5", encoder="MT5EncoderModel", **_T5)),
    "UMT5": Architecture(generic("UMT5", encoder="UMT5EncoderModel", **_T5)),
    "LongT5": Architecture(generic("LongT5", encoder="LongT5EncoderModel", **_T5, local_radius=8)),
    "LongT5, transient global": Architecture(
        generic("LongT5", encoder="LongT5EncoderModel", **_T5, local_radius=8, global_block_size=4,
                encoder_attention_type="transient-global")
    ),
    "SwitchTransformers": Architecture(
        generic("SwitchTransformers", encoder="SwitchTransformersEncoderModel", **_T5, num_experts=4,
                num_sparse_encoder_layers=1, num_decoder_layers=2, num_sparse_decoder_layers=1, expert_capacity=64)
    ),
    "T5Gemma": Architecture(
        generic("T5Gemma", encoder="T5GemmaEncoderModel", halves=_GEMMA, is_encoder_decoder=False)
    ),
    "M2M100": Architecture(generic("M2M100", encoder="M2M100Encoder", **_HALVES)),
    "M2M100, whole": Architecture(generic("M2M100", **_HALVES)),
    "Pegasus": Architecture(generic("Pegasus", encoder="PegasusEncoder", **_HALVES)),
    "Pegasus, whole": Architecture(generic("Pegasus", **_HALVES)),
    "PegasusX": Architecture(
        generic("PegasusX", encoder="PegasusXEncoder", **_HALVES, num_global_tokens=4, block_size=16)
    ),
    "Marian": Architecture(generic("Marian", encoder="MarianEncoder", **_HALVES)),
    "Blenderbot": Architecture(generic("Blenderbot", encoder="BlenderbotEncoder", **_HALVES)),
    "BlenderbotSmall": Architecture(generic("BlenderbotSmall", encoder="BlenderbotSmallEncoder", **_HALVES)),
    "ProphetNet": Architecture(
        generic("ProphetNet", encoder="ProphetNetEncoder", hidden_size=32, encoder_ffn_dim=64, num_encoder_layers=2,
                num_encoder_attention_heads=4, decoder_ffn_dim=64, num_decoder_layers=2, num_decoder_attention_heads=4,
                max_position_embeddings=128, bos_token_id=2, eos_token_id=3, decoder_start_token_id=2)
    ),
    "BART": Architecture(generic("Bart", **_HALVES)),
    "mBART": Architecture(generic("MBart", **_HALVES)),
    "LED": Architecture(
        generic("LED", **{key: value for key, value in _HALVES.items() if key != "max_position_embeddings"},
                attention_window=8, max_encoder_position_embeddings=128, max_decoder_position_embeddings=128)
    ),
    "BigBirdPegasus": Architecture(generic("BigBirdPegasus", **_HALVES, attention_type="original_full")),
    "NLLB-MoE": Architecture(
        generic("NllbMoe", **_HALVES, num_experts=4, encoder_sparse_step=2, decoder_sparse_step=2, expert_capacity=64)
    ),
    # Decoders
    "Qwen2": Architecture(tiny.tiny_decoder, "gte-Qwen2"),
    "Qwen3": Architecture(tiny.tiny_qwen3, "Qwen3-Embedding"),
    "Gemma 3": Architecture(tiny.tiny_gemma, "EmbeddingGemma"),
    "Gemma 2": Architecture(generic("Gemma2", **_LLAMA, head_dim=8)),
    "Llama": Architecture(generic("Llama", **_LLAMA)),
    "Mistral": Architecture(generic("Mistral", **_LLAMA), "e5-mistral, SFR-Embedding"),
    "Phi-3": Architecture(generic("Phi3", **_LLAMA)),
    "GPT-2": Architecture(generic("GPT2", **_GPT2)),
    "GPT-NeoX": Architecture(generic("GPTNeoX", **_SIZES, pooling="lasttoken")),
    "OPT": Architecture(
        generic("OPT", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64, word_embed_proj_dim=32,
                max_position_embeddings=128, pooling="weightedmean")
    ),
    "BLOOM": Architecture(generic("Bloom", hidden_size=32, n_layer=2, n_head=4, pooling="weightedmean"), "sgpt-bloom"),
}  # fmt: skip


def outcome(name: str) -> tuple[str, str]:
    """Build a model of the architecture, serve it, and compare.

    Returns:
        Which rows share a batch (see `WAYS`) and "", or `refused` and the reason.

    Raises:
        AssertionError: its vectors are not those of sentence-transformers.
    """
    place = Path(tempfile.mkdtemp())
    folder = place / "model"
    try:
        ARCHITECTURES[name].build(folder)
        try:
            way, alone, together, prompted = asyncio.run(_served(folder))
        except ProviderError as exc:
            return "refused", exc.message.replace(str(folder), "FOLDER")
        peer = SentenceTransformer(str(folder), device="cpu").float()
        for ours, prompt in ((alone, ""), (together, ""), (prompted, PROMPT)):
            # One at a time: in some architectures its own vectors depend on what shares the batch.
            theirs = peer.encode(list(TEXTS), prompt=prompt, batch_size=1, normalize_embeddings=True)
            least = float((ours * theirs).sum(axis=1).min())
            assert least >= LEAST_COSINE, f"{name}: cosine {least} to sentence-transformers (prompt {prompt!r})"
        return way, ""
    finally:
        shutil.rmtree(place)


async def _served(folder: Path) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    settings = Settings(model=ModelSettings(name="m", path=str(folder), tune=False), cache=CacheSettings(enabled=False))
    found = find_model(settings.model, settings.hub, show_progress=False, notify_download=lambda _phase, _detail: None)
    parts = load_parts(found, settings.model)
    parts.backend.close()
    async with Engine.open(settings) as service:
        alone = [(await service.embed(EmbedRequest("m", (text,), truncate="end"))).vectors for text in TEXTS]
        together = await service.embed(EmbedRequest("m", TEXTS, truncate="end"))
        prompted = await service.embed(EmbedRequest("m", TEXTS, truncate="end", prompt=PROMPT))
        return WAYS[parts.neighbours.allowed], np.concatenate(alone), together.vectors, prompted.vectors


HEAD = "| Architecture | Served | For instance |\n| --- | --- | --- |"


def table() -> str:
    """The table of all architectures, in Markdown."""
    return "\n".join([HEAD, *(row(name) for name in ARCHITECTURES)])


def row(name: str) -> str:
    """The line of one architecture: how it is served, or why it is not."""
    way, reason = outcome(name)
    served = f"no: {reason.replace('|', '/')}" if reason else f"yes, {way}"
    return f"| {name} | {served} | {ARCHITECTURES[name].models} |"
