import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from visreplay.replay_core import (
    EMBEDDED,
    Method,
    ModelPair,
    ReplayConfig,
    Threshold,
    embedded_config,
)
from visreplay.tasks.analysis.prompt import Prompt
from visreplay.tasks.analysis.shifts import (
    GROUPS,
    KINDS,
    OBJECTIVES,
    PLAIN,
    measure_shifts,
    summarise_shifts,
    verdict,
)
from visreplay.tasks.commands.analyze import objective_settings
from visreplay.tasks.commands.cli import app
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Split

TASK = "visual-search-easy"


def visreplay(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def analyze(out: Path, *arguments: str, task: str = TASK) -> tuple[int, str, str]:
    return visreplay("analyze", task, "--out", str(out), "--device", "cpu", *arguments)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run, of as few samples as have intervals."""
    out = tmp_path_factory.mktemp("analysis")
    code, printed, err = analyze(out, "--samples", "6")
    assert code == 0, err
    assert "n = 6 samples, 95 % intervals" in printed
    assert "the 95 % interval is above 0 in" in printed
    return out


def test_report_and_pictures(done: Path) -> None:
    report = json.loads((done / "report.json").read_text("utf-8"))
    assert (report["n"], report["independent"], report["layers"]) == (6, 6, 4)
    assert report["visual"]["tokens"] == 6 * 64
    assert report["text"]["tokens"] > 6 * 10
    assert report["all"]["tokens"] == report["visual"]["tokens"] + report["text"]["tokens"]
    for kind in KINDS:
        assert report[kind]["systems"].keys() == {"policy", "policy+token", "policy+state"}
        for system in report[kind]["systems"].values():
            for name, shape in (("kl", (4, 4)), ("changed", (4, 4)), ("kl_of_all", (4,))):
                low, mean, high = (np.array(system[name][key]) for key in ("low", "mean", "high"))
                assert low.shape == mean.shape == shape
                assert (low <= mean).all() and (mean <= high).all()
            np.testing.assert_allclose(np.sum(system["histogram"], axis=1), 1)
        entropy = np.array(report[kind]["base"]["entropy"]["mean"])
        assert (np.diff(entropy, axis=1) > 0).all()
    token, plain = (
        np.array(report["visual"]["systems"][name]["kl"]["mean"])[:2, 0]
        for name in ("policy+token", PLAIN)
    )
    assert (token < plain).all()
    for name in ("kl", "changed", "entropy", "objective", "overlay"):
        with Image.open(done / f"{name}.png") as picture:
            assert picture.width > 800
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20


def test_most_of_the_released_objective_is_there_without_rlvr(done: Path) -> None:
    terms = json.loads((done / "report.json").read_text("utf-8"))["objective"]
    assert len(terms["share"]["mean"]) == 2
    for share in (*terms["share"]["mean"], terms["share_loss"]["mean"]):
        assert 0.94 < share < 1
    assert terms["share_loss"]["low"] < terms["share_loss"]["mean"] < terms["share_loss"]["high"]
    assert terms["released_loss"]["mean"] > 20 * terms["same_depth_loss"]["mean"]


def test_the_words_of_the_lens_are_counted(done: Path) -> None:
    report = json.loads((done / "report.json").read_text("utf-8"))
    for kind in ("visual", "text"):
        for ends in report["words"][kind].values():
            for found in ends.values():
                assert sum(n for _, n in found["base"]) <= found["tokens"]
                for system in found["systems"].values():
                    counted = sum(n for _, _, n, _ in system["changed"])
                    assert counted <= system["changed_tokens"] <= found["tokens"]
                    assert all(base != top for base, top, _, _ in system["changed"])
    visual = report["words"]["visual"]
    assert visual.keys() == {"0", "1", "2", "3"}
    assert visual["0"]["lowest"]["tokens"] == visual["0"]["highest"]["tokens"] == 6 * 16
    changed = sum(ends["lowest"]["systems"][PLAIN]["changed_tokens"] for ends in visual.values())
    share = np.array(report["visual"]["systems"][PLAIN]["changed"]["mean"])[:, 0].sum()
    assert changed == pytest.approx(share * 6 * 16)


def test_a_run_goes_on_where_it_stopped(done: Path, tmp_path: Path) -> None:
    records = (done / "records.jsonl").read_bytes()
    settings, first, second, third, *_ = records.splitlines(keepends=True)
    # Stopped in the middle of writing the second result. The first one is marked, to see that it
    # is not measured again.
    marked = json.loads(first)
    marked["visual"]["tokens"] = 1000
    first = json.dumps(marked).encode() + b"\n"
    (tmp_path / "records.jsonl").write_bytes(settings + first + second[:40])
    code, printed, err = analyze(tmp_path, "--samples", "3", "--markdown")
    assert code == 0, err
    assert (tmp_path / "records.jsonl").read_bytes() == settings + first + second + third
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["visual"]["tokens"] == 1000 + 2 * 64
    assert "| system | layer | lowest | highest | lowest - highest | changed |" in printed


def test_one_sample_has_no_interval_and_no_verdict(done: Path, tmp_path: Path) -> None:
    lines = (done / "records.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_bytes(b"".join(lines[:2]))
    # Fewer samples than there are results: the first ones.
    code, printed, err = analyze(tmp_path, "--samples", "1")
    assert code == 0, err
    assert "n = 1 sample, no intervals below 6" in printed
    assert "no statement, which takes 6 samples or more" in printed
    assert "interval is" not in printed and "(0." not in printed
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["visual"]["systems"][PLAIN]["kl"]["low"] is None
    assert report["objective"]["share_loss"]["high"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tau", "0.3"], "tau was 0.5 and is 0.3"),
        (["--replay", "token"], "policy+state"),
        (["--dtype", "bfloat16"], "dtype was 'auto' and is 'bfloat16'"),
    ],
)
def test_other_settings_are_refused(done: Path, arguments: list[str], message: str) -> None:
    before = (done / "records.jsonl").read_bytes()
    code, _, err = analyze(done, "--samples", "6", *arguments)
    assert code == 2
    assert message in err and "choose another --out" in err
    assert (done / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        ("chess", [], "there is no task 'chess'"),
        (TASK, ["--layer", "4"], "--layer is 4, but the pair has layers 0 to 3"),
        (TASK, ["--policy", str(EMBEDDED / "policy")], "name it with --base"),
        (TASK, ["--theta", "nowhere.json"], "theta cannot be read from nowhere.json"),
        (TASK, ["--state-layers", "9", "--replay", "state"], "state_layers is 9"),
    ],
)
def test_mistakes_are_explained(
    tmp_path: Path, task: str, arguments: list[str], message: str
) -> None:
    code, _, err = analyze(tmp_path / "out", *arguments, "--samples", "1", task=task)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_a_video_task_and_the_plain_policy_alone(tmp_path: Path) -> None:
    code, _, err = analyze(tmp_path, "--replay", "none", "--samples", "1", task="video-search")
    assert code == 0, err
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert list(report["visual"]["systems"]) == [PLAIN]
    assert report["objective"]["share_loss"]["mean"] > 0.5
    assert (tmp_path / "overlay.png").stat().st_size > 10_000


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "visreplay.tasks.analysis.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = analyze(tmp_path, "--samples", "1")
    assert code == 2
    assert "plots need matplotlib: pip install 'visreplay[analysis]'" in err


def test_the_plain_policy_alone_has_the_same_numbers(done: Path, embedded_pair: ModelPair) -> None:
    first = json.loads((done / "records.jsonl").read_text("utf-8").splitlines()[1])
    alone = measure_shifts(
        embedded_pair,
        Prompt.of(get_task(TASK).sample(Split.HELD_OUT), "embedded", embedded_pair),
        {PLAIN: ReplayConfig("none")},
        embedded_config(Method.TOKEN),
    )
    for kind in KINDS:
        np.testing.assert_allclose(
            alone[kind]["systems"][PLAIN]["kl"], first[kind]["systems"][PLAIN]["kl"], rtol=1e-4
        )
    assert alone["words"]["visual"][PLAIN] == first["words"]["visual"][PLAIN]


def test_limits_of_state_replay_are_not_for_the_objective() -> None:
    limits = {"threshold": Threshold.ABSOLUTE, "theta": "theta.json", "side": "high", "tau": 0.3}
    assert objective_settings(limits) == {"method": Method.TOKEN, "tau": 0.3}
    assert objective_settings({"threshold": Threshold.QUANTILE})["threshold"] == "quantile"


def result(lowest: float, highest: float) -> dict[str, Any]:
    layer = [lowest, 0, 0, highest]
    counts = [[1, 1]]
    return {
        "tokens": 2,
        "base": {"entropy": [layer], "histogram": counts},
        "systems": {PLAIN: {"kl": [layer], "changed": [layer], "histogram": counts}},
    }


def summary(*kinds: dict[str, Any], embedded_pair: ModelPair) -> dict[str, Any]:
    terms = {name + end: 1.0 if end else [1.0] for name in OBJECTIVES for end in ("", "_loss")}
    words = {kind: {PLAIN: {"0": {"lowest": [[7, 8, 1]]}}} for kind in ("visual", "text")}
    results = [
        {"group": str(number), **dict.fromkeys(KINDS, each), "objective": terms, "words": words}
        for number, each in enumerate(kinds)
    ]
    return summarise_shifts(results, 10, embedded_pair.tokenizer)


def test_intervals_and_verdict_are_over_samples(embedded_pair: ModelPair) -> None:
    rising = [result(number, 1) for number in range(2, 8)]
    report = summary(*rising, embedded_pair=embedded_pair)
    kl = report["visual"]["systems"][PLAIN]["kl"]
    assert len(GROUPS) == len(kl["mean"][0]) == 4
    assert kl["mean"][0][0] == 4.5 and 2 < kl["low"][0][0] < 4.5 < kl["high"][0][0] < 7
    assert report["visual"]["systems"][PLAIN]["kl_lowest_minus_highest"]["mean"] == [3.5]
    assert "above 0 in 1 of 1 layers (0)" in verdict(report)
    falling = summary(*[result(1, 2)] * 6, embedded_pair=embedded_pair)
    assert "below 0 in 1 (0)" in verdict(falling)
    few = summary(*[result(1, 2)] * 5, embedded_pair=embedded_pair)
    assert "no statement" in verdict(few) and "below" not in verdict(few)
