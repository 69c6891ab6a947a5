"""The demo, with one sample of each task."""

import json
from pathlib import Path

from typer.testing import CliRunner

from visreplay.agent.episode.embedded_agent import ROWS
from visreplay.tasks.commands.cli import app
from visreplay.tasks.commands.demo import TABLE


def test_the_demo_plays_measures_and_writes_a_page(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--samples", "1", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "Which character is on the green marker?" in result.output
    assert "embedded policy + embedded base" in result.output
    assert "token replay over 64 new visual tokens" in result.output

    rows = json.loads((tmp_path / "summary.json").read_text("utf-8"))["rows"]
    tasks = [(pair, task, row) for pair in TABLE for task in TABLE[pair] for row in ROWS]
    assert [(row["pair"], row["task"], row["system"]) for row in rows] == tasks
    for row in rows:
        assert row["summary"]["n"] == 1
        assert (row["change"] is not None) == row["system"].startswith("policy+")

    page = (tmp_path / "index.html").read_text("utf-8")
    assert "embedded policy + token replay" in page
    for task in ("visual-search-medium", "video-search"):
        folder = tmp_path / "embedded-policy+token" / task
        assert (folder / "trajectory.json").exists()
