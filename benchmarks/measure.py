"""Measure the accuracies of the embedded pair: `python benchmarks/measure.py`.

Systems: base, policy, policy with each replay method, ablations of the paper, and variants that
are this project's. On held-out samples of the generated tasks: greedy accuracy (Wilson interval),
pass@1 and pass@8 at temperature 1 from 8 rollouts a sample, and the difference from the plain
policy on the same samples (bootstrap intervals over samples). Writes
`benchmarks/embedded_pair.json`. What came out of every sample is kept in `benchmarks/results`, so
that a stopped run can go on and other statistics can be computed.
"""

import argparse
import hashlib
import json
import re
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, fields
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from visreplay.agent.episode.embedded_agent import ROWS, embedded_agent, prepare_process
from visreplay.replay_core import EMBEDDED, ReplayConfig, embedded_config
from visreplay.tasks.evaluation.evaluate import evaluate
from visreplay.tasks.evaluation.summary import replays, right_count
from visreplay.tasks.registry import get_task
from visreplay.tasks.statistics import bootstrap_interval, pass_at_k, wilson_interval
from visreplay.tasks.types import Split, Task, ids_of
from visreplay.tools import ImageStore

ROLLOUTS = 8
OUT = Path(__file__).parent / "embedded_pair.json"
HARD = "visual-search-hard"
"""Harder than all tasks in the training of the pair, so that the policy can be improved on."""

RELEASED = {"optimizer": "sgd", "steps": 25, "plateau": 0.0}
"""The published optimiser and its number of steps."""

PAPER: dict[str, tuple[str, dict[str, Any]]] = {
    "token, high entropy": ("policy+token", {"side": "high"}),
    "token, all tokens": ("policy+token", {"side": "all"}),
    "token, enters at layer 1": ("policy+token", {"entry_layer": 1}),
    "token, released objective": ("policy+token", {"alignment": "reference", **RELEASED}),
    "token, local smoothing": (
        "policy+token",
        {"teacher": "local", "side": "all", "entry_layer": 1, **RELEASED},
    ),
    "token, global smoothing": ("policy+token", {"teacher": "global", "side": "all", **RELEASED}),
    "token, roles swapped": ("policy+token", {"swap_roles": True}),
    "state, high entropy": ("policy+state", {"side": "high"}),
    "state, released alignment": ("policy+state", {"alignment": "reference"}),
}
"""What the paper or its released code has beside the two methods, on this pair's layers: for each
the row of the demo's table and the settings of `ReplayConfig` that differ."""

OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "token, random tokens": ("policy+token", {"side": "random"}),
    "token, window teacher": ("policy+token", {"teacher": "window"}),
    "token, jitter teacher": ("policy+token", {"teacher": "jitter"}),
    "token, plain descent": ("policy+token", RELEASED),
    "state, all positions": ("policy+state", {"side": "all"}),
    "state, random positions": ("policy+state", {"side": "random"}),
}
"""Variants that the paper does not have."""

ABLATIONS = {**PAPER, **OURS}
SYSTEMS = {**{row: (row, {}) for row in ROWS}, **ABLATIONS}
UNITS = [
    *product(("visual-search-medium", HARD, "video-search"), ROWS),
    *product((HARD,), ABLATIONS),
    *product(("visual-search-easy",), ROWS),
]
"""Tasks and systems, the most important first."""


def measure(task_name: str, system: str, samples: int) -> dict[str, Any]:
    """Measure one system on one task, sample by sample."""
    prepare_process()
    # On disk, because a store in memory never forgets, and hundreds of hard scenes are gigabytes.
    with TemporaryDirectory() as folder:
        return _measure(get_task(task_name), system, samples, ImageStore(Path(folder)))


def _measure(task: Task, system: str, samples: int, store: ImageStore) -> dict[str, Any]:
    row, changes = SYSTEMS[system]
    seeds = range(Split.HELD_OUT, Split.HELD_OUT + samples)
    greedy = embedded_agent(row, store, **changes)
    records = list(evaluate(greedy, task, ids_of(task.name, seeds)))
    greedy.close()
    if failed := [record["error"] for record in records if record["error"]]:
        raise RuntimeError(f"{len(failed)} samples failed, the first with {failed[0]}")
    sampled, right = embedded_agent(row, store, temperature=1.0, **changes), []
    for seed, sample_id in zip(seeds, ids_of(task.name, seeds), strict=True):
        sample = task.load(sample_id)
        # Every sample has its own seeds: with shared seeds, samples would not be independent.
        numbers = range(ROLLOUTS * seed, ROLLOUTS * (seed + 1))
        trajectories = sampled.rollouts(
            sample.question, numbers, images=sample.images, video=sample.video
        )
        right.append(sum(task.is_right(sample, each.answer) for each in trajectories))
    sampled.close()
    reports = replays(records)
    return {
        "task": task.name,
        "system": system,
        "settings": settings(system, samples),
        "greedy": [int(right_count(record)) for record in records],
        "right": right,
        "kl_before": fmean(replay["kl_before"] for replay in reports) if reports else None,
        "kl_after": fmean(replay["kl_after"] for replay in reports) if reports else None,
    }


