"""Rollouts that share prefill and replay against rollouts one after the other: `make bench`.

The embedded pair, 8 rollouts a sample at temperature 1, in one process on one thread. Both sides
play the same seeds of the same held-out samples, in turns. The opponent clears its caches after
each rollout. Writes rows of `benchmarks/latest.json`: the quotient of the medians, with its
spread from the smallest to the largest quotient that the repeats allow.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from rich.console import Console
from rows import Row, table, timed, write

from visreplay.agent import VisualAgent
from visreplay.agent.episode.embedded_agent import embedded_agent, prepare_process
from visreplay.tasks.evaluation.evaluate import rollout_seed
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Sample

ROLLOUTS = 8
TASK = "visual-search-medium"
TARGET = 3.0
SYSTEMS = {"policy": "no replay", "policy+token": "token replay", "policy+state": "state replay"}
"""Rows of the demo's table, and their names here."""


def shared(agent: VisualAgent, samples: list[Sample]) -> None:
    """Play all rollouts of a sample together, as `visreplay eval` does."""
    for sample in samples:
        agent.rollouts(sample.question, seeds(sample), images=sample.images)
        agent.close()


def one_by_one(agent: VisualAgent, samples: list[Sample]) -> None:
    """Play one rollout after the other, each from the beginning."""
    for sample in samples:
        for seed in seeds(sample):
            agent.run(sample.question, images=sample.images, seed=seed)
            agent.close()


def seeds(sample: Sample) -> list[int]:
    """List the seeds of a sample's rollouts."""
    return [rollout_seed(0, sample.sample_id, number) for number in range(ROLLOUTS)]


def measure(console: Console, samples: list[Sample], repeats: int) -> Iterator[Row]:
    """Measure a row for each system."""
    for system, name in SYSTEMS.items():
        agent = embedded_agent(system, temperature=1.0)
        for play in (one_by_one, shared):  # warm up: work that runs only once is not timed
            play(agent, samples[:1])
        slow: list[float] = []
        fast: list[float] = []
        for _ in range(repeats):
            slow.append(timed(partial(one_by_one, agent, samples)))
            fast.append(timed(partial(shared, agent, samples)))
            console.print(f"{name}: one by one {slow[-1]:.1f} s, shared {fast[-1]:.1f} s")
        row = Row.of(f"{ROLLOUTS} shared rollouts, {name}, samples a minute", slow, fast, TARGET)
        ours, theirs = (60 * len(samples) / statistics.median(each) for each in (fast, slow))
        yield replace(row, note=f"{ours:.3g} / {theirs:.3g} samples a minute")


def main() -> None:
    """Measure, print, and write the rows unless it is a trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trial", action="store_true", help="do not write")
    chosen = parser.parse_args()
    prepare_process()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    task = get_task(TASK)
    samples = [task.load(each) for each in task.sample_ids()[: chosen.samples]]
    rows = list(measure(console, samples, chosen.repeats))
    console.print(table(rows))
    if not chosen.trial:
        write(rows)


if __name__ == "__main__":
    main()
