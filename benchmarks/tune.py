"""Choose the embedded pair's replay settings on the tuning split: `python benchmarks/tune.py`.

Prints, for every candidate, pass@1 at temperature 1 over the three tasks and the divergence
before and after. The settings in use stand in `replay_core/embedded_pair.py`.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from statistics import fmean
from typing import Any

from rich.console import Console

from visreplay.agent.episode.embedded_agent import embedded_agent, prepare_process
from visreplay.tasks.commands.demo import TABLE
from visreplay.tasks.evaluation.evaluate import evaluate
from visreplay.tasks.evaluation.summary import replays, summarise
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Split, ids_of

TOKEN: list[dict[str, Any]] = [
    {"replay_layers": layers, "tau": tau, "learning_rate": rate, "steps": steps}
    for layers, tau, (rate, steps) in product(
        (1, 2, 3), (0.25, 0.5, 1.0), ((0.01, 6), (0.02, 6), (0.02, 25))
    )
]
STATE: list[dict[str, Any]] = [
    {"state_layers": layers, "tau": tau} for layers, tau in product((1, 2, 3), (0.25, 0.5, 1.0))
]


def score(row: str, changes: dict[str, Any], samples: int) -> dict[str, float]:
    """Measure accuracy at temperature 1 and mean divergences of one candidate."""
    prepare_process()
    agent = embedded_agent(row, temperature=1.0, **changes)
    seeds = range(Split.TUNING, Split.TUNING + samples)
    tasks = [get_task(name) for name in TABLE["embedded"]]
    records = [
        record for task in tasks for record in evaluate(agent, task, ids_of(task.name, seeds))
    ]
    reports = replays(records)
    summary = summarise(records)
    return {
        "accuracy": summary.accuracy.value,
        "low": summary.accuracy.low,
        "high": summary.accuracy.high,
        "kl_before": fmean(replay["kl_before"] for replay in reports) if reports else 0.0,
        "kl_after": fmean(replay["kl_after"] for replay in reports) if reports else 0.0,
        "seconds": summary.seconds,
    }


def main() -> None:
    """Score every candidate and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=30, help="samples per task and candidate")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    console = Console(highlight=False)
    candidates = [("policy", {})]
    candidates += [("policy+token", changes) for changes in TOKEN]
    candidates += [("policy+state", changes) for changes in STATE]
    rows, changes = zip(*candidates, strict=True)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        scores = pool.map(score, rows, changes, [arguments.samples] * len(candidates))
        for (row, change), s in zip(candidates, scores, strict=True):
            console.print(
                f"{row:13} {change!s:74} accuracy {s['accuracy']:.3f} ({s['low']:.3f} to "
                f"{s['high']:.3f})  KL {s['kl_before']:.4f} -> {s['kl_after']:.4f}  "
                f"{s['seconds']:.2f} s",
                markup=False,
                soft_wrap=True,
            )


if __name__ == "__main__":
    main()
