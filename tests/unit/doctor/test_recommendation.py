"""Which of the measured backends is recommended."""

import pytest

from provider.doctor.recommendation import Trial, choose


def trial(backend: str, ratio: float | None, agreement: float | None = 1.0, dtype: str = "float32") -> Trial:
    is_exact = agreement is not None and agreement >= 0.9999
    return Trial(backend, dtype, "cpu", ratio, ratio, agreement, is_exact, None if ratio else "it broke")


TORCH, INT8 = trial("torch", 1.0), trial("torch", 2.0, 0.995, "int8")


@pytest.mark.parametrize(
    ("trials", "exact", "faster"),
    [
        ([TORCH], "torch float32", None),
        ([INT8, TORCH], "torch float32", "torch int8"),
        ([trial("quick", 1.5), TORCH], "quick float32", None),
        # A difference that small is noise: the default stays.
        ([trial("quick", 1.03), TORCH], "torch float32", None),
        # Not worth other numbers.
        ([trial("torch", 1.6, 0.99, "int8"), trial("quick", 1.5), TORCH], "quick float32", None),
        # The fastest of all embeds with another model.
        ([trial("hash", 90.0, 0.02), INT8, TORCH], "torch float32", "torch int8"),
        ([TORCH, trial("broken", None, None)], "torch float32", None),
        ([trial("torch", None, None)], None, None),
    ],
)
def test_the_fastest_right_one_is_recommended_and_a_clearly_faster_one_named(
    trials: list[Trial], exact: str | None, faster: str | None
) -> None:
    found = [None if each is None else f"{each.backend} {each.dtype}" for each in choose(trials)]
    assert found == [exact, faster]
