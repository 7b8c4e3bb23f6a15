"""What a finished request has used."""

import pytest

from provider.domain import DENSE, SCORES, SPARSE, Timings, Usage
from provider.engine.hooks import RequestAnswered
from provider.telemetry.request import RequestRecord
from provider.usage.database import Counts


@pytest.mark.parametrize(
    ("status", "outputs", "counts"),
    [
        (200, (DENSE, SPARSE), Counts(requests=1, inputs=3, tokens=30, cached=2, truncated=1)),
        (200, (SCORES,), Counts(requests=1, documents=3, tokens=30, cached=2, truncated=1)),
        # The caller left when all was computed.
        (499, (DENSE,), Counts(requests=1, errors=1, inputs=3, tokens=30, cached=2, truncated=1)),
        (0, None, Counts(requests=1, errors=1)),
        (400, None, Counts(requests=1, errors=1)),
    ],
)
def test_texts_are_counted_as_inputs_or_as_documents(
    status: int, outputs: tuple[str, ...] | None, counts: Counts
) -> None:
    record = RequestRecord("id", "POST", "/v1/embeddings", status=status)
    if outputs is not None:
        record.answered = RequestAnswered("m", Usage(3, 30, 2), 1, Timings(), outputs=outputs)
    assert record.counts() == counts
