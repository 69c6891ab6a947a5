import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from visreplay.replay_core import EMBEDDED
from visreplay.tasks.commands.cli import app

TASK = "visual-search-easy"
FORM = "<think>it shows {}"


def perturb(out: Path, *arguments: str, task: str = TASK) -> tuple[int, str, str]:
    result = CliRunner().invoke(
        app, ["perturb", task, "--out", str(out), "--device", "cpu", *arguments]
    )
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def report_of(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((out / "report.json").read_text("utf-8"))
    return report


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run."""
    out = tmp_path_factory.mktemp("noise")
    code, printed, err = perturb(out, "--samples", "2", "--noise", "0.3", "--form", FORM)
    assert code == 0, err
    assert "n = 2 samples, no intervals below 6" in printed
    return out


def test_report_and_picture(done: Path) -> None:
    report = report_of(done)
    none, *noisy = report["conditions"]
    assert [each["side"] for each in noisy] == ["low", "high", "all", "random"]
    assert all(each["kl"]["mean"] > none["kl"]["mean"] for each in noisy)
    low, high, *_ = noisy
    assert low["kl"]["mean"] > 10 * high["kl"]["mean"]
    # The policy reads the character on the crop that it has made itself.
    assert none["right_first"]["mean"] == 1
    assert none["right"]["mean"] < 0.1 < 1 < none["wrong"]["mean"]
    with Image.open(done / "noise.png") as picture:
        assert picture.width > 800
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20
    first = json.loads((done / "records.jsonl").read_text("utf-8").splitlines()[1])
    assert len(set(first["answers"])) == 4


def test_a_run_is_lengthened_and_the_same_again(done: Path, tmp_path: Path) -> None:
    settings, first, second = (done / "records.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_bytes(settings + first)
    code, _, err = perturb(tmp_path, "--samples", "2", "--noise", "0.3", "--form", FORM)
    assert code == 0, err
    assert (tmp_path / "records.jsonl").read_bytes() == settings + first + second
    code, _, err = perturb(
        tmp_path, "--samples", "2", "--noise", "0.3", "--form", FORM, "--seed", "1"
    )
    assert code == 2 and "seed was 0 and is 1" in err


def test_in_the_first_turn_the_policy_cannot_read_the_character(tmp_path: Path) -> None:
    code, printed, err = perturb(
        tmp_path, "--samples", "2", "--noise", "0.1", "--turn", "first", "--wrong", "1",
        "--markdown",
    )  # fmt: skip
    assert code == 0, err
    assert "| tokens | size | KL |" in printed
    assert report_of(tmp_path)["conditions"][0]["right"]["mean"] > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--noise", "0"], "every size must be positive"),
        (["--form", "the answer"], "needs {} in the place of the answer"),
        (["--policy", str(EMBEDDED / "policy")], "name it with --base"),
        (["--threshold", "relative", "--tau", "0.01"], "choose a higher --tau"),
        (["--replay-layers", "9", "--tau", "2"], "tau is 2.0"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, arguments: list[str], message: str) -> None:
    code, _, err = perturb(tmp_path, *arguments, "--samples", "1")
    assert code == 2
    assert message in err and "Traceback" not in err
