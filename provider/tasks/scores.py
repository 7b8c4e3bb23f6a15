"""One score a label, of a text or a pair of texts: the model's logits, activated."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from provider.domain import SCORES, EmbedRequest, Features, RowOutput, ScoreTask, TokenBatch
from provider.errors import InvalidDimensions, NonFiniteVector, SeveralLabels
from provider.tasks.dense import check_array


class Scores:
    """See `Task`; an answer holds (texts, labels) float32."""

    def read(self, folder: Path) -> None:
        """See `Task.read`."""

    def check(self, spec: ScoreTask, outputs: Sequence[RowOutput], batch: TokenBatch) -> None:
        """See `Task.check`."""
        check_array(outputs, (batch.rows, len(spec.labels)))

    def flat(self, spec: ScoreTask, output: RowOutput) -> NDArray[np.float32]:
        """See `Task.flat`. The 1 at the end makes differences of small logits small."""
        return np.append(np.asarray(output, np.float32), np.float32(1))

    def finish(
        self,
        spec: ScoreTask,
        outputs: Sequence[RowOutput],
        features: Sequence[Features],
        request: EmbedRequest,
    ) -> NDArray[np.float32]:
        """See `Task.finish`."""
        if request.dimensions is not None:
            raise InvalidDimensions(request.dimensions, output=SCORES, least=0, most=0)
        return finish_scores(spec, outputs)


def check_one_label(spec: ScoreTask, *, model: str) -> None:
    """See that a model gives one score, by which texts can be ranked.

    Raises:
        SeveralLabels: it is a classifier with several labels.
    """
    if len(spec.labels) != 1:
        raise SeveralLabels(model, labels=spec.labels)


def finish_scores(spec: ScoreTask, outputs: Sequence[RowOutput], *, raw: bool = False) -> NDArray[np.float32]:
    """Scores (texts, labels) float32 of the logits of each text; with `raw` the logits as they are.

    Raises:
        NonFiniteVector: see `activate`.
    """
    return activate(np.array(outputs, np.float32), "identity" if raw else spec.activation)


def activate(logits: NDArray[np.float32], activation: str) -> NDArray[np.float32]:
    """Scores (texts, labels) float32 of logits of the same shape.

    Args:
        logits: as the model gave them; not written to.
        activation: `identity`, `sigmoid` (each label by itself) or `softmax` (over the labels).

    Raises:
        NonFiniteVector: a logit is NaN or infinite; the message names the first such text.
    """
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        msg = "the model answered a score that is NaN or infinite. Another dtype (float32) may help."
        raise NonFiniteVector(msg, index=int(np.flatnonzero(~finite)[0]))
    if activation == "sigmoid":
        wide = np.exp(-np.abs(logits.astype(np.float64)))
        scores: NDArray[np.float32] = np.where(logits >= 0, 1 / (1 + wide), wide / (1 + wide)).astype(np.float32)
        return scores
    if activation == "softmax":
        wide = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        shares: NDArray[np.float32] = (wide / wide.sum(axis=1, keepdims=True)).astype(np.float32)
        return shares
    return logits
