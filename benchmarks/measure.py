"""The README's numbers on the embedded pair: `python benchmarks/measure.py`.

For base, policy, and policy with each replay method, on held-out samples of the generated tasks:
accuracy with greedy decoding (Wilson interval), and pass@1 and pass@8 at temperature 1 from 8
rollouts a sample (bootstrap interval over samples). Writes `benchmarks/embedded_pair.json`.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from visreplay.tasks.demo import ROWS, TABLE, embedded_agent, prepare_process
from visreplay.tasks.evaluate import bootstrap_interval, evaluate, is_correct, pass_at_k, summarise
from visreplay.tasks.registry import task_named
from visreplay.tasks.types import Split

ROLLOUTS = 8
OUT = Path(__file__).parent / "embedded_pair.json"


def measure(unit: tuple[str, str], samples: int, rollouts: int) -> dict[str, Any]:
    """All numbers of one system on one task."""
    row, task_name = unit
    prepare_process()
    task = task_named(task_name)
    seeds = range(Split.HELD_OUT, Split.HELD_OUT + samples)
    greedy = embedded_agent(row)
    records = evaluate(greedy, task, seeds)
    greedy.close()
    sampled = embedded_agent(row, temperature=1.0)
    right = []
    for seed in seeds[:rollouts]:
        sample = task.sample(seed)
        answers = [
            sampled.run(
                sample.question, images=sample.images, video=sample.video, seed=number
            ).answer
            # Of its own for every sample: a shared seed draws the same habit for all of them.
            for number in range(ROLLOUTS * seed, ROLLOUTS * (seed + 1))
        ]
        right.append(sum(is_correct(answer, sample.answer) for answer in answers))
    sampled.close()
    summary = summarise(records)
    replays = [
        step["replay"] for record in records for step in record.trajectory.steps if step["replay"]
    ]
    return {
        "system": row,
        "task": task_name,
        "greedy": {
            "accuracy": summary.accuracy,
            "interval": [summary.low, summary.high],
            "n": summary.n,
        },
        "pass@1": _passes(right, 1),
        "pass@8": _passes(right, ROLLOUTS),
        "kl_before": fmean(r["kl_before"] for r in replays) if replays else None,
        "kl_after": fmean(r["kl_after"] for r in replays) if replays else None,
        "seconds": summary.seconds,
    }


def _passes(right: list[int], k: int) -> dict[str, Any]:
    values = np.array([pass_at_k(ROLLOUTS, count, k) for count in right])
    low, high = bootstrap_interval(values)
    return {"value": float(values.mean()), "interval": [float(low), float(high)], "n": len(values)}


def show(console: Console, results: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(title="embedded pair, held-out samples (95 % intervals)")
    for heading in ("task", "system", "greedy", "pass@1", "pass@8", "KL before -> after"):
        table.add_column(heading)
    for r in results:
        cells = []
        for key, value in (("greedy", "accuracy"), ("pass@1", "value"), ("pass@8", "value")):
            low, high = r[key]["interval"]
            cells.append(f"{r[key][value]:.3f} ({low:.3f} to {high:.3f}), n={r[key]['n']}")
        moved = "-" if r["kl_before"] is None else f"{r['kl_before']:.5f} -> {r['kl_after']:.5f}"
        table.add_row(r["task"], r["system"], *cells, moved)
    console.print(table)


def main() -> None:
    """Measure everything on `--jobs` processes and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=300, help="greedy episodes a cell")
    parser.add_argument("--rollouts", type=int, default=100, help="samples with 8 rollouts a cell")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    prepare_process()
    console = Console(highlight=False, width=150)
    units = [(row, task) for task, row in product(TABLE, ROWS)]
    sizes = ([arguments.samples] * len(units), [arguments.rollouts] * len(units))
    results = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for number, result in enumerate(pool.map(measure, units, *sizes), 1):
            results.append(result)
            console.print(
                f"[{number}/{len(units)}] {result['task']} {result['system']}", markup=False
            )
    OUT.write_text(json.dumps({"results": results}, indent=1), "utf-8")
    show(console, results)


if __name__ == "__main__":
    main()
