"""Jobs of workers, which import this module by its name."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from visreplay.replay_core.errors import ConfigError
from visreplay.tasks.evaluation.evaluate import empty_record, evaluate_sample, rollout_seed
from visreplay.tasks.evaluation.ray_workers import Play
from visreplay.tasks.evaluation.runs import SampleRecord
from visreplay.tasks.registry import get_task
from visreplay.tools import ImageStore

TASK = "visual-search-medium"
ROLLOUTS = 2


def own_end(notes: Path, name: str) -> None:
    """Note the process, and end it as the system does where memory runs out."""
    (notes / f"{name} {os.getpid()}").touch()
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Deadly:
    """Plays samples on the embedded pair. Some end their process when they have been played.

    Attributes:
        notes: Folder where each end is noted.
        ends: How often each sample ends its process.
    """

    notes: Path
    ends: dict[str, int]

    @contextmanager
    def opened(self) -> Iterator[Play]:
        from visreplay.agent.episode.embedded_agent import embedded_agent, prepare_process

        prepare_process()
        agent, task = embedded_agent("policy+state", temperature=1.0), get_task(TASK)

        def play(run: int, sample_id: str, store: ImageStore) -> SampleRecord:
            seeds = [rollout_seed(run, sample_id, number) for number in range(ROLLOUTS)]
            record = evaluate_sample(agent.with_store(store), task, sample_id, seeds)
            if len(list(self.notes.glob(f"{sample_id} *"))) < self.ends.get(sample_id, 0):
                own_end(self.notes, sample_id)
            return record

        yield play


@dataclass(frozen=True)
class NeverReady:
    """Cannot be begun: its process ends, or it has an error."""

    notes: Path
    error: str | None = None

    @contextmanager
    def opened(self) -> Iterator[Play]:
        if self.error is None:
            own_end(self.notes, "start")
        raise ConfigError(self.error)
        yield


@dataclass(frozen=True)
class Slow:
    """Needs a minute for each sample but the first, and notes what it begins and lets go."""

    notes: Path

    @contextmanager
    def opened(self) -> Iterator[Play]:
        def play(run: int, sample_id: str, store: ImageStore) -> SampleRecord:
            (self.notes / f"{sample_id} {os.getpid()}").touch()
            time.sleep(0 if sample_id == "first" else 60)
            return empty_record(sample_id)

        try:
            yield play
        finally:
            (self.notes / "closed").touch()
