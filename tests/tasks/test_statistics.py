import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visreplay.tasks.statistics import (
    bootstrap_interval,
    estimates,
    mcnemar_p,
    pass_at_k,
    wilson_interval,
)


def test_wilson_interval() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81 of 263.
    low, high = wilson_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson_interval(0, 20)[0] == 0
    with pytest.raises(ValueError, match="3 of 2"):
        wilson_interval(3, 2)


@given(st.integers(1, 8), st.integers(0, 8), st.integers(1, 8))
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n: int, right: int, k: int) -> None:
    if right > n or k > n:
        with pytest.raises(ValueError, match="needs at least"):
            pass_at_k(n, right, k)
        return
    draws = list(itertools.combinations([True] * right + [False] * (n - right), k))
    assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_bootstrap_intervals_of_normal_samples_are_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(1).normal(3, 2, size=(400, 2, 5))
    low, high = bootstrap_interval(values)
    error = values.std(axis=0) / 20
    np.testing.assert_allclose(high - low, 2 * 1.96 * error, rtol=0.05)
    np.testing.assert_allclose((low + high) / 2, values.mean(axis=0), atol=0.02)
    low, high = bootstrap_interval(np.array([0.0, 1.0, 1.0]))
    assert (low.shape, high.shape) == ((), ())


def test_samples_of_one_group_count_as_one() -> None:
    values = np.random.default_rng(1).integers(0, 2, 100).astype(float)
    groups = [str(n) for n in range(100)]
    single = bootstrap_interval(values, groups=groups)
    fourfold = bootstrap_interval(np.repeat(values, 4), groups=np.repeat(groups, 4).tolist())
    np.testing.assert_allclose(fourfold, single, atol=0.01)
    blind = bootstrap_interval(np.repeat(values, 4))
    assert float(blind[1] - blind[0]) < 0.6 * float(single[1] - single[0])


def test_estimates_are_of_columns() -> None:
    one, other = estimates(np.array([[0.0, 1.0], [1.0, 1.0]]))
    assert (one.value, one.low, one.high) == (0.5, 0, 1)
    assert one.percent == "50.0 (0.0 to 100.0)"
    assert (other.value, other.low, other.high) == (1, 1, 1)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1.0), (1, 1, 1.0), (5, 0, 2 / 32), (10, 2, 2 * (1 + 12 + 66) / 4096)],
)
def test_mcnemar_p_equals_that_of_fair_coins(gained: int, lost: int, p: float) -> None:
    assert mcnemar_p(gained, lost) == mcnemar_p(lost, gained) == pytest.approx(p)


def test_mcnemar_p_of_many_flips_does_not_overflow() -> None:
    assert mcnemar_p(2000, 1500) < 1e-15
