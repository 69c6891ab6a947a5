import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visreplay.tasks.statistics import (
    bootstrap_interval,
    crossed_interval,
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


def test_one_sample_says_nothing_about_a_mean_without_bounds() -> None:
    low, high = bootstrap_interval(np.array([[0.5, 2.0]]))
    assert low.tolist() == [-math.inf] * 2 and high.tolist() == [math.inf] * 2
    one_group = bootstrap_interval(np.array([0.5, 2.0]), groups=["a", "a"])
    assert [float(end) for end in one_group] == [-math.inf, math.inf]
    (share,) = estimates(np.array([[1.0]]))
    assert (share.low, share.high) == (pytest.approx(0.025), 1)


def test_a_crossed_interval_covers_other_models_and_other_samples() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(100):
        models = rng.normal(0, 1, (20, 1))
        values = 1 + models + rng.normal(0, 1, (1, 50)) + rng.normal(0, 1, (20, 50))
        low, high = crossed_interval(values, ["a"] * 10 + ["b"] * 10, draws=500)
        hits += low < 1 < high
        # Drawing samples alone knows nothing of the models.
        narrow = bootstrap_interval(values.mean(axis=0), draws=500)
        assert high - low > narrow[1] - narrow[0]
    assert 85 <= hits <= 100


def test_models_are_drawn_within_their_strata() -> None:
    values = np.array([[0.0] * 4] * 3 + [[1.0] * 4] * 3)
    assert crossed_interval(values, "aaabbb") == (0.5, 0.5)
    low, high = crossed_interval(values, "aaaaaa")
    assert low < 0.2 and high > 0.8


SHARES = (0.9, 0.99, 0.997, 1.0)


@pytest.mark.parametrize("n", [20, 100, 300])
def test_intervals_of_shares_cover_them_near_the_ends(n: int) -> None:
    # All runs there can be, as columns: in column k, k of n samples are right.
    right = np.arange(n + 1)
    values = (np.arange(n)[:, None] < right).astype(float)
    low, high = bootstrap_interval(values, draws=2000, bounds=(0, 1))
    blind_low, blind_high = bootstrap_interval(values, draws=2000)
    for share in SHARES:
        chance = np.array([math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in right])
        assert chance.sum() == pytest.approx(1)
        covered = (low <= share + 1e-12) & (share - 1e-12 <= high)
        assert chance[covered].sum() >= 0.93, share
    blind = (blind_low <= 0.997) & (blind_high >= 0.997)
    chance = np.array([math.comb(n, k) * 0.997**k * 0.003 ** (n - k) for k in right])
    assert chance[blind].sum() < 0.7  # what the bounds are for


@pytest.mark.parametrize("n", [20, 100, 300])
@pytest.mark.parametrize(
    ("gain", "loss"), [(0.003, 0.003), (0.01, 0.0), (0.01, 0.003), (0.05, 0.02), (0.2, 0.1)]
)
def test_intervals_of_paired_differences_cover_them(n: int, gain: float, loss: float) -> None:
    def most(rate: float) -> int:  # beyond this, counts have next to no chance
        return min(n, math.ceil(n * rate + 6 * math.sqrt(n * rate + 1))) if rate else 0

    counts = [
        (won, lost)
        for won in range(most(gain) + 1)
        for lost in range(most(loss) + 1)
        if won + lost <= n
    ]
    chance = np.array(
        [
            math.comb(n, won) * math.comb(n - won, lost)
            * gain**won * loss**lost * (1 - gain - loss) ** (n - won - lost)
            for won, lost in counts
        ]
    )  # fmt: skip
    assert chance.sum() == pytest.approx(1, abs=1e-3)
    won, lost = np.array(counts).T
    sample = np.arange(n)[:, None]
    values = (sample < won).astype(float) - ((sample >= won) & (sample < won + lost))
    low, high = bootstrap_interval(values, draws=1000, bounds=(-1, 1))
    covered = (low <= gain - loss + 1e-12) & (gain - loss - 1e-12 <= high)
    assert chance[covered].sum() >= 0.93
    assert (high - low).min() > 0


def test_bounds_do_not_widen_intervals_that_are_wide_enough() -> None:
    values = np.random.default_rng(0).uniform(0, 1, (300, 3))
    np.testing.assert_array_equal(
        bootstrap_interval(values, bounds=(0, 1)), bootstrap_interval(values)
    )


def test_groups_count_for_what_may_have_been_missed() -> None:
    groups = [str(n // 4) for n in range(80)]
    single = bootstrap_interval(np.ones(20), bounds=(0, 1))
    fourfold = bootstrap_interval(np.ones(80), groups=groups, bounds=(0, 1))
    np.testing.assert_allclose(fourfold, single)
    assert float(single[0]) == pytest.approx(0.025 ** (1 / 20))


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
    assert (other.value, other.low, other.high) == (1, pytest.approx(0.025**0.5), 1)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1.0), (1, 1, 1.0), (5, 0, 2 / 32), (10, 2, 2 * (1 + 12 + 66) / 4096)],
)
def test_mcnemar_p_equals_that_of_fair_coins(gained: int, lost: int, p: float) -> None:
    assert mcnemar_p(gained, lost) == mcnemar_p(lost, gained) == pytest.approx(p)


def test_mcnemar_p_of_many_flips_does_not_overflow() -> None:
    assert mcnemar_p(2000, 1500) < 1e-15
