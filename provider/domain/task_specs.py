"""What a model does: one specification for each of its outputs."""

from pathlib import Path
from typing import ClassVar, Literal, Protocol

from attrs import frozen

from provider.domain.batch import DENSE, MULTI_VECTOR, SCORES, SPARSE

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
"""How hidden states become one vector; the names of sentence-transformers' pooling configuration."""


@frozen
class HeadStep:
    """A step after pooling: a `Dense` or `LayerNorm` layer's folder, or a `Normalize` that is not the last step.

    Attributes:
        kind: `dense` (linear map and activation, read from `folder`), `layer_norm` (read from `folder`), `linear` (a
            linear map alone, from the file `folder`) or `normalize`.
        folder: the folder with the layer's `config.json` and `model.safetensors`, or the file of `linear`; None for
            `normalize`.
        out_features: width after this step; None where the step keeps the width.
    """

    kind: Literal["dense", "layer_norm", "linear", "normalize"]
    folder: Path | None = None
    out_features: int | None = None


class TaskSpec(Protocol):
    """What a model does: one output, and what only that output needs.

    Attributes:
        output: name of the output.
        word: what the task is called in `/v1/models`.
    """

    output: ClassVar[str]

    @property
    def word(self) -> str:
        """What the task is called in `/v1/models`."""
        ...


@frozen
class DenseTask:
    """One vector a text.

    Attributes:
        dimension: width of the vector after pooling and head.
        pooling: one mode, or several whose vectors are concatenated in this order.
        pools_prompt: False where prompt tokens are left out of pooling.
        head: steps after pooling, in order; a trailing `Normalize` is not among them: the answer decides that.
        normalize: whether vectors have unit length when a request does not say.
        token_head: steps over each token's hidden state, before pooling.
    """

    output: ClassVar[str] = DENSE
    dimension: int
    pooling: tuple[PoolingMode, ...] = ("mean",)
    pools_prompt: bool = True
    head: tuple[HeadStep, ...] = ()
    normalize: bool = True
    token_head: tuple[HeadStep, ...] = ()

    @property
    def word(self) -> str:
        """See `TaskSpec`."""
        return "embed"


@frozen
class SparseTask:
    """Weights of vocabulary entries.

    Attributes:
        width: entries of the vocabulary; ids are below it.
        kind: `splade`: max (or sum) over tokens of the masked-LM head's activated logits; `tokens`: one weight a token
            from a linear layer, the largest of each id (bge-m3).
        pooling: over tokens, of `splade`.
        activation: of `splade`'s logits: `relu` is log(1 + relu(x)), `log1p_relu` is log(1 + log(1 + relu(x))).
        head: the file with the linear layer of `tokens`.
        query_weights: the file with a weight (`weight`) for each id of a query, whose side runs no model; None where
            queries run the model as documents do.
        dropped: ids that never have a weight (special tokens of bge-m3).
        most_entries: the largest weights that are kept; None for all.
    """

    output: ClassVar[str] = SPARSE
    width: int
    kind: Literal["splade", "tokens"] = "splade"
    pooling: Literal["max", "sum"] = "max"
    activation: Literal["relu", "log1p_relu"] = "relu"
    head: Path | None = None
    query_weights: Path | None = None
    dropped: frozenset[int] = frozenset()
    most_entries: int | None = None

    @property
    def word(self) -> str:
        """See `TaskSpec`."""
        return "sparse"


@frozen
class MultiVectorTask:
    """One vector a token.

    Attributes:
        dimension: width of each vector.
        head: steps over each hidden state, in order; a trailing `Normalize` is not among them.
        skipped: ids whose vectors are left out of a document's answer.
        skipped_of_queries: the same for queries.
        drops_first: whether the first token's vector is left out (bge-m3).
        normalize: whether each vector has unit length when a request does not say.
    """

    output: ClassVar[str] = MULTI_VECTOR
    dimension: int
    head: tuple[HeadStep, ...] = ()
    skipped: frozenset[int] = frozenset()
    skipped_of_queries: frozenset[int] = frozenset()
    drops_first: bool = False
    normalize: bool = True

    @property
    def word(self) -> str:
        """See `TaskSpec`."""
        return "multi_vector"


@frozen
class ScoreTask:
    """Logits of a text or of a pair of texts.

    Attributes:
        labels: what each logit stands for; one label makes a reranker, several a classifier.
        activation: what makes scores of logits unless raw ones are asked for.
        kind: `classifier`: transformers' sequence classification head; `logits`: the logit of `true_id` less that of
            `false_id` at the last token of a causal language model; `pooled`: what `layers` make of hidden states.
        true_id: token of `logits` for a match.
        false_id: token of `logits` for none; None for the logit of `true_id` alone.
        messages: how the chat template that writes a pair takes texts: as they are (`flat`) or as a list of parts; None
            for a pair of segments as the tokenizer joins them.
        layers: of `pooled`: pooling, and the steps whose last gives the logits.
    """

    output: ClassVar[str] = SCORES
    labels: tuple[str, ...]
    activation: Literal["identity", "sigmoid", "softmax"] = "sigmoid"
    kind: Literal["classifier", "logits", "pooled"] = "classifier"
    true_id: int | None = None
    false_id: int | None = None
    messages: Literal["flat", "structured"] | None = None
    layers: DenseTask | None = None

    @property
    def word(self) -> str:
        """See `TaskSpec`."""
        return "rerank" if len(self.labels) == 1 else "classify"
