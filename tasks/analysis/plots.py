"""The plots of `visreplay analyze`, and the style of all plots of the analysis."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray
from PIL import Image

from visreplay.tasks.analysis.estimates import cell
from visreplay.tasks.analysis.shifts import KINDS, PLAIN
from visreplay.tasks.analysis.tables import samples, sizes

Report = Mapping[str, Any]
Pixels = NDArray[np.uint8]

Map = tuple[list[Image.Image], Mapping[str, Any]]
"""A block's picture at each of its steps in time, and entropy and divergence of its tokens."""

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "figure.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 130,
}
WIDTH = 8.0
"""The width of a figure, in inches."""

# Okabe and Ito's colours, which the colour-blind can tell apart (jfly.uni-koeln.de/color).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
MARKERS = "osD^"
MAX_PANELS = 8
MAX_STEPS = 4
MAX_SIDE = 448
"""The longest side of a picture in a panel, in pixels."""


def draw_plots(report: Report, maps: Sequence[Map], layer: int, out: Path) -> list[Path]:
    """Draw all plots as PNG files.

    Args:
        report: The report of `summarise_shifts`, with the settings.
        maps: The pictures of some samples with their maps.
        layer: The layer to show on pictures.
        out: The folder of the files.

    Returns:
        The paths of the files.
    """
    with mpl.rc_context(STYLE):
        figures = {
            "kl": divergence(report),
            "changed": changed_share(report),
            "entropy": entropies(report),
            "objective": objectives(report),
            "overlay": overlay(report, maps, layer),
        }
        paths = []
        for name, figure in figures.items():
            paths.append(out / f"{name}.png")
            figure.savefig(paths[-1])
    return paths


def divergence(report: Report) -> Figure:
    """Plot KL(base || policy) by layer: a column for each system, a line per quarter by entropy."""
    names = list(report["visual"]["systems"])
    figure = Figure(figsize=(WIDTH, 1.4 + 2.0 * len(KINDS)))
    rows = figure.subplots(len(KINDS), len(names), sharex=True, sharey=True, squeeze=False)
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.8, len(report["groups"])))
    layers = np.arange(report["layers"])
    for panels, (kind, words) in zip(rows, KINDS.items(), strict=True):
        for axes, name in zip(panels, names, strict=True):
            _mark_replayed(axes, report, name, kind)
            estimate = report[kind]["systems"][name]["kl"]
            for group, label in enumerate(report["groups"]):
                axes.plot(
                    layers,
                    np.array(estimate["mean"])[:, group],
                    color=shades[group],
                    marker=MARKERS[group % 4],
                    markersize=4,
                    label=label,
                )
                if estimate["low"] is not None:
                    low, high = (np.array(estimate[end])[:, group] for end in ("low", "high"))
                    axes.fill_between(layers, low, high, color=shades[group], alpha=0.2, lw=0)
            _layer_axis(axes, report)
            axes.set_xlabel("decoder layer" if panels is rows[-1] else "")
        # Long names would collide with those of the rows above and below.
        panels[0].set_ylabel(words.replace(" tokens together", "") + "\nKL in nats")
    for axes, name in zip(rows[0], names, strict=True):
        axes.set(title=_label(name))
    first = rows[0, 0]
    if np.max(report["visual"]["systems"][PLAIN]["kl"]["mean"]) > 0:  # 0 if both are one model
        first.set(yscale="log")
        first.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        first.yaxis.set_major_formatter("{x:g}")
        first.yaxis.set_minor_locator(NullLocator())
    draw_legend(figure, "tokens by base entropy")
    figure.suptitle(f"KL(base || policy) of the logit lens\n{_caption(report)}")
    return figure


def changed_share(report: Report) -> Figure:
    """Plot by layer the share of tokens whose top entry of the lens is not the base's."""
    figure = Figure(figsize=(WIDTH, 3.2))
    panels = figure.subplots(1, len(KINDS), sharey=True)
    for axes, (kind, words) in zip(panels, KINDS.items(), strict=True):
        systems = report[kind]["systems"]
        for number, (name, system) in enumerate(systems.items()):
            axes.errorbar(
                # Side by side, so that no interval hides another.
                np.arange(report["layers"]) + 0.12 * (number - (len(systems) - 1) / 2),
                100 * np.array(system["changed_of_all"]["mean"]),
                yerr=error_bars(system["changed_of_all"], 100),
                color=COLOURS[number % 4],
                marker=MARKERS[number % 4],
                markersize=4,
                linewidth=1,
                capsize=2,
                label=_label(name),
            )
        axes.set(title=words)
        _layer_axis(axes, report)
    panels[0].set(ylabel="tokens in %", ylim=(0, None))
    draw_legend(figure)
    figure.suptitle(
        f"Tokens at which the most probable entry of the lens is not the base's\n{_caption(report)}"
    )
    return figure


