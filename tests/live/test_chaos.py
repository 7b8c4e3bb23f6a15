"""The faults of `scripts/chaos`, once each: what does not depend on the machine's speed."""

import chaos
import pytest


@pytest.mark.parametrize("fault", [chaos.stops, chaos.kills, chaos.restarts, chaos.leavers, chaos.abandoned])
def test_a_fault_under_load_harms_nobody_else(fault: "chaos.Fault") -> None:
    assert fault("example", 1).wrong == ()
