import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from visreplay.replay_core import EMBEDDED, ModelPair, ReplayConfig
from visreplay.tasks.analysis.prompt import Prompt
from visreplay.tasks.analysis.shifts import GROUPS, PLAIN, measure_shifts, summarise_shifts, verdict
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
    """The folder of a short run."""
    out = tmp_path_factory.mktemp("analysis")
    code, printed, err = analyze(out, "--samples", "3")
    assert code == 0, err
    assert "n = 3" in printed
    return out


def test_report_and_pictures(done: Path) -> None:
    report = json.loads((done / "report.json").read_text("utf-8"))
    assert (report["n"], report["layers"], report["visual_tokens"]) == (3, 4, 3 * 64)
    assert report["systems"].keys() == {"policy", "policy+token", "policy+state"}
    for system in report["systems"].values():
        for name, shape in (("kl", (4, 4)), ("changed", (4, 4)), ("kl_of_all", (4,))):
            low, mean, high = (np.array(system[name][key]) for key in ("low", "mean", "high"))
            assert low.shape == mean.shape == shape
            assert (low <= mean).all() and (mean <= high).all()
        np.testing.assert_allclose(np.sum(system["histogram"], axis=1), 1)
    token, plain = (
        np.array(report["systems"][name]["kl"]["mean"])[:2, 0] for name in ("policy+token", PLAIN)
    )
    assert (token < plain).all()
    entropy = np.array(report["base"]["entropy"]["mean"])
    assert (np.diff(entropy, axis=1) > 0).all()
    for name in ("kl", "changed", "entropy", "overlay"):
        with Image.open(done / f"{name}.png") as picture:
            assert picture.width > 800
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20


def test_a_run_goes_on_where_it_stopped(done: Path, tmp_path: Path) -> None:
    records = (done / "records.jsonl").read_bytes()
    settings, first, second, third = records.splitlines(keepends=True)
    # Stopped in the middle of writing the second result. The first one is marked, to see that it
    # is not measured again.
    marked = json.loads(first)
    marked["visual_tokens"] = 1000
    first = json.dumps(marked).encode() + b"\n"
    (tmp_path / "records.jsonl").write_bytes(settings + first + second[:40])
    code, _, err = analyze(tmp_path, "--samples", "3")
    assert code == 0, err
    assert (tmp_path / "records.jsonl").read_bytes() == settings + first + second + third
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["visual_tokens"] == 1000 + 2 * 64
    # Fewer samples than there are results: the first ones.
    code, _, err = analyze(tmp_path, "--samples", "1")
    assert code == 0, err
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["n"] == 1


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
    code, _, err = analyze(done, "--samples", "3", *arguments)
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
    assert list(report["systems"]) == [PLAIN]
    assert (tmp_path / "overlay.png").stat().st_size > 10_000


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "visreplay.tasks.analysis" and rest[2] == ("plots",):
            raise ImportError("No module named 'matplotlib'")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    code, _, err = analyze(tmp_path, "--samples", "1")
    assert code == 2
    assert "visreplay[analysis]" in err


def test_the_plain_policy_alone_has_the_same_numbers(done: Path, embedded_pair: ModelPair) -> None:
    report = json.loads((done / "report.json").read_text("utf-8"))
    task = get_task(TASK)
    results = [
        measure_shifts(
            embedded_pair,
            Prompt.of(task.sample(seed), "embedded", embedded_pair),
            {PLAIN: ReplayConfig("none")},
        )
        for seed in range(Split.HELD_OUT, Split.HELD_OUT + 3)
    ]
    again = summarise_shifts(results, embedded_pair.policy.head.out_features)
    np.testing.assert_allclose(
        again["systems"][PLAIN]["kl"]["mean"], report["systems"][PLAIN]["kl"]["mean"], rtol=1e-4
    )


def test_intervals_and_verdict_are_over_samples() -> None:
    def result(lowest: float, highest: float) -> dict[str, Any]:
        layer = [lowest, 0, 0, highest]
        counts = [[1, 1]]
        system = {"kl": [layer], "changed": [layer], "histogram": counts}
        base = {"entropy": [layer], "histogram": counts}
        return {"visual_tokens": 2, "base": base, "systems": {PLAIN: system}}

    report = summarise_shifts([result(2, 1), result(4, 1)], vocabulary=10)
    kl = report["systems"][PLAIN]["kl"]
    assert len(GROUPS) == len(kl["mean"][0]) == 4
    assert (kl["mean"][0][0], kl["low"][0][0], kl["high"][0][0]) == (3, 2, 4)
    assert report["systems"][PLAIN]["kl_lowest_minus_highest"]["mean"] == [2]
    assert "above 0 in 1 of 1 layers (0)" in verdict(report)
    assert "below 0 in 1 (0)" in verdict(summarise_shifts([result(1, 2)], vocabulary=10))
