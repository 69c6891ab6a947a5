"""What GPUs do with HR-Bench 8K, on paper: `python benchmarks/scaling.py`, half a minute.

Prints the tables of `docs/scaling.md` and writes them there. `episode_costs.py` has the work of an
episode, `cluster.py` what fits and how long it takes. `measure` behind the command measures first
what `scaling_measured.py` does (four minutes of CPU time), and writes `scaling.json`.
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from cluster import HIGH, LIKELY, LOW, Deployment, Rate
from episode_costs import Costs, Episode, Parts, Terms, add_up, kv_bytes, total
from memory_counted import weights
from published import PUBLISHED, visual_grid
from report import fill, markdown
from rows import short
from scaling_measured import OUT, RATIOS, THREE, measure, on_a_gpu, predicted
from sizes import Sizes

from visreplay.replay_core import Method

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
METHODS = (Method.NONE, Method.STATE, Method.TOKEN, Method.FEATURE)
PARTS = ("tower", "policy", "base", "plain", "lens", "divergence", "steps", "export")
SKETCH = 1 / 8
"""Rank of the sketch, as a share of the hidden size."""

Line = tuple[str, ...]


def main() -> None:
    """Print every table, and write them into the page."""
    if "measure" in sys.argv[1:]:
        measure()
    for name, table in TABLES.items():
        print(f"{name}\n\n{table()}")
    fill((PAGE,), TABLES)


@cache
def deployed(name: str, method: Method) -> Deployment:
    """Make the deployment of a published size, with everything that is likely."""
    return Deployment(PUBLISHED[name], method)


def number(value: float) -> str:
    """Write two digits, or a dash for nothing."""
    return "-" if not value else short(float(f"{value:.2g}"))


def ranged(deployment: Deployment, of: Callable[[Deployment], float]) -> str:
    """Write a figure, with what it is at the low and the high shares."""
    low, likely, high = (of(replace(deployment, shares=each)) for each in (LOW, LIKELY, HIGH))
    if not likely:
        return "-"
    first, last = sorted((low, high))
    return f"{number(likely)} ({number(first)} to {number(last)})"


def sizes_table() -> str:
    """Make the table of the models."""
    lines = [
        (
            name,
            f"{sizes.hidden:,}",
            str(sizes.layers),
            f"{sizes.heads} / {sizes.kv_heads}",
            f"{sizes.inner:,}",
            f"{sizes.state_layers} / {sizes.replay_layers}",
            f"{weights(sizes, 0, shared=True) / 1e9:.1f}",
            f"{kv_bytes(sizes) / 1024:.0f}",
        )
        for name, sizes in PUBLISHED.items()
    ]
    headings = ("model", "width", "layers", "heads / of keys", "inner width")
    return markdown(
        (*headings, "state / token layers", "weights, GB", "keys and values of a token, KiB"), lines
    )


def work_table() -> str:
    """Make the table of TFLOP of an episode, by parts."""
    lines: list[Line] = []
    for name, sizes in PUBLISHED.items():
        for method in METHODS:
            parts = whole(Costs(sizes, method))
            cells = (number(parts[each].flops / 1e12) if each in parts else "-" for each in PARTS)
            lines.append((name, str(method), *list(cells)[:-1], number(total(parts).flops / 1e12)))
        sketched = whole(Costs(sizes, Method.STATE, Terms(sketch=SKETCH)))
        cells = (number(sketched[each].flops / 1e12) if each in sketched else "-" for each in PARTS)
        flops = total(sketched).flops / 1e12
        lines.append((name, "state, sketched", *list(cells)[:-1], number(flops)))
    return markdown(("model", "method", *PARTS[:-1], "all"), lines)


def whole(costs: Costs) -> Parts:
    """Add up an episode by parts."""
    return add_up(parts for turn in costs.episode(Episode()) for parts in turn)


def seconds_table() -> str:
    """Make the table of a worker's seconds for an episode, by parts."""
    lines: list[Line] = []
    for name in PUBLISHED:
        for method in METHODS:
            deployment = deployed(name, method)
            parts = deployment.worker_parts
            cells = (number(parts.get(each, 0.0)) for each in PARTS)
            seconds = ranged(deployment, lambda each: each.worker_seconds)
            lines.append((name, str(method), *cells, seconds))
    return markdown(("model", "method", *PARTS, "all (range)"), lines)


