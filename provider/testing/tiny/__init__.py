"""Tiny random models on disk, for tests: real architectures, real tokenizers, real file formats, some dozen kilobytes.

Each function writes a folder that sentence-transformers and this service read alike. The same arguments give the same
weights. torch, transformers and tokenizers are needed to call them, not to import this package.
"""

from provider.testing.tiny.bert import tiny_bert, tiny_distilbert, tiny_nomic
from provider.testing.tiny.classifiers import (
    TINY_CLASSIFIERS,
    resave_cross_encoder,
    tiny_classifier,
    tiny_deberta,
    tiny_reranker,
)
from provider.testing.tiny.folder import Tiny, TinyOptions
from provider.testing.tiny.gemma import tiny_gemma
from provider.testing.tiny.modernbert import tiny_modernbert
from provider.testing.tiny.multi_vector import EXPANSION, tiny_multi_vector, tiny_pylate, tiny_stanford_colbert
from provider.testing.tiny.qwen import tiny_decoder, tiny_qwen3
from provider.testing.tiny.roberta import tiny_gte, tiny_mpnet, tiny_roberta, tiny_xlm_roberta
from provider.testing.tiny.shapes import TINY_MULTI_VECTOR_SHAPES, TINY_SCORE_SHAPES, TINY_SHAPES, TINY_SPARSE_SHAPES
from provider.testing.tiny.sparse import tiny_bge_m3, tiny_masked_lm, tiny_opensearch, tiny_splade
from provider.testing.tiny.static import tiny_router, tiny_static
from provider.testing.tiny.t5 import tiny_t5
from provider.testing.tiny.vocabularies import WORDS

__all__ = [
    "EXPANSION",
    "TINY_CLASSIFIERS",
    "TINY_MULTI_VECTOR_SHAPES",
    "TINY_SCORE_SHAPES",
    "TINY_SHAPES",
    "TINY_SPARSE_SHAPES",
    "WORDS",
    "Tiny",
    "TinyOptions",
    "resave_cross_encoder",
    "tiny_bert",
    "tiny_bge_m3",
    "tiny_classifier",
    "tiny_deberta",
    "tiny_decoder",
    "tiny_distilbert",
    "tiny_gemma",
    "tiny_gte",
    "tiny_masked_lm",
    "tiny_modernbert",
    "tiny_mpnet",
    "tiny_multi_vector",
    "tiny_nomic",
    "tiny_opensearch",
    "tiny_pylate",
    "tiny_qwen3",
    "tiny_reranker",
    "tiny_roberta",
    "tiny_router",
    "tiny_splade",
    "tiny_stanford_colbert",
    "tiny_static",
    "tiny_t5",
    "tiny_xlm_roberta",
]
