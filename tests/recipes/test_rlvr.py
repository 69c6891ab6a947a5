"""The settings of the RLVR stage."""

import pytest
from rlvr import Rlvr


def test_the_rates_fall_to_nothing_after_the_constant_part() -> None:
    settings = Rlvr(updates=60, constant=1 / 3)
    rates = [settings.rate(update) for update in range(60)]
    assert rates[:21] == [1.0] * 21
    assert rates[40] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(1.5 / 60)
    assert Rlvr(updates=4).rate(1) == 0.75


def test_policies_of_other_seeds_see_other_samples() -> None:
    one, other = (
        {sample.sample_id for update in range(3) for sample in Rlvr(seed=seed).samples(update)}
        for seed in (0, 1)
    )
    assert len(one) == len(other) == 3 * 18 and not one & other
