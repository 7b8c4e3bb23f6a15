"""The nouns that the layers hand to each other. Frozen, without behaviour beyond what follows from their own fields."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

Ids = NDArray[np.int32]
"""Token ids of one input, shape (tokens,), int32, special tokens included."""

Vectors = NDArray[np.float32]
"""Shape (rows, dimension), float32, C-contiguous."""

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
"""How hidden states become one vector; the names of sentence-transformers' pooling configuration."""

Truncation = Literal["none", "start", "end"]
"""What happens to an input that is too long: an error, or tokens are cut off at its start or at its end."""


@frozen
class HeadStep:
    """A step after pooling: a `Dense` layer's folder, or a `Normalize` that is not the last step.

    Attributes:
        kind: `dense` (linear map and activation, read from `folder`) or `normalize`.
        folder: the folder with the layer's `config.json` and `model.safetensors`; None for `normalize`.
        out_features: width after this step; None where the step keeps the width.
    """

    kind: Literal["dense", "normalize"]
    folder: Path | None = None
    out_features: int | None = None


@frozen
class TokenizerSpec:
    """How a model's texts become token ids.

    Attributes:
        stands_alone: whether `tokenizer.json` says all; if not, transformers' class builds the tokenizer.
        lowercase: whether texts are lower-cased first, by sentence-transformers' `do_lower_case`.
        arguments: keyword arguments for transformers' class.
        ids: the largest token id plus one; None where it is known after loading only.
    """

    stands_alone: bool = True
    lowercase: bool = False
    arguments: Mapping[str, Any] = field(factory=dict)
    ids: int | None = None


@frozen
class ModelSpec:
    """All that is known of a model without loading its weights.

    Attributes:
        name: the configured name.
        folder: the local folder with configuration, tokenizer and weights.
        architecture: the transformers class named in `config.json`, or its model type.
        hidden_size: width of the hidden states.
        dimension: width of the vector after pooling and head.
        max_tokens: most tokens of one input, special tokens included, that the service accepts.
        max_positions: most tokens the model has positions for; None where it has no such limit.
        pooling: one mode, or several whose vectors are concatenated in this order.
        pools_prompt: False where prompt tokens are left out of pooling.
        head: steps after pooling, in order; a trailing `Normalize` is not among them: the answer decides that.
        prompts: name to text, from `config_sentence_transformers.json`.
        default_prompt: the text put before inputs when a request chooses none; "" for none.
        normalize: whether vectors have unit length when a request does not say.
        config: what transformers' configuration is made from instead of `config.json`, for models that are read as
            another class than they name; None for the file.
        vocabulary_size: rows of the table of token embeddings; ids are below it. None if the configuration is silent.
        pad_id: the id that fills a rectangle; it is always masked.
        tokenizer: how texts become token ids.
        fingerprint: short digest of the files that decide a vector: weights, tokenizer, pipeline.
    """

    name: str
    folder: Path
    architecture: str
    hidden_size: int
    dimension: int
    max_tokens: int
    max_positions: int | None
    pooling: tuple[PoolingMode, ...]
    fingerprint: str
    pools_prompt: bool = True
    head: tuple[HeadStep, ...] = ()
    prompts: Mapping[str, str] = field(factory=dict)
    default_prompt: str = ""
    normalize: bool = True
    pad_id: int = 0
    vocabulary_size: int | None = None
    tokenizer: TokenizerSpec = field(factory=TokenizerSpec)
    config: Mapping[str, Any] | None = None


