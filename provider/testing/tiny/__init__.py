"""Tiny random models on disk, for tests: real architectures, real tokenizers, real file formats, some dozen kilobytes.

Each function writes a folder that sentence-transformers and this service read alike. The same arguments give the same
weights. torch, transformers and tokenizers are needed to call them, not to import this package.
"""

from provider.testing.tiny.bert import tiny_bert, tiny_distilbert, tiny_nomic
from provider.testing.tiny.folder import Tiny, TinyOptions
from provider.testing.tiny.gemma import tiny_gemma
from provider.testing.tiny.modernbert import tiny_modernbert
from provider.testing.tiny.qwen import tiny_decoder, tiny_qwen3
from provider.testing.tiny.roberta import tiny_gte, tiny_mpnet, tiny_roberta, tiny_xlm_roberta
from provider.testing.tiny.shapes import TINY_SHAPES
from provider.testing.tiny.t5 import tiny_t5
from provider.testing.tiny.vocabularies import WORDS

__all__ = [
    "TINY_SHAPES",
    "WORDS",
    "Tiny",
    "TinyOptions",
    "tiny_bert",
    "tiny_decoder",
    "tiny_distilbert",
    "tiny_gemma",
    "tiny_gte",
    "tiny_modernbert",
    "tiny_mpnet",
    "tiny_nomic",
    "tiny_qwen3",
    "tiny_roberta",
    "tiny_t5",
    "tiny_xlm_roberta",
]
