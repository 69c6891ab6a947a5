"""Folders of runs of the embedded pair, as `visreplay eval` writes them."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from visreplay.agent.episode.agent import versions
from visreplay.agent.episode.embedded_agent import embedded_agent
from visreplay.tasks.evaluation.evaluate import evaluate
from visreplay.tasks.evaluation.journal import Journal
from visreplay.tasks.evaluation.runs import IMAGES, LINES
from visreplay.tasks.registry import get_task
from visreplay.tools import ImageStore


def write_run(folder: Path, row: str, counts: Sequence[tuple[str, int]], rollouts: int = 1) -> Path:
    """Play the first samples of some tasks with a row of the demo's table, and write the run."""
    agent = embedded_agent(row, ImageStore(folder / IMAGES), temperature=float(rollouts > 1))
    settings = {
        "task": "embedded",
        "policy": row,
        "replay": {"method": str(agent.replay.method)},
        "sampling": asdict(agent.sampling),
        "rollouts": rollouts,
        "seed": 0,
        "versions": versions(),
    }
    with Journal(folder / LINES, settings) as journal:
        for name, count in counts:
            task = get_task(name)
            for record in evaluate(agent, task, task.sample_ids()[:count], rollouts=rollouts):
                journal.add(record["sample_id"], record)
    return folder
