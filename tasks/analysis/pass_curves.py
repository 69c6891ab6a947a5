"""The plot of pass@1 to pass@K of several runs, as the paper draws them (its figure 6)."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from visreplay.tasks.analysis.plots import COLOURS, MARKERS, STYLE, WIDTH
from visreplay.tasks.evaluation.runs import Run
from visreplay.tasks.evaluation.summary import summarise
from visreplay.tasks.evaluation.tables import counted

SUFFIXES = (".png", ".pdf", ".svg")


def save_pass_curves(runs: Sequence[Run], path: Path) -> None:
    """Draw pass@1 to pass@K of several runs into a file.

    Args:
        runs: Runs of one task with two or more rollouts a sample.
        path: The file; its suffix decides the format.

    Raises:
        ValueError: The suffix is another, the runs are of several tasks, or one has a single
            rollout a sample or no sample without an error.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--plot is {str(path)!r}, but must end in {', '.join(SUFFIXES)}")
    with mpl.rc_context(STYLE):
        figure = pass_curves(runs)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def pass_curves(runs: Sequence[Run]) -> Figure:
    """Plot pass@1 to pass@K: a line for each run, with its 95 % intervals as a band.

    Raises:
        ValueError: As `save_pass_curves`.
    """
    tasks = sorted({str(run.settings["task"]) for run in runs})
    if len(tasks) > 1:
        raise ValueError(f"the runs are of {', '.join(tasks)}: pass@k is drawn for one task")
    figure = Figure(figsize=(WIDTH, 4.0))
    axes = figure.subplots()
    for number, run in enumerate(runs):
        rollouts = int(run.settings["rollouts"])
        if rollouts < 2 or not run.scored:
            raise ValueError(
                f"rollouts a sample of {run.name}: {rollouts}, scored samples: {len(run.scored)}; "
                "pass@k needs two or more rollouts, and a scored sample"
            )
        summary = summarise(run.records.values())
        ks = np.arange(1, rollouts + 1)
        shares = [summary.metrics[f"pass@{k}"] for k in ks]
        colour = COLOURS[number % len(COLOURS)]
        errors = f", {counted(summary.errors, 'error')}" if summary.errors else ""
        axes.plot(
            ks,
            [100 * each.value for each in shares],
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            linestyle=("-", "--", ":")[number // len(COLOURS) % 3],
            label=f"{run.system} ({run.name}), n = {summary.n}{errors}",
        )
        axes.fill_between(
            ks,
            [100 * each.low for each in shares],
            [100 * each.high for each in shares],
            color=colour,
            alpha=0.15,
            lw=0,
        )
    axes.set(xlabel="k", ylabel="pass@k in %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(f"pass@k on {tasks[0]}; bands: 95 % intervals over samples")
    figure.legend(loc="outside lower center")
    return figure
