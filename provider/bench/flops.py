"""How many floating-point operations a text costs, from a model's configuration alone."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

from attrs import frozen

# An MLP of two matrices: up, down.
_PLAIN = frozenset(
    {"albert", "bert", "camembert", "data2vec-text", "distilbert", "electra", "ernie", "gpt2", "gpt_neox", "mpnet"}
    | {"opt", "roberta", "xlm-roberta", "xlm-roberta-xl"}
)
# An MLP of three: gate, up, down.
_GATED = frozenset({"gemma", "gemma2", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3"})
_T5 = frozenset({"t5", "mt5", "umt5"})

_HIDDEN = ("hidden_size", "d_model", "dim", "n_embd")
_INNER = ("intermediate_size", "d_ff", "hidden_dim", "n_inner")
_LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
_HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head")
_HEAD_SIZE = ("head_dim", "d_kv")


@frozen
class ModelShape:
    """The matrix products of an encoder.

    Attributes:
        layers: transformer layers.
        products: (in_features, out_features) of a layer's linear maps; query, key and value are one.
        attended: width over which attention runs: heads times their size.
    """

    layers: int
    products: tuple[tuple[int, int], ...]
    attended: int

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Self | None:
        """From a `config.json`; None for architectures whose layers are not known here."""
        kind = str(config.get("model_type") or "")
        hidden, layers, heads = (_first(config, keys) for keys in (_HIDDEN, _LAYERS, _HEADS))
        if not hidden or not layers or not heads or kind not in _PLAIN | _GATED | _T5:
            return None
        inner = _first(config, _INNER) or 4 * hidden
        head_size = _first(config, _HEAD_SIZE) or hidden // heads
        keys_and_values = 2 * (_first(config, ("num_key_value_heads",)) or heads)
        is_gated = kind in _GATED or (kind in _T5 and "gated" in str(config.get("feed_forward_proj")))
        products = (
            (hidden, (heads + keys_and_values) * head_size),
            (heads * head_size, hidden),
            *[(hidden, inner)] * (2 if is_gated else 1),
            (inner, hidden),
        )
        return cls(layers, products, heads * head_size)

    def flops(self, lengths: Iterable[int]) -> float:
        """Operations of the forward passes of texts with so many tokens each, padding not counted.

        A product of (m, k) with (k, n) takes 2mkn. So the linear maps take `2 * in * out` a token, and attention, whose
        two products (scores, and their sum over the values) have every token look at every token of its text,
        `2 * 2 * tokens * attended` a token, all of that a layer: J. Kaplan et al., "Scaling Laws for Neural Language
        Models" (2020, arXiv:2001.08361), table 1; attention there is `2 * n_ctx * d_attn` for the causal half. For
        BERT with width h and inner width 4h that is `24 h² + 4 L h` a token and layer. Look-ups, normalisation,
        softmax, activation, pooling and what follows it are left out: below a hundredth together.
        """
        linear = sum(2 * rows * columns for rows, columns in self.products)
        return float(sum(self.layers * (length * linear + 4 * length * length * self.attended) for length in lengths))


def _first(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    return next((found for key in keys if isinstance(found := config.get(key), int)), None)