def objectives(report: Report) -> Figure:
    """Plot the terms of token replay's objective by layer: as released, and at one depth."""
    terms = report["objective"]
    depth = len(terms["released"]["mean"])
    figure = Figure(figsize=(WIDTH, 3.4))
    axes = figure.subplots()
    labels = {
        "released": "released code",
        "released_base": "released code, base in the policy's place",
        "same_depth": "same depth",
    }
    for number, (name, label) in enumerate(labels.items()):
        axes.errorbar(
            np.arange(depth) + 0.1 * (number - 1),
            terms[name]["mean"],
            yerr=error_bars(terms[name], 1),
            color=COLOURS[number],
            marker=MARKERS[number],
            linewidth=1,
            capsize=3,
            label=label,
        )
    axes.set(xlabel="decoder layer", ylabel="KL on the low-entropy set in nats")
    if np.max(terms["released"]["mean"]) > 0:
        axes.set(yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    draw_legend(figure)
    share = cell(terms["share_loss"], form=".1f", scale=100)
    figure.suptitle(
        "Token replay's objective before its first step, by layer\n"
        f"share of the released one that is there without RLVR in %: {share}\n{_caption(report)}"
    )
    return figure


def entropies(report: Report) -> Figure:
    """Plot histograms of the lens's entropy: a panel per layer, or for some layers if many."""
    layers = _evenly(report["layers"], MAX_PANELS)
    count = len(layers)
    rows = -(-count // 4)
    figure = Figure(figsize=(WIDTH, 1.2 + 1.9 * rows))
    panels = figure.subplots(rows, -(-count // rows), sharex=True, squeeze=False)
    edges = report["bin_edges"]
    for axes, layer in zip(panels.flat, layers, strict=False):
        base = 100 * np.array(report["visual"]["base"]["histogram"][layer])
        axes.stairs(base, edges, fill=True, color="0.8", label="base")
        for number, (name, system) in enumerate(report["visual"]["systems"].items()):
            axes.stairs(
                100 * np.array(system["histogram"][layer]),
                edges,
                color=COLOURS[number % 4],
                linestyle=("-", "--", ":")[number % 3],
                linewidth=1.2,
                label=_label(name),
            )
        axes.set(title=f"layer {layer}")
    # Few entropies lie near 0: show only the part of the axis that has any.
    shares = [report["visual"]["base"], *report["visual"]["systems"].values()]
    filled = np.flatnonzero(np.sum([each["histogram"] for each in shares], axis=(0, 1)))
    panels[0, 0].set_xlim(edges[filled[0]], edges[filled[-1] + 1])
    for axes in panels[-1]:
        axes.set_xlabel("entropy in nats")
    for axes in panels[:, 0]:
        axes.set_ylabel("visual tokens in %")
    draw_legend(figure)
    figure.suptitle(f"Entropy of the logit lens at visual tokens\n{_task(report)}")
    return figure


def overlay(report: Report, maps: Sequence[Map], layer: int) -> Figure:
    """Draw base entropy and divergence of the tokens on top of the pictures."""
    # A video becomes a strip, with its steps in time side by side.
    steps_by_map = [_evenly(len(pictures), MAX_STEPS) for pictures, _ in maps]
    strips = [
        np.concatenate([_small(pictures[step]) for step in steps], axis=1)
        for (pictures, _), steps in zip(maps, steps_by_map, strict=True)
    ]
    heights = [0.2 + 1.5 * min(strip.shape[0] / strip.shape[1], 2) for strip in strips]
    figure = Figure(figsize=(WIDTH, 0.8 + sum(heights)))
    panels = figure.subplots(len(maps), 4, squeeze=False, height_ratios=heights)
    for row, (_, values), steps, strip in zip(panels, maps, steps_by_map, strips, strict=True):
        entropy_LT, kl_LT = np.array(values["entropy"]), np.array(values["kl"])
        columns = (
            (f"base entropy, layer {layer}", entropy_LT[layer], entropy_LT[layer]),
            ("base entropy, mean of layers", entropy_LT.mean(0), entropy_LT.mean(0)),
            (f"KL, layer {layer}", kl_LT[layer], entropy_LT[layer]),
        )
        _picture(row[0], strip, "as the model sees it")
        for axes, (title, value_T, entropy_T) in zip(row[1:], columns, strict=True):
            _picture(axes, strip, title)
            extent = (0, strip.shape[1], strip.shape[0], 0)
            heat, low = (
                np.concatenate(value.reshape(values["grid"])[steps], axis=1)
                for value in (value_T, entropy_T <= np.quantile(entropy_T, 0.25))
            )
            image = axes.imshow(heat, cmap="cividis", alpha=0.8, extent=extent)
            _outline(axes, low, extent)
            bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=MaxNLocator(4))
            bar.set_label("nats", fontsize=8)
            bar.ax.tick_params(labelsize=7)
    for axes in panels[1:].flat:
        axes.set_title("")
    figure.suptitle(
        "Base entropy and KL(base || policy) of visual tokens; outlined: the quarter of lowest "
        f"base entropy\n({report['settings']['task']}, the first {len(maps)} of n = {report['n']} "
        "samples)"
    )
    return figure


def _picture(axes: Axes, strip: Pixels, title: str) -> None:
    axes.imshow(strip)
    axes.set(xticks=[], yticks=[], title=title)
    axes.spines[:].set_visible(False)
    axes.grid(False)


def _outline(axes: Axes, inside: NDArray[np.bool_], extent: tuple[float, ...]) -> None:
    """Draw the edges between tokens that are in a set and tokens that are not."""
    padded = np.pad(inside, 1)
    # A horizontal edge lies between two rows, a vertical one between two columns.
    across = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])
    down = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    edges = [((x, y), (x + 1, y)) for y, x in across] + [((x, y), (x, y + 1)) for y, x in down]
    scale = np.array([extent[1], extent[2]]) / inside.shape[::-1]
    lines = np.array(edges, dtype=float).reshape(-1, 2, 2) * scale
    axes.add_collection(
        LineCollection(list(lines), colors="white", linewidths=min(1.2, 20 / max(inside.shape)))
    )


def _evenly(count: int, most: int) -> NDArray[np.int64]:
    """Choose at most `most` of `count` indices, evenly, with the first and the last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def _small(picture: Image.Image) -> Pixels:
    """Shrink a picture to the resolution of a panel, `(height, width, 3)`."""
    small = picture.convert("RGB")
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    return np.asarray(small)


def _label(name: str) -> str:
    """Write out the name of a system."""
    model, _, method = name.partition("+")
    return f"{model} + {method} replay" if method else model


def draw_legend(figure: Figure, title: str | None = None) -> None:
    """Draw one legend for all panels, below them."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, title=title, loc="outside lower center", ncols=len(labels), fontsize=8
    )


