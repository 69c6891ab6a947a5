from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from records import record, run_of
from typer.testing import CliRunner

from visreplay.tasks.analysis.pass_curves import pass_curves
from visreplay.tasks.commands.cli import app
from visreplay.tasks.evaluation.runs import Run


def two_runs(folder: Path) -> list[Run]:
    plain = run_of(
        folder / "plain", record("1", True, False, False), record("2", False, False, False),
        record("3", error="OSError: away"), rollouts=3,
    )  # fmt: skip
    replayed = run_of(
        folder / "replayed", record("1", True, True, True), record("2", False, True, False),
        rollouts=3, replay={"method": "state"},
    )  # fmt: skip
    return [plain, replayed]


def test_the_lines_are_pass_at_k_and_the_bands_their_intervals(tmp_path: Path) -> None:
    (axes,) = pass_curves(two_runs(tmp_path)).axes
    plain, replayed = axes.lines
    np.testing.assert_array_equal(plain.get_xdata(), [1, 2, 3])
    # Of three rollouts one is right: two of the three pairs have it, and the only triple.
    np.testing.assert_allclose(plain.get_ydata(), [100 / 6, 200 / 6, 50])
    np.testing.assert_allclose(replayed.get_ydata(), [400 / 6, 500 / 6, 100])
    assert plain.get_label() == "DeepEyes-7B (plain), n = 2, 1 error"
    assert replayed.get_label() == "DeepEyes-7B + state replay (replayed), n = 2"
    bands = [each for each in axes.collections if isinstance(each, PolyCollection)]
    assert len(bands) == 2
    for band, line in zip(bands, axes.lines, strict=True):
        (path,) = band.get_paths()
        heights = {k: [y for x, y in np.asarray(path.vertices) if x == k] for k in (1.0, 2.0, 3.0)}
        for k, value in zip(heights, np.asarray(line.get_ydata()), strict=True):
            assert min(heights[k]) <= value <= max(heights[k])
            assert max(heights[k]) - min(heights[k]) > 1


def test_the_command_writes_the_plot(tmp_path: Path) -> None:
    runs = [str(run.folder) for run in two_runs(tmp_path)]
    out = tmp_path / "plots" / "pass.png"
    arguments = ["table", *runs, "--allow-errors", "--plot"]
    result = CliRunner().invoke(app, [*arguments, str(out)])
    assert result.exit_code == 0, result.stderr
    assert out.read_bytes().startswith(b"\x89PNG")
    result = CliRunner().invoke(app, [*arguments, str(tmp_path / "pass.gif")])
    assert result.exit_code == 2
    assert "must end in .png, .pdf, .svg" in " ".join(result.stderr.split())


def test_runs_that_make_no_curve_are_refused(tmp_path: Path) -> None:
    single = run_of(tmp_path / "single", record("1", True))
    with pytest.raises(ValueError, match="of single: 1, scored samples: 1;"):
        pass_curves([single])
    other = run_of(tmp_path / "other", record("1", True, True), rollouts=2, task="vstar")
    with pytest.raises(ValueError, match="of hr-bench-4k, vstar"):
        pass_curves([single, other])
