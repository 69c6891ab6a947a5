from typing import Any

import pytest

from visreplay.replay_core import Perturbation, Side
from visreplay.tasks.analysis.noise import conditions, summarise_noise


def test_the_conditions_begin_without_noise() -> None:
    found = conditions([0.2, 0.1, 0.2])
    assert found[0].size == 0
    assert found[1:3] == [Perturbation(Side.LOW, 0.1), Perturbation(Side.LOW, 0.2)]
    assert len(found) == 1 + 4 * 2


def result(group: str, kl: list[float], right: list[float]) -> dict[str, Any]:
    wrong = [10 - value for value in right]
    return {"group": group, "kl": kl, "right": right, "wrong": wrong, "right_first": [1.0, 1, 0]}


THREE = [Perturbation(Side.LOW, 0.0), Perturbation(Side.LOW, 0.1), Perturbation(Side.HIGH, 0.1)]


def test_the_summary_of_many_samples() -> None:
    results = [result(str(i), [1 + i, 3 + i, 2 + i], [0.1, 0.3, 0.2]) for i in range(6)]
    report = summarise_noise(results, THREE)
    assert report["n"] == 6
    none, low, high = report["conditions"]
    assert (none["side"], low["side"], high["side"]) == (None, "low", "high")
    assert low["kl"]["mean"] == 5.5 and low["kl"]["low"] < 5.5 < low["kl"]["high"]
    assert none["right_first"]["mean"] == 1 and none["right_first"]["low"] < 0.7
    assert high["right_first"]["mean"] == 0 and high["right_first"]["high"] > 0.3
    correlation = report["rank_correlation"]
    assert correlation["right"] == {"mean": 1, "low": 1, "high": 1}
    assert correlation["wrong"]["mean"] == pytest.approx(-1)


def test_samples_without_a_low_entropy_token_are_left_out() -> None:
    nan = float("nan")
    results = [result("a", [1, 2, 3], [1, 2, 3]), result("b", [nan] * 3, [9, 9, 9])]
    report = summarise_noise(results, THREE)
    assert (report["n"], report["without_low_entropy"]) == (1, 1)
    assert report["conditions"][0]["right"] == {"mean": 1, "low": None, "high": None}
    with pytest.raises(ValueError, match="choose a higher --tau"):
        summarise_noise(results[1:], THREE)
