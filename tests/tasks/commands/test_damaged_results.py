"""Results of `analyze`, `perturb` and `diagnose` that are of another form are measured again."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from visreplay.tasks.analysis.result_shapes import (
    diagnosis_mismatch,
    noise_mismatch,
    shifts_mismatch,
)
from visreplay.tasks.commands.cli import app

OPTIONS = {"analyze": [], "perturb": ["--noise", "0.3", "--turn", "first"], "diagnose": []}
CHECKS = {
    "analyze": shifts_mismatch,
    "perturb": noise_mismatch,
    "diagnose": diagnosis_mismatch,
}


def measure(command: str, out: Path) -> str:
    options = ["--out", str(out), "--device", "cpu", "--samples", "1", *OPTIONS[command]]
    result = CliRunner().invoke(app, [command, "visual-search-easy", *options])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize("command", CHECKS)
def test_a_result_of_another_form_is_measured_again(command: str, tmp_path: Path) -> None:
    measure(command, tmp_path)
    path = tmp_path / "records.jsonl"
    settings, line = path.read_bytes().splitlines(keepends=True)
    whole: dict[str, Any] = json.loads(line)
    damaged = [{key: value for key, value in whole.items() if key != "group"}]
    for key in whole.keys() - {"sample_id", "group", "answers", "maps"}:
        damaged += [{**whole, key: value} for value in (None, [], "much", 7, {"x": [[0.0], []]})]
    for number, changed in enumerate(damaged):
        path.write_bytes(settings + json.dumps(changed).encode() + b"\n")
        if number < 2:
            assert "1 damaged line of" in measure(command, tmp_path)
            assert json.loads(path.read_bytes().splitlines()[1]) == whole
        else:
            assert CHECKS[command](json.loads(settings)["settings"], changed)