def _layer_axis(axes: Axes, report: Report) -> None:
    axes.set(xlabel="decoder layer", xlim=(-0.5, report["layers"] - 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _mark_replayed(axes: Axes, report: Report, name: str, kind: str) -> None:
    """Shade the layers that a system replays; only state replay edits text."""
    settings = report["settings"]["replay"][name]
    if name == PLAIN or (kind == "text" and settings["method"] != "state"):
        return
    layers = {"token": "replay_layers", "state": "state_layers", "feature": "feature_layers"}
    depth = settings[layers[settings["method"]]]
    axes.axvspan(-0.5, depth - 0.5, color="0.93", zorder=0)
    axes.text(-0.4, 0.98, "replayed", transform=axes.get_xaxis_transform(), fontsize=8, va="top")


def error_bars(estimate: Mapping[str, Any], scale: float) -> NDArray[np.float64] | None:
    """Compute the lengths of error bars `(2, N)`; None without intervals."""
    if estimate["low"] is None:
        return None
    mean, low, high = (scale * np.array(estimate[key]) for key in ("mean", "low", "high"))
    # The bootstrap interval of a skewed mean can, rarely, exclude the mean itself.
    lengths: NDArray[np.float64] = np.maximum([mean - low, high - mean], 0)
    return lengths


def _caption(report: Report) -> str:
    tokens = ", ".join(f"{report[kind]['tokens']} {kind}" for kind in ("visual", "text"))
    return f"{report['settings']['task']}, {sizes(report)}; {tokens} tokens"


def _task(report: Report) -> str:
    return f"{report['settings']['task']}, {samples(report)}, {report['visual']['tokens']} tokens"
