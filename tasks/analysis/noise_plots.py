"""The plot of `visreplay perturb`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visreplay.replay_core.config import Side
from visreplay.tasks.analysis.plots import COLOURS, MARKERS, STYLE, WIDTH, draw_legend, error_bars
from visreplay.tasks.analysis.tables import SIDES, sizes

Report = Mapping[str, Any]


def draw_noise(report: Report, out: Path) -> Path:
    """Draw the plot as a PNG file in a folder, and return its path."""
    path = out / "noise.png"
    with mpl.rc_context(STYLE):
        noise(report).savefig(path)
    return path


def noise(report: Report) -> Figure:
    """Plot KL by size of noise, perplexities by KL, and how often the right answer is first."""
    figure = Figure(figsize=(WIDTH, 3.6))
    by_size, by_kl, right = figure.subplots(1, 3)
    none, *noisy = report["conditions"]
    for number, side in enumerate(Side):
        line = [none, *(each for each in noisy if each["side"] == side)]
        style = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 4}
        size = [each["size"] for each in line]
        kl = [each["kl"]["mean"] for each in line]
        _curve(by_size, size, line, "kl", 1, label=SIDES[side], **style)
        _curve(right, size, line, "right_first", 100, **style)
        for answer, dashes in (("right", "-"), ("wrong", "--")):
            perplexity = np.exp([each[answer]["mean"] for each in line])
            by_kl.plot(kl, perplexity, linewidth=1, linestyle=dashes, **style)
    by_size.set(xlabel="size of the noise", ylabel="KL in nats", yscale="log")
    by_size.set_title("KL(base || policy)\nat low-entropy tokens")
    by_kl.set(xlabel="KL in nats", ylabel="perplexity", xscale="log", yscale="log")
    by_kl.set_title("perplexity of answers\nsolid: right, dashed: wrong")
    right.set(xlabel="size of the noise", ylabel="samples in %", ylim=(-3, 103))
    right.set_title("right answer is the\nmost probable")
    draw_legend(figure, "noise on")
    figure.suptitle(f"Noise on visual activations: {report['settings']['task']}, {sizes(report)}")
    return figure


def _curve(
    axes: Axes, x: list[float], line: list[Any], name: str, scale: float, **style: Any
) -> None:
    """Draw a measure with its intervals."""
    values = [each[name] for each in line]
    low = [value["low"] for value in values]
    joined = {
        "mean": [value["mean"] for value in values],
        "low": None if None in low else low,
        "high": [value["high"] for value in values],
    }
    axes.errorbar(
        x,
        scale * np.array(joined["mean"]),
        yerr=error_bars(joined, scale),
        capsize=2,
        linewidth=1,
        **style,
    )
