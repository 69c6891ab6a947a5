"""Whether replay can help a pair, found out before an evaluation is paid for."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from visreplay.agent import VisualAgent
from visreplay.replay_core import EMBEDDED, load_pair
from visreplay.tasks.analysis.diagnosis import ACTIVATIONS, FEATURES, changed_parts, verdict
from visreplay.tasks.commands.cli import app
from visreplay.tasks.registry import get_task

TASK = "visual-search-medium"


def diagnose(out: Path, *arguments: str) -> tuple[int, str]:
    command = ["diagnose", TASK, "--out", str(out), "--device", "cpu", *arguments]
    result = CliRunner().invoke(app, command)
    return result.exit_code, " ".join((result.stdout + result.stderr).split())


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that is the embedded one, but for noise on its vision tower."""
    folder = tmp_path_factory.mktemp("disturbed") / "policy"
    shutil.copytree(EMBEDDED / "policy", folder)
    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(0)
    for name, weight in weights.items():
        if "visual" in name and weight.dim() > 1:
            weight += 2 * weight.std() * torch.randn_like(weight)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def options(disturbed: Path) -> list[str]:
    """What the policy was before it was disturbed is the base here."""
    base = str(EMBEDDED / "policy")
    return ["--policy", str(disturbed), "--base", base, "--protocol", "embedded"]


def test_the_skilled_pair_has_nothing_to_repair(tmp_path: Path) -> None:
    code, printed = diagnose(tmp_path, "--samples", "6")
    assert code == 0, printed
    assert "nothing to repair was found: +0.0 points" in printed
    assert "vision tower 30 0 0.00 %" in printed
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["n"] == 6
    assert len(report["kl"]) == 5 and all(len(row) == 4 for row in report["kl"])


def test_a_disturbed_tower_can_be_repaired(
    tmp_path: Path, disturbed: Path, options: list[str]
) -> None:
    code, printed = diagnose(tmp_path, "--samples", "8", *options)
    assert code == 0, printed
    assert "points to repair: +" in printed
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    parts = {part["part"]: part for part in report["weights"]}
    assert parts["vision tower"]["changed"] > 0 == parts["decoder layers"]["changed"]
    # Only the tower differs, so that its features are all that there is to repair.
    assert report["accuracy"][FEATURES] == report["accuracy"][ACTIVATIONS]
    assert report["gain"][FEATURES]["low"] > 0
    # By hand: the base itself answers as often.
    agent = VisualAgent.from_pretrained(
        str(EMBEDDED / "policy"), protocol="embedded", replay="none", device="cpu"
    )
    task = get_task(TASK)
    samples = [task.load(sample_id) for sample_id in task.sample_ids()[:8]]
    right = [
        task.is_right(sample, agent.run(sample.question, images=sample.images).answer)
        for sample in samples
    ]
    assert report["accuracy"][FEATURES]["value"] == sum(right) / 8
    # The same command again reads what it has, and more samples are added.
    code, printed = diagnose(tmp_path, "--samples", "9", *options)
    assert code == 0 and "n = 9" in printed
    assert len((tmp_path / "records.jsonl").read_text("utf-8").splitlines()) == 10


def test_a_policy_with_the_weights_of_its_base() -> None:
    pair = load_pair(str(EMBEDDED / "base"), str(EMBEDDED / "base"), device="cpu")
    parts = changed_parts(pair)
    assert sum(part.tensors for part in parts) == len(list(pair.policy.model.named_parameters()))
    assert all(part.changed == 0 == part.relative for part in parts)
    report = {"weights": [{"changed": 0}], "n": 1, "gain": {}}
    assert verdict(report) == "nothing to repair: the policy has the weights of its base"


def test_a_small_gain_is_undecided() -> None:
    gain = {"a": {"value": 0.1, "low": -0.1, "high": 0.3}, "b": {"value": 0, "low": 0, "high": 0}}
    line = verdict({"weights": [{"changed": 1}], "gain": gain, "n": 20})
    assert line == "undecided: +10.0 points (-10.0 to 30.0) a, n = 20; take more samples"


def test_a_base_is_needed(tmp_path: Path) -> None:
    code, printed = diagnose(tmp_path, "--policy", str(EMBEDDED / "policy"))
    assert code != 0 and "name it with --base" in printed
