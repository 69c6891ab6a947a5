"""The shapes of the results of `analyze`, `perturb` and `diagnose`: `Journal` checks by them.

Files of results are data: they may be damaged, edited, or made by another program.
"""

from typing import Annotated, Any

from pydantic import AfterValidator

from visreplay.agent.episode.state_shapes import Shape, Text, mismatch

Row = list[float]


def _rectangular(rows: list[Row]) -> list[Row]:
    if len({len(row) for row in rows}) != 1:
        raise ValueError("the rows are not of one length, or there are none")
    return rows


Rows = Annotated[list[Row], AfterValidator(_rectangular)]


class _Noise(Shape):
    group: Text
    kl: Row
    right: Row
    wrong: Row
    right_first: Row


class _Diagnosis(Shape):
    group: Text
    right: dict[Text, bool]
    kl: Rows


class _Base(Shape):
    entropy: Rows
    histogram: Rows


class _System(Shape):
    kl: Rows
    changed: Rows
    histogram: Rows


class _Kind(Shape):
    tokens: int
    base: _Base
    systems: dict[Text, _System]


class _Objective(Shape):
    released: Row
    released_base: Row
    same_depth: Row
    released_loss: float
    released_base_loss: float
    same_depth_loss: float


class _Map(Shape):
    grid: list[int]
    entropy: Rows
    kl: Rows


_Words = dict[Text, dict[Text, dict[Text, list[list[int]]]]]
"""Counts of `words.count_words`, by system."""


class _Shifts(Shape):
    group: Text
    visual: _Kind
    text: _Kind
    all: _Kind
    objective: _Objective
    words: dict[Text, _Words]
    maps: list[_Map] | None = None


def noise_mismatch(settings: dict[str, Any], result: dict[str, Any]) -> str | None:
    """Tell what is wrong with a result of `perturb`; None if nothing is.

    Args:
        settings: The settings of its journal.
        result: The result.
    """
    wrong = mismatch(_Noise, result)
    conditions = len(settings.get("conditions", ()))
    if wrong is None:
        for name in ("kl", "right", "wrong", "right_first"):
            if len(result[name]) != conditions:
                return f"{name}: {len(result[name])} values for {conditions} conditions"
    return wrong


def diagnosis_mismatch(_: dict[str, Any], result: dict[str, Any]) -> str | None:
    """Tell what is wrong with a result of `diagnose`, as `noise_mismatch` does for `perturb`."""
    return mismatch(_Diagnosis, result)


def shifts_mismatch(settings: dict[str, Any], result: dict[str, Any]) -> str | None:
    """Tell what is wrong with a result of `analyze`, as `noise_mismatch` does for `perturb`."""
    wrong = mismatch(_Shifts, result)
    if wrong is None:
        for kind in ("visual", "text", "all"):
            if missing := settings.get("replay", {}).keys() - result[kind]["systems"].keys():
                return f"{kind}.systems: {', '.join(sorted(missing))} is missing"
    return wrong
