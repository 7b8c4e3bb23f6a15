"""What comparisons of vectors and of scores have in common."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Generic, TypeVar

from attrs import define

from provider.engine.truncation import Encoded
from provider.verification.corpus import Corpus
from provider.verification.runner import Compositions, ModelRunner
from provider.verification.thresholds import Thresholds

T = TypeVar("T", bound=Thresholds)


@define(eq=False, slots=False)
class Comparison(ABC, Generic[T]):
    """Two loaded models and the texts. Figures are computed when they are asked for, each once.

    Attributes:
        candidate: what is verified.
        reference: what it is measured against; the candidate itself where it is the reference.
        corpus: the texts.
        thresholds: what has to be reached.
        budget_seconds: how long the reference may run; what it has not come to then is left out.
        most_sampled: how many inputs are also run alone and in several orders.
        measures_noise: whether the reference is run in several orders, too.
        clock: seconds, monotonic.
    """

    candidate: ModelRunner
    reference: ModelRunner
    corpus: Corpus
    thresholds: T
    budget_seconds: float = float("inf")
    most_sampled: int = 48
    measures_noise: bool = True
    clock: Callable[[], float] = time.monotonic

    @property
    @abstractmethod
    def inputs(self) -> list[Encoded]:
        """Token ids of all that is compared."""

    @cached_property
    def compositions(self) -> Compositions:
        """The candidate's rows of the sample, alone and in several batches."""
        return Compositions.run(self.candidate, self.inputs, self.most_sampled)

    def reference_compositions(self) -> Compositions:
        """The same of the reference."""
        if self.reference is self.candidate:
            return self.compositions
        return Compositions.run(self.reference, self.inputs, self.most_sampled)
