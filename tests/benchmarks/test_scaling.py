"""The page about many GPUs: its tables, what was measured, and how tables get into pages."""

from pathlib import Path

import pytest
from cluster import LIKELY
from report import fill
from scaling import PAGE, TABLES, assumptions, measured, ranged, steps
from scaling_measured import (
    RATIOS,
    REPEATS,
    TEXTS,
    THREE,
    on_a_gpu,
    predicted,
    ratios,
    reading_of,
)
from scaling_measured import measured as run
from sizes import Sizes

from visreplay.replay_core import Method

TINY = Sizes(
    hidden=64,
    inner=128,
    heads=2,
    kv_heads=1,
    layers=2,
    vocabulary=500,
    vision_layers=1,
    vision_hidden=64,
    vision_inner=128,
    side=8,
    replay_layers=2,
    state_layers=1,
)


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_the_table(name: str) -> None:
    """`python benchmarks/scaling.py` writes it."""
    assert f"<!-- {name} -->\n{TABLES[name]()}<!-- end -->" in PAGE.read_text("utf-8")


def test_every_ratio_was_measured_at_three_sizes() -> None:
    assert len(measured()["ratios"]) == len(THREE)
    for found in measured()["ratios"]:
        assert set(found) == set(RATIOS)
        assert all(len(values) == REPEATS for values in found.values())


def test_what_is_measured_is_what_is_predicted() -> None:
    seconds = run(TINY, repeats=1)
    texts = {f"text, {tokens}" for tokens in TEXTS}
    assert set(seconds) <= set(predicted(TINY)) | texts
    found = ratios(seconds)
    assert set(found) == set(RATIOS)
    above, below = RATIOS["state replay / plain, first turn"]
    assert found["state replay / plain, first turn"] == [seconds[above][0] / seconds[below][0]]


def test_flops_say_that_replay_costs_more_and_later_turns_less() -> None:
    for sizes in THREE:
        flops = predicted(sizes)
        assert flops["none"] < flops["feature"] < flops["state"] < flops["token"]
        assert flops["state, second"] < flops["state"]


def test_reading_the_weights_is_what_a_short_text_takes_beside_its_tokens() -> None:
    seconds = {"text, 16": [0.5, 0.42, 0.4], "text, 256": [0.9, 1.0, 0.9]}
    # Each token takes 0.002 seconds, so that 0.388 are left.
    assert reading_of(seconds) == pytest.approx(194)
    assert len(measured()["reading"]) == len(THREE)
    few, many = (predicted(TINY, reading) for reading in (0, 100))
    # A second turn has four pieces, a first one three, and each reads all weights.
    assert (many["none, second"] - few["none, second"]) / 4 == pytest.approx(
        (many["none"] - few["none"]) / 3
    )


def test_arithmetic_is_compared_with_all_that_was_timed_on_a_gpu() -> None:
    stages = list(on_a_gpu(LIKELY))
    assert len(stages) == 7
    assert all(expected > 0 and found > 0 for _, expected, found in stages)
    # The time of a call was taken from the vision tower's row.
    assert stages[0][1] == pytest.approx(stages[0][2], rel=0.1)


def test_each_change_takes_work_away() -> None:
    for method in (Method.STATE, Method.TOKEN):
        seconds = [each.worker_seconds for _, each in steps(method)]
        assert seconds == sorted(seconds, reverse=True)


def test_assumptions_are_changed_one_at_a_time() -> None:
    (_, first), *others = assumptions()
    assert len({name for name, _ in others}) == len(others)
    for name, each in others:
        fields = [key for key in vars(first) if vars(first)[key] != vars(each).get(key)]
        assert len([key for key in fields if key in first.__dataclass_fields__]) == 1, name


def test_a_range_goes_from_low_to_high() -> None:
    (_, first), *_ = assumptions()
    assert ranged(first, lambda each: each.shares.compute) == "0.4 (0.2 to 0.6)"
    assert ranged(first, lambda each: 1 / each.shares.compute) == "2.5 (1.7 to 5)"
    assert ranged(first, lambda each: 0.0) == "-"


def test_tables_replace_what_is_between_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Before\n<!-- a -->\nold\n<!-- end -->\nafter", "utf-8")
    fill([page], {"a": lambda: "new\\1\n"})
    assert page.read_text("utf-8") == "Before\n<!-- a -->\nnew\\1\n<!-- end -->\nafter"


def test_a_table_without_a_place_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing", "utf-8")
    with pytest.raises(SystemExit, match="no page has a place for the tables"):
        fill([page], {"a": lambda: ""})
