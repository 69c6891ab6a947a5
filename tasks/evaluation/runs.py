"""A run as it lies on the disk: its settings, a record a sample, and the images.

runs/hr4k/
  run.jsonl    {"settings": {...}}, then one line a sample as it ended
  images/      every image once, by the hash of its content
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired, Self, TypedDict, cast

from visreplay.agent import Trajectory
from visreplay.tasks.evaluation import journal
from visreplay.tasks.types import Sample
from visreplay.tools import ImageStore

LINES = "run.jsonl"
IMAGES = "images"


class Rollout(TypedDict):
    """One episode on a sample, scored.

    Attributes:
        right: Whether the answer is.
        cot_right: What the checker said of a right answer's reasoning; None where it was not asked.
        trajectory: The fields of `Trajectory`, without those that the whole run has in common and
            without token ids.
    """

    right: bool
    cot_right: bool | None
    trajectory: dict[str, Any]


class Record(TypedDict):
    """What came of one sample: its rollouts, or an error and none.

    Attributes:
        sample_id: Unique within the task.
        question: As the model read it; None if the sample could not be loaded, like the next two.
        expected: The right answer.
        category: What tables break down by.
        group: Of samples that are not independent of each other (`Sample.group`).
        error: Type and message of the exception that ended it.
        rollouts: Empty after an error.
        seconds: Wall time of playing and scoring, loading aside.
    """

    sample_id: str
    question: str | None
    expected: str | None
    category: str | None
    error: str | None
    rollouts: list[Rollout]
    group: NotRequired[str | None]
    seconds: NotRequired[float]


_OF_THE_RUN = ("policy", "base", "protocol", "settings")
"""Fields of a trajectory that all of a run have in common."""


def rollout_of(trajectory: Trajectory, *, right: bool, cot_right: bool | None = None) -> Rollout:
    """An episode as a run has it."""
    told = {name: v for name, v in trajectory.to_json().items() if name not in _OF_THE_RUN}
    for message in told["messages"]:
        message.pop("token_ids", None)
    return {"right": right, "cot_right": cot_right, "trajectory": told}


def record_of(sample: Sample, rollouts: Sequence[Rollout]) -> Record:
    """The record of a sample that ended in no error."""
    return {
        "sample_id": sample.sample_id,
        "question": sample.question,
        "expected": sample.answer,
        "category": sample.category,
        "group": sample.group,
        "error": None,
        "rollouts": list(rollouts),
    }


@dataclass(frozen=True)
class Run:
    """A run, finished or not.

    Attributes:
        folder: Where it lies.
        settings: Everything that its results depend on.
        records: By sample id, in the order in which the samples ended first.
        label: What it is called, where the folder's name will not do.
    """

    folder: Path
    settings: dict[str, Any]
    records: dict[str, Record]
    label: str | None = None

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read a run, which may be going on: a line that is not finished is left out.

        Raises:
            ValueError: the folder holds none.
        """
        path = folder / LINES
        if not path.is_file():
            raise ValueError(f"{folder} is not the folder of a run: it holds no {LINES}")
        settings, lines, _ = journal.read(path)
        if settings is None:
            raise ValueError(f"{path} is empty: the run's first sample has not ended yet")
        fields = Record.__required_keys__
        for sample_id, line in lines.items():
            if missing := sorted(fields - line.keys()):
                raise ValueError(f"sample {sample_id!r} of {path} has no field {missing[0]!r}")
        return cls(folder, settings, cast(dict[str, Record], lines))

    @property
    def name(self) -> str:
        """What it is called: the folder's name, unless it has a label."""
        return self.label or self.folder.resolve().name

    @cached_property
    def store(self) -> ImageStore:
        """Its images."""
        return ImageStore(self.folder / IMAGES)

    @property
    def system(self) -> str:
        """Who answered: the policy, and how it was replayed."""
        policy = Path(str(self.settings["policy"])).name
        method = self.settings["replay"]["method"]
        return policy if method == "none" else f"{policy} + {method} replay"

    @property
    def scored(self) -> dict[str, Record]:
        """The records without those of errors."""
        return {key: record for key, record in self.records.items() if record["error"] is None}

    @property
    def errors(self) -> dict[str, Record]:
        """The records of errors."""
        return {key: record for key, record in self.records.items() if record["error"] is not None}


def open_runs(folders: Sequence[Path]) -> list[Run]:
    """Read several runs, each with a name of its own: as much of its path as that takes.

    Raises:
        ValueError: a folder holds none, or is named twice.
    """
    parts = [folder.resolve().parts for folder in folders]
    runs = []
    for folder, own in zip(folders, parts, strict=True):
        if parts.count(own) > 1:
            raise ValueError(f"{folder} is named twice: a run is shown once")
        length = 1
        while sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        runs.append(replace(Run.open(folder), label=str(Path(*own[-length:]))))
    return runs