def memory_table() -> str:
    """Make the table of memory in GB, and of the GPUs that it takes."""
    lines = [
        (
            name,
            str(method),
            number(each.worker_weights / 1e9),
            number(each.working / 1e9),
            number(each.live / 1e9),
            number(each.written / 1e9),
            f"{each.worker_gpus} ({each.worker_room(each.worker_gpus)})",
            f"{each.engine_gpus} ({each.engine_room(each.engine_gpus)})",
            f"yes ({shared.batch:.0f})" if (shared := each.rate(1)).hourly else "no",
        )
        for name in PUBLISHED
        for method in METHODS
        for each in (deployed(name, method),)
    ]
    headings = ("model", "method", "worker's weights", "reading a picture", "a live conversation")
    return markdown(
        (*headings, "its file", "GPUs of a worker", "GPUs of an engine", "both on one H100"), lines
    )


def hourly_table() -> str:
    """Make the table of episodes an hour."""
    lines: list[Line] = []
    for name in PUBLISHED:
        for method in METHODS:
            each = deployed(name, method)
            cells = (
                ranged(each, lambda one, gpus=gpus: one.hourly(gpus))  # type: ignore[misc]
                for gpus in (1, 8, 100)
            )
            layout = split(each.rate(8 * each.machines))
            per_engine = ranged(each, lambda one: one.workers_per_engine)
            lines.append((name, str(method), *cells, layout, per_engine))
    headings = ("model", "method", "one H100", "eight", "a hundred", "workers + engines")
    return markdown((*headings, "workers that keep an engine busy"), lines)


def split(rate: Rate) -> str:
    """Write how GPUs are split, and how busy the engines are."""
    return f"{rate.workers} + {rate.engines}, engines {rate.busy:.0%} busy"


def steps(method: Method) -> Iterator[tuple[str, Deployment]]:
    """Yield what is changed, one thing after the other, and the deployment with it."""
    each = deployed("7B", method)
    yield "many conversations at once", each
    each = replace(each, terms=replace(each.terms, by_window=False))
    yield "the tower's attention in one call", each
    each = replace(each, terms=replace(each.terms, shares_tower=True))
    yield "one tower for both models", each
    faster = replace(each.shares, write=HIGH.write, read=HIGH.read, bus=HIGH.bus)
    each = replace(each, shares=faster)
    yield "files at 4 and 8 GB/s", each
    if method is Method.STATE:
        each = replace(each, terms=replace(each.terms, sketch=SKETCH))
        yield "the sketch", each
    else:
        each = replace(each, steps=2)
        yield "two steps instead of six", each
    yield "a picture read once for its four cycles", replace(each, rollouts=4)


def walls_table() -> str:
    """Make the table of what stands in the way next, on eight GPUs at 7B."""
    lines: list[Line] = []
    for method in (Method.STATE, Method.TOKEN):
        first = deployed("7B", method)
        rate, (alone, busy) = first.rate(8), first.alone(measured()["host"]["a picture"])
        note = f"waiting: a worker is busy {busy:.0%}"
        lines.append((str(method), "as `visreplay eval` plays", number(alone * rate.workers), note))
        for name, each in steps(method):
            rate, parts = each.rate(8), each.worker_parts
            part = max(parts, key=lambda part: parts[part])
            share = parts[part] / each.worker_seconds
            wall = f"workers: {part} {share:.0%}" if rate.busy < 0.95 else "engines"
            lines.append((str(method), name, number(rate.hourly), f"{wall}; {split(rate)}"))
    return markdown(("method", "with", "episodes an hour", "what takes longest"), lines)