@frozen(eq=False)
class TokenBatch:
    """Token ids of several rows, ragged: one flat array and where each row starts. The arrays are read-only.

    Attributes:
        ids: shape (tokens,), int32.
        offsets: shape (rows + 1,), int64; row i is `ids[offsets[i]:offsets[i + 1]]`, never empty.
        skips: shape (rows,), int32; leading tokens of each row that take no part in pooling (a prompt's, for models
            that leave it out); always smaller than the row.
    """

    ids: Ids
    offsets: NDArray[np.int64]
    skips: NDArray[np.int32]

    @classmethod
    def of_rows(cls, rows: Sequence[Ids], skips: Sequence[int] | None = None) -> "TokenBatch":
        """Join `rows` (each (tokens,) int32, at least one token) into a batch."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        ids = np.concatenate(rows).astype(np.int32, copy=False)
        taken = np.zeros(len(rows), np.int32) if skips is None else np.asarray(skips, np.int32)
        for array in (ids, offsets, taken):
            array.flags.writeable = False
        return cls(ids, offsets, taken)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    @property
    def tokens(self) -> int:
        """Tokens of all rows, padding not counted."""
        return len(self.ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, shape (rows,)."""
        return np.diff(self.offsets)

    def row(self, i: int) -> Ids:
        """The token ids of row `i`, a view."""
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    def padded(
        self, *, pad_id: int = 0, multiple_of: int = 1, side: Literal["left", "right"] = "right"
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rectangle for backends that want one.

        Args:
            pad_id: what fills the cells behind (or before) the rows.
            multiple_of: the width is rounded up to a multiple of this, to bound the number of distinct shapes.
            side: where the padding goes.

        Returns:
            `(ids, mask)`, both (rows, width) int64; the mask is 1 where a token stands and 0 on padding.
        """
        lengths = self.lengths
        width = -(-int(lengths.max()) // multiple_of) * multiple_of
        column = np.arange(width)
        mask = column < lengths[:, None] if side == "right" else column >= width - lengths[:, None]
        ids = np.full(mask.shape, pad_id, np.int64)
        ids[mask] = self.ids
        return ids, mask.astype(np.int64)


@frozen
class EmbedRequest:
    """What a caller wants embedded, already parsed, not yet tokenised.

    Attributes:
        model: name or alias.
        inputs: texts, or token ids of the model's own vocabulary.
        prompt: text put before every input; None for what `prompt_name`, `input_type` or the model say.
        prompt_name: a key of the model's prompts.
        input_type: `query`, `document` or another prompt's name; ignored by models without prompts.
        truncate: None for the model's configured way.
        dimensions: width of the answer; None for the model's own.
        normalize: whether vectors have unit length; None for the model's own way.
    """

    model: str
    inputs: tuple[str, ...] | tuple[Ids, ...]
    prompt: str | None = None
    prompt_name: str | None = None
    input_type: str | None = None
    truncate: Truncation | None = None
    dimensions: int | None = None
    normalize: bool | None = None


@frozen
class Truncated:
    """One input that was cut.

    Attributes:
        index: its place in the request.
        kept_tokens: tokens that went through the model.
        original_tokens: tokens it had; None where the text was so long that only as much as needed was counted.
    """

    index: int
    kept_tokens: int
    original_tokens: int | None


@frozen
class Timings:
    """Where a request's time went, in seconds. Queue and forward are those of its slowest row."""

    tokenise_seconds: float = 0.0
    queue_seconds: float = 0.0
    forward_seconds: float = 0.0


@frozen
class Usage:
    """Exact: tokens that stand for the inputs, special tokens and prompt included, after truncation."""

    inputs: int
    tokens: int
    cache_hits: int = 0


@frozen(eq=False)
class Embedded:
    """The answer to an EmbedRequest.

    Attributes:
        vectors: shape (inputs, dimensions), float32, unit length unless `normalize` says otherwise, in input order.
        truncated: the inputs that were cut, by index.
        fingerprint: of the model that answered: vectors are comparable under the same one.
    """

    vectors: Vectors
    usage: Usage
    truncated: tuple[Truncated, ...]
    timings: Timings
    fingerprint: str


@frozen
class CacheKey:
    """What a vector depends on: never the text alone.

    Attributes:
        fingerprint: of the loaded model: its files, backend, options and dtype.
        digest: 16 bytes of BLAKE2b over the token ids (they hold the prompt too) and how many are left out of pooling.
    """

    fingerprint: str
    digest: bytes

    @classmethod
    def of(cls, fingerprint: str, ids: Ids, skip: int) -> "CacheKey":
        """The key of one input."""
        digest = hashlib.blake2b(ids.tobytes(), digest_size=16, salt=skip.to_bytes(8, "little"))
        return cls(fingerprint, digest.digest())


@frozen
class Worker:
    """Which one this process is of those that serve together on one machine.

    Attributes:
        number: from 0.
        count: how many there are.
    """

    number: int = 0
    count: int = 1

    @property
    def is_alone(self) -> bool:
        """Whether the whole machine is this process's."""
        return self.count == 1

    def cores(self, available: int) -> int:
        """Its share of the `available` cores, the same for all of them, at least 1."""
        return max(1, available // self.count)


ALONE = Worker()
"""The only process."""