def settings(system: str, samples: int) -> dict[str, Any]:
    """List the settings that a kept result depends on, as JSON values."""
    row, changes = SYSTEMS[system]
    config = asdict(embedded_config(ROWS[row][1], **changes))
    what = {"samples": samples, "weights": _weights(), **config}
    as_json: dict[str, Any] = json.loads(json.dumps(what))
    return as_json


def is_current(kept: dict[str, Any], now: dict[str, Any]) -> bool:
    """Tell whether a kept result has these settings; settings that are new had their defaults."""
    defaults = {field.name: field.default for field in fields(ReplayConfig)}
    before = {**json.loads(json.dumps(defaults)), **kept.get("settings", {})}
    return all(before.get(name) == value for name, value in now.items())


@cache
def _weights() -> str:
    """Compute a digest of the pair: results of other weights are measured again."""
    digest = hashlib.sha256()
    for path in sorted(EMBEDDED.glob("*/*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def summary(result: dict[str, Any], against: dict[str, Any]) -> dict[str, Any]:
    """Make a row of the table.

    Args:
        result: The result of `measure` for a system.
        against: The result of the system that it is compared with, on the same samples.
    """
    low, high = wilson_interval(sum(result["greedy"]), len(result["greedy"]))
    row = {
        "task": result["task"],
        "system": result["system"],
        "n": len(result["greedy"]),
        "greedy": {"value": fmean(result["greedy"]), "interval": [low, high]},
        "kl_before": result["kl_before"],
        "kl_after": result["kl_after"],
        "compared_with": against["system"],
    }
    for k in (1, ROLLOUTS):
        ours, theirs = (
            np.array([pass_at_k(ROLLOUTS, count, k) for count in each["right"]])
            for each in (result, against)
        )
        row[f"pass@{k}"] = _estimate(ours, (0.0, 1.0))
        row[f"pass@{k} difference"] = _estimate(ours - theirs, (-1.0, 1.0))
    return row


def _estimate(values: Any, bounds: tuple[float, float]) -> dict[str, Any]:
    low, high = bootstrap_interval(values, bounds=bounds)
    return {"value": float(values.mean()), "interval": [float(low), float(high)]}


def compared_with(system: str) -> str:
    """Name the plain system that answers with the same model."""
    return "base" if system in ("base", "token, roles swapped") else "policy"


def show(console: Console, rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(title=f"embedded pair, {rows[0]['n']} held-out samples a row, 95 % intervals")
    headings = ("task", "system", "greedy", "pass@1", "pass@8", "pass@1 difference", "KL")
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        cells = []
        for key in ("greedy", "pass@1", "pass@8", "pass@1 difference"):
            low, high = row[key]["interval"]
            cells.append(f"{row[key]['value']:.3f} ({low:.3f} to {high:.3f})")
        divergence = (
            "-" if row["kl_before"] is None else f"{row['kl_before']:.5f} -> {row['kl_after']:.5f}"
        )
        table.add_row(row["task"], row["system"], *cells, divergence)
    console.print(table)


def write(paths: dict[tuple[str, str], Path]) -> list[dict[str, Any]]:
    """Write the results so far into `embedded_pair.json`."""
    results = {unit: json.loads(p.read_text("utf-8")) for unit, p in paths.items() if p.exists()}
    rows = [
        summary(each, results[task, compared_with(system)])
        for (task, system), each in results.items()
        if (task, compared_with(system)) in results
    ]
    OUT.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    return rows


def main() -> None:
    """Measure all systems in `--jobs` processes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=300, help="samples for a row of the table")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kept", type=Path, default=OUT.parent / "results")
    arguments = parser.parse_args()
    prepare_process()
    console = Console(highlight=False, width=160)
    arguments.kept.mkdir(parents=True, exist_ok=True)
    paths = {
        unit: arguments.kept / f"{re.sub(r'[^a-z0-9]+', '-', ' '.join(unit))}.json"
        for unit in UNITS
    }
    missing = []
    for unit, path in paths.items():
        kept = json.loads(path.read_text("utf-8")) if path.exists() else {}
        if not is_current(kept, settings(unit[1], arguments.samples)):
            path.unlink(missing_ok=True)
            missing.append(unit)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        running = {pool.submit(measure, *unit, arguments.samples): unit for unit in missing}
        for number, done in enumerate(as_completed(running), 1):
            paths[running[done]].write_text(json.dumps(done.result()) + "\n", "utf-8")
            console.print(f"[{number}/{len(missing)}] {running[done]}", markup=False)
            write(paths)
    show(console, write(paths))


if __name__ == "__main__":
    main()