def assumptions() -> Iterator[tuple[str, Deployment]]:
    """Yield the deployment of state replay at 7B, with one assumption changed at a time."""
    each = deployed("7B", Method.STATE)
    yield "as above", each
    for field, name in (
        ("compute", "share of the peak"),
        ("traffic", "share of the bandwidth"),
        ("decoding", "the same in decoding"),
        ("write", "bytes a second written"),
        ("read", "bytes a second read"),
        ("call", "seconds of a call"),
    ):
        for shares in (LOW, HIGH):
            value = getattr(shares, field)
            changed = replace(LIKELY, **{field: value})
            yield f"{name} {short(value)}", replace(each, shares=changed)
    episode = each.episode
    for changes in (
        {"turns": 2},
        {"turns": 6},
        {"generated": 32},
        {"generated": 1024},
        {"crop": (16, 16)},
        {"crop": (64, 64)},
    ):
        ((field, value),) = changes.items()
        shown = " x ".join(map(str, value)) if isinstance(value, tuple) else value
        yield f"{field} {shown}", replace(each, episode=replace(episode, **changes))
    smaller = replace(episode, picture=visual_grid(3840, 2160))
    yield "a picture of 4K", replace(each, episode=smaller)
    for share in (0.1, 0.8):
        yield f"sets of {share:.0%}", replace(each, terms=Terms(share=share))
    yield "8 rollouts of a question", replace(each, rollouts=8)


def assumptions_table() -> str:
    """Make the table of what each assumption does to state replay at 7B on eight GPUs."""
    lines = [
        (name, number(each.hourly(1)), number(rate.hourly), split(rate))
        for name, each in assumptions()
        for rate in (each.rate(8),)
    ]
    return markdown(("assumption", "one H100", "eight", "workers + engines"), lines)


@cache
def measured() -> Mapping[str, Any]:
    """Read what was measured."""
    content: Mapping[str, Any] = json.loads(OUT.read_text("utf-8"))
    return content


def ratios_table() -> str:
    """Make the table of ratios by arithmetic and measured."""
    lines: list[Line] = []
    for name, (above, below) in RATIOS.items():
        for number, sizes in enumerate(THREE):
            values = measured()["ratios"][number][name]
            found = statistics.median(values)
            flops, both = (
                each[above] / each[below]
                for each in (predicted(sizes), predicted(sizes, measured()["reading"][number]))
            )
            figures = (f"{each:.2f}" for each in (flops, both, found))
            spread = f"{min(values):.2f} to {max(values):.2f}"
            lines.append((name, width(sizes), *figures, spread, f"{found / both - 1:+.0%}"))
    headings = ("ratio", "model", "by FLOPs", "and weights", "measured", "spread")
    return markdown((*headings, "measured against both"), lines)


def width(sizes: Sizes) -> str:
    """Name a small model."""
    return f"{sizes.hidden} wide, {sizes.layers} layers"


def stages_table() -> str:
    """Make the table of stages on a GPU by arithmetic and measured."""
    likely, *others = (list(on_a_gpu(shares)) for shares in (LIKELY, LOW, HIGH))
    lines = []
    for (name, expected, found), *ends in zip(likely, *others, strict=True):
        least, most = sorted(1e3 * seconds for _, seconds, _ in ends)
        cells = (f"{1e3 * expected:.0f} ({least:.0f} to {most:.0f})", f"{1e3 * found:.0f}")
        lines.append((name, *cells, f"{found / expected:.1f}"))
    return markdown(("what", "by arithmetic, ms", "measured, ms", "measured / arithmetic"), lines)


def host_table() -> str:
    """Make the table of what the machine's processor does."""
    lines = [(name, f"{value:.1f}") for name, value in measured()["host"].items()]
    return markdown(("what", "CPU seconds"), lines)


TABLES: Mapping[str, Callable[[], str]] = {
    "sizes": sizes_table,
    "work": work_table,
    "seconds": seconds_table,
    "memory": memory_table,
    "hourly": hourly_table,
    "walls": walls_table,
    "assumptions": assumptions_table,
    "ratios": ratios_table,
    "stages": stages_table,
    "host": host_table,
}
"""The tables of the page."""


if __name__ == "__main__":
    main()
