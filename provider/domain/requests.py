"""What callers ask for, and what they are answered."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from provider.domain.batch import DENSE, MULTI_VECTOR, SPARSE, Ids, SparseVector, Vectors

Truncation = Literal["none", "start", "end", "auto"]
"""What happens to an input that is too long: an error, or tokens are cut off at its start, at its end, or at the end
that the model's files say, as sentence-transformers does.
"""

Tier = Literal["interactive", "bulk"]
"""How requests are scheduled: answered soon, or as a long job that gives way to those."""


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
        max_tokens: most tokens of an input, special tokens and prompt included; longer ones are cut, unless `truncate`
            says otherwise. None for the model's own limit, which holds in any case.
        dimensions: width of the answer; None for the model's own.
        normalize: whether vectors have unit length; None for the model's own way.
        outputs: names of the outputs that are wanted.
    """

    model: str
    inputs: tuple[str, ...] | tuple[Ids, ...]
    prompt: str | None = None
    prompt_name: str | None = None
    input_type: str | None = None
    truncate: Truncation | None = None
    max_tokens: int | None = None
    dimensions: int | None = None
    normalize: bool | None = None
    outputs: tuple[str, ...] = (DENSE,)


@frozen
class ScoreRequest:
    """What a caller wants scored, already parsed, not yet tokenised: pairs of a query and a text, or texts alone.

    Attributes:
        model: name or alias.
        texts: the documents, or with `queries` None the texts to classify.
        queries: one for all `texts`, or as many as `texts`; None to score each text alone.
        truncate: None for the model's configured way; the longest of a pair is cut first.
        max_tokens: most tokens of a text, with its query and special tokens; as in `EmbedRequest`.
        max_document_tokens: documents are cut to so many tokens before they are paired, and that is reported; None for
            no such limit.
        raw: logits instead of the model's own activation of them.
        instruction: for models whose template has a place for one; None for the model's own.
    """

    model: str
    texts: tuple[str, ...]
    queries: tuple[str, ...] | None = None
    truncate: Truncation | None = None
    max_tokens: int | None = None
    max_document_tokens: int | None = None
    raw: bool = False
    instruction: str | None = None


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


class Timings(NamedTuple):
    """Where a request's time went, in seconds. Queue and forward are those of its slowest row.

    Attributes:
        instants: by `time.monotonic`, when tokenising began and ended; then, if the cache's store was asked, when it
            had answered; then, if rows were run, when the first pass with one of them began, and the last one ended.
        store_seconds: the wait for the cache's store.
    """

    tokenise_seconds: float = 0.0
    queue_seconds: float = 0.0
    forward_seconds: float = 0.0
    instants: tuple[float, ...] = ()
    store_seconds: float = 0.0


class Usage(NamedTuple):
    """Exact: tokens that stand for the inputs, special tokens and prompt included, after truncation.

    Attributes:
        cache_hits: inputs whose outputs were cached.
        store_hits: of these, those that only the cache's store had.
    """

    inputs: int
    tokens: int
    cache_hits: int = 0
    store_hits: int = 0


@frozen(eq=False)
class Embedded:
    """The answer to an EmbedRequest.

    Attributes:
        outputs: name to what was asked for, one entry an input, in input order. `dense`: (inputs, dimensions) float32,
            unit length unless `normalize` says otherwise; `sparse`: a tuple of `SparseVector`; `multi_vector`: a tuple
            of (tokens, dimension) float32; others as their tasks say.
        truncated: the inputs that were cut, by index.
        fingerprint: of the model that answered: outputs are comparable under the same one.
        model: configured name of that model; "" where another server answered.
        key: of the only input, if its outputs were in the cache.
        tokens: of each input, as `usage` has them together; empty where another server answered.
        cached: of each input, whether its outputs were in the cache; empty where another server answered.
    """

    outputs: Mapping[str, Any]
    usage: Usage
    truncated: tuple[Truncated, ...]
    timings: Timings
    fingerprint: str
    model: str = ""
    key: "CacheKey | None" = None
    tokens: Sequence[int] = ()
    cached: Sequence[bool] = ()

    def part(self, start: int, stop: int) -> Self:
        """The answer to the inputs from `start` to `stop`, as if they had come alone."""
        tokens, cached = self.tokens[start:stop], self.cached[start:stop]
        cut = [each for each in self.truncated if start <= each.index < stop]
        return type(self)(
            {name: values[start:stop] for name, values in self.outputs.items()},
            Usage(stop - start, sum(tokens), sum(cached)),
            tuple([Truncated(each.index - start, each.kept_tokens, each.original_tokens) for each in cut]),
            self.timings,
            self.fingerprint,
            self.model,
            tokens=tokens,
            cached=cached,
        )

    @property
    def vectors(self) -> Vectors:
        """The dense vectors, which must have been asked for."""
        dense: Vectors = self.outputs[DENSE]
        return dense

    @property
    def sparse(self) -> tuple[SparseVector, ...]:
        """The sparse vectors, which must have been asked for."""
        sparse: tuple[SparseVector, ...] = self.outputs[SPARSE]
        return sparse

    @property
    def multi_vector(self) -> tuple[NDArray[np.float32], ...]:
        """The token vectors, which must have been asked for."""
        multi_vector: tuple[NDArray[np.float32], ...] = self.outputs[MULTI_VECTOR]
        return multi_vector


@frozen(eq=False)
class Scored:
    """The answer to a ScoreRequest.

    Attributes:
        scores: shape (texts, labels), float32, in the order of the texts: activated, or logits if `raw` was asked for.
        labels: what each column stands for.
        truncated: the texts that were cut, by index; `original_tokens` counts the pair.
        fingerprint: of the model that answered.
    """

    scores: NDArray[np.float32]
    labels: tuple[str, ...]
    usage: Usage
    truncated: tuple[Truncated, ...]
    timings: Timings
    fingerprint: str


class CacheKey(NamedTuple):
    """What an output depends on: never the text alone. A tuple, because it is hashed often.

    Attributes:
        fingerprint: of the loaded model: its files, backend, options and dtype.
        digest: of the features.
    """

    fingerprint: str
    digest: bytes


@frozen
class Quota:
    """What a key may use in a minute (of the clock) and in a day (of UTC); None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_day: int | None = None


UNLIMITED = Quota()


@frozen
class Caller:
    """Who sends a request, and what its key allows.

    Attributes:
        name: of the key that came with it; "" where keys are not needed.
        tier: how its requests are scheduled; None: by their size.
        weight: its share of a busy model, relative to other callers'.
        models: configured names of the models that it may use; None: all.
        tasks: of `embed`, `rerank`, `score` and `classify`, those that it may use; None: all.
        is_admin: whether it may read the usage of all callers, and metrics where these are protected.
        quota: how much it may use.
    """

    name: str = ""
    tier: Tier | None = None
    weight: int = 1
    models: frozenset[str] | None = None
    tasks: frozenset[str] | None = None
    is_admin: bool = False
    quota: Quota = UNLIMITED

    def may_use(self, model: str) -> bool:
        """Whether `model`, a configured name, is among those that it may use."""
        return self.models is None or model in self.models


ANONYMOUS = Caller()
"""The caller where no keys are configured."""
