import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared import MakeAgent

from visreplay.replay_core import Method
from visreplay.tasks.evaluate import (
    bootstrap_interval,
    evaluate,
    is_correct,
    pass_at_k,
    summarise,
    wilson_interval,
)
from visreplay.tasks.registry import task_named
from visreplay.tasks.types import Split


def test_an_evaluation_has_a_record_a_sample(make_agent: MakeAgent) -> None:
    seen = []
    seeds = range(Split.TUNING, Split.TUNING + 3)
    task = task_named("visual-search-easy")
    records = evaluate(make_agent(Method.NONE), task, seeds, on_record=seen.append)
    assert records == seen
    assert [record.sample_id for record in records] == [f"visual-search-easy-{s}" for s in seeds]
    summary = summarise(records)
    assert summary.n == 3
    assert summary.low <= summary.accuracy <= summary.high


def test_nothing_cannot_be_summarised() -> None:
    with pytest.raises(ValueError, match="no records"):
        summarise([])


@pytest.mark.parametrize(
    ("answer", "expected", "correct"),
    [("K", "K", True), (" k ", "K", True), ("L", "K", False), (None, "K", False)],
)
def test_answers_are_compared_as_text(answer: str | None, expected: str, correct: bool) -> None:
    assert is_correct(answer, expected) is correct


def test_wilson_s_interval() -> None:
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
