from pathlib import Path

import numpy as np
import pytest

from visreplay.tasks.analysis.estimates import ENOUGH, Estimator, cell, group_of
from visreplay.tasks.types import Sample


def singles(count: int) -> Estimator:
    return Estimator([str(number) for number in range(count)])


@pytest.mark.parametrize("count", [1, 2, ENOUGH - 1])
def test_too_few_samples_have_no_interval(count: int) -> None:
    values = np.ones((count, 2))
    for value in (singles(count).mean(values), singles(count).ratio(values, values)):
        assert value == {"mean": [1.0, 1.0], "low": None, "high": None}
        assert cell(value, 1, form=".1f") == "1.0"
    share = singles(count).share(values[:, 0])
    assert share == {"mean": 1.0, "low": None, "high": None}


def test_a_mean_and_its_interval() -> None:
    value = singles(8).mean(np.arange(8.0)[:, None] * [1, 10])
    assert value["mean"] == [3.5, 35]
    assert 0 < value["low"][0] < 3.5 < value["high"][0] < 7
    assert value["low"][1] == pytest.approx(10 * value["low"][0])
    text = cell(value, 0, form=".2f", scale=100)
    assert text.startswith("350.00 (") and text.endswith(")")


def test_samples_that_depend_on_each_other_are_one() -> None:
    assert Estimator(["a"] * 20).mean(np.arange(20.0))["low"] is None
    values = np.repeat(np.arange(8.0), 4)
    grouped = Estimator([str(int(value)) for value in values])
    assert grouped.independent == 8
    wide, narrow = grouped.mean(values), singles(32).mean(values)
    assert wide["high"] - wide["low"] > 1.5 * (narrow["high"] - narrow["low"])
    wide, narrow = (each.ratio(values, values + 1) for each in (grouped, singles(32)))
    assert wide["high"] - wide["low"] > 1.5 * (narrow["high"] - narrow["low"])


def test_a_ratio_is_of_means_and_resamples_pairs() -> None:
    wholes = np.array([1.0, 2, 4, 8, 16, 32])
    value = singles(6).ratio(0.9 * wholes, wholes)
    assert [value[key] for key in ("mean", "low", "high")] == pytest.approx([0.9] * 3)
    assert singles(2).ratio(np.array([1.0, 1]), np.array([1.0, 3]))["mean"] == 0.5


def test_nothing_of_nothing_is_a_dash() -> None:
    value = singles(6).ratio(np.zeros(6), np.zeros(6))
    assert cell(value) == "-"


def test_a_cell_is_written_as_in_all_tables() -> None:
    value = {"mean": [0.5, 12_345.6], "low": [-0.25, 9.0], "high": [1.0, 2e6]}
    assert cell(value, 0, form=".2f") == "0.50 (-0.25 to 1.00)"
    assert cell(value, 1, form=".3g") == "12,300 (9 to 2,000,000)"
    assert cell({**value, "low": None, "high": None}, 0, form=".0f", scale=100) == "50"


def test_a_share_of_all_is_not_certain() -> None:
    value = singles(10).share(np.ones(10))
    assert value["mean"] == value["high"] == 1 and 0.6 < value["low"] < 0.8
    # Forty cycles of ten questions tell no more than ten questions.
    grouped = Estimator([str(number // 4) for number in range(40)]).share(np.ones(40))
    assert grouped["low"] == value["low"]


def test_the_group_of_a_sample() -> None:
    alone, cycle = (
        Sample("a-1", "?", "A", video=Path("v.mp4"), group=group) for group in (None, "a")
    )
    assert group_of(alone) == "a-1"
    assert group_of(cycle) == "group a"
