"""The attacks of `scripts/attack`, smaller, on one server: what does not depend on the machine's speed."""

from collections.abc import Iterator

import attack_kit
import attacks
import attacks_alone
import pytest
from attack_kit import Target


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    limits = {"EMB_PROVIDER_SERVER_HEAD_SECONDS": "2", "EMB_PROVIDER_SERVER_WRITE_SECONDS": "1"}
    with attack_kit.target(size=0.02, **limits) as opened:
        yield opened


@pytest.mark.parametrize(
    "attack",
    [
        each if each is not attacks.unread_answers else pytest.param(each, marks=pytest.mark.slow)
        for each in attacks.ATTACKS
        if each is not attacks.stop_under_load
    ],
)
def test_an_attack_costs_no_more_than_it_may(target: Target, attack: attacks.Attack) -> None:
    for row in attack(target):
        assert row.is_ok or row.is_measured, row
    assert target.ask()[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("attack", attacks_alone.OWN_SERVER)
def test_a_server_that_is_attacked_by_files_or_out_of_resources_goes_on(attack: attacks_alone.OwnAttack) -> None:
    for row in attack():
        assert row.is_ok, row
