"""The faults of `scripts/chaos-redis`, once each: what does not depend on the machine's speed."""

import pytest
from redis_chaos import faults


@pytest.mark.slow
def test_a_redis_that_is_stopped_or_hangs_harms_no_request() -> None:
    found = list(faults(1, timeout_ms=1000, is_short=True))
    assert [each.wrong for each in found] == [(), ()]
