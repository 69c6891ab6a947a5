"""A run on the disk: its settings, a record of each sample, and the images.

runs/hr4k/
  run.jsonl    {"settings": {...}}, then one line for each sample, written when it ends
  images/      every image once, named by the hash of its content
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, Self, TypedDict, cast

from visreplay.tasks.evaluation.journal import DamagedLine, read_journal
from visreplay.tasks.evaluation.record_shapes import record_mismatch, settings_mismatch
from visreplay.tasks.types import Sample
from visreplay.tools import ImageStore

if TYPE_CHECKING:
    from visreplay.agent import Trajectory

LINES = "run.jsonl"
IMAGES = "images"


class ScoredRollout(TypedDict):
    """One episode on a sample, with its score.

    Attributes:
        right: Whether the answer is right.
        cot_right: Whether the checker found the reasoning of a right answer right; None without a
            checker, and for a wrong answer.
        trajectory: The fields of `Trajectory`, without those that the whole run has in common and
            without token ids.
    """

    right: bool
    cot_right: bool | None
    trajectory: dict[str, Any]


class SampleRecord(TypedDict):
    """The results of one sample: its rollouts, or an error and no rollouts.

    Attributes:
        sample_id: Unique within the task.
        question: The text that the model read; None, like the next two, if the sample could not be
            loaded.
        expected: The right answer.
        category: The part of the task that the sample belongs to.
        group: The name of a set of samples that depend on each other (`Sample.group`).
        split: The split of the data set that the sample is in (`Sample.split`).
        error: Type and message of the exception that ended the sample.
        rollouts: Empty after an error.
        seconds: Wall time of playing and scoring, without loading.
    """

    sample_id: str
    question: str | None
    expected: str | None
    category: str | None
    error: str | None
    rollouts: list[ScoredRollout]
    group: NotRequired[str | None]
    split: NotRequired[str | None]
    seconds: NotRequired[float]


_RUN_FIELDS = ("policy", "base", "protocol", "settings")
"""Fields of a trajectory that are equal in a whole run."""


def rollout_of(
    trajectory: "Trajectory", *, right: bool, cot_right: bool | None = None
) -> ScoredRollout:
    """Make the record of an episode."""
    fields = {name: v for name, v in trajectory.to_json().items() if name not in _RUN_FIELDS}
    for message in fields["messages"]:
        message.pop("token_ids", None)
    return {"right": right, "cot_right": cot_right, "trajectory": fields}


def record_of(sample: Sample, rollouts: Sequence[ScoredRollout]) -> SampleRecord:
    """Make the record of a sample that ended without an error."""
    return {
        "sample_id": sample.sample_id,
        "question": sample.question,
        "expected": sample.answer,
        "category": sample.category,
        "group": sample.group,
        "split": sample.split,
        "error": None,
        "rollouts": list(rollouts),
    }


@dataclass(frozen=True)
class Run:
    """A run, whether it has finished or not.

    Attributes:
        folder: The folder of its files.
        settings: Everything that its results depend on.
        records: The records by sample id, in the order in which the samples first ended.
        label: A name to use instead of the folder's.
        damaged: Lines of the file that are no records, and left out.
    """

    folder: Path
    settings: dict[str, Any]
    records: dict[str, SampleRecord]
    label: str | None = None
    damaged: Sequence[DamagedLine] = ()

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read a run, even while it is being written: an unfinished line is left out.

        Lines that are damaged, or not records of this run, are left out too, and listed in
        `damaged`. Readers of a run rely on the shapes of its settings and records, which are
        checked here.

        Raises:
            ValueError: The folder does not hold a run.
        """
        folder = Path(folder)
        path = folder / LINES
        if not path.is_file():
            raise ValueError(f"{folder} is not the folder of a run: it holds no {LINES}")
        content = read_journal(path, record_mismatch)
        if content.settings is None:
            raise ValueError(f"{path} is empty: the run's first sample has not ended yet")
        if wrong := settings_mismatch(content.settings):
            raise ValueError(f"line 1 of {path} is not the settings of a run: {wrong}")
        if content.damaged and not content.results:
            first = content.damaged[0]
            raise ValueError(
                f"{path} holds no record of a sample: line {first.number} is none, {first.reason}"
            )
        records = cast(dict[str, SampleRecord], content.results)
        return cls(folder, content.settings, records, damaged=content.damaged)

    @property
    def name(self) -> str:
        """The label, or else the name of the folder."""
        return self.label or self.folder.resolve().name

    @cached_property
    def store(self) -> ImageStore:
        """The images of the run."""
        return ImageStore(self.folder / IMAGES)

    @property
    def system(self) -> str:
        """The name of what answered: the policy, the method of replay, and whether tools lacked."""
        policy = Path(str(self.settings["policy"])).name
        method = self.settings["replay"]["method"]
        name = policy if method == "none" else f"{policy} + {method} replay"
        return name if self.has_tools else f"{name}, without tools"

    @property
    def has_tools(self) -> bool:
        """Whether the policy was offered tools, where its protocol has any."""
        return bool(self.settings.get("recipe", {}).get("tools", True))

    @property
    def scored(self) -> dict[str, SampleRecord]:
        """The records of samples without an error."""
        return {key: record for key, record in self.records.items() if record["error"] is None}

    @property
    def errors(self) -> dict[str, SampleRecord]:
        """The records of samples that ended in an error."""
        return {key: record for key, record in self.records.items() if record["error"] is not None}


def damaged_samples(run: Run, *, decode: bool = False) -> list[str]:
    """List the samples of which an image is missing or damaged.

    Args:
        run: The run.
        decode: Whether to decode every image, which finds all damage; otherwise, files that are
            missing, empty or cut are found (`ImageStore.is_whole`).
    """
    owners: dict[str, list[str]] = {}
    for sample_id, record in run.records.items():
        for reference in dict.fromkeys(references(record)):
            owners.setdefault(reference, []).append(sample_id)
    with ThreadPoolExecutor() as threads:  # both reading and decoding leave the interpreter free
        whole = threads.map(lambda each: run.store.is_whole(each, decode=decode), owners)
        lost = {
            sample_id
            for each, is_whole in zip(owners.values(), whole, strict=True)
            if not is_whole
            for sample_id in each
        }
    return [sample_id for sample_id in run.records if sample_id in lost]


def damage(run: Run) -> list[str]:
    """Describe what is damaged in the files of a run, and the way out; a line for each kind."""
    lines = []
    if run.damaged:
        numbers = ", ".join(str(line.number) for line in run.damaged[:5])
        more = ", ..." if len(run.damaged) > 5 else ""
        one = len(run.damaged) == 1
        lines.append(
            f"{run.name}: line{'' if one else 's'} {numbers}{more} of {LINES} "
            f"{'is' if one else 'are'} damaged and left out ({run.damaged[0].reason}): the command "
            "of the run plays its missing samples again"
        )
    if lost := damaged_samples(run):
        lines.append(
            f"{run.name}: images of {len(lost)} sample{'s' if lost[1:] else ''} are missing or "
            f"damaged ({', '.join(lost[:3])}{', ...' if lost[3:] else ''}): the command of the run "
            "plays them again with --retry-errors"
        )
    return lines


def references(record: SampleRecord) -> Iterator[str]:
    """Go through the references of all images of a record, with the maps."""
    for rollout in record["rollouts"]:
        trajectory = rollout["trajectory"]
        yield from trajectory["images"]
        for message in trajectory["messages"]:
            for part in message["content"]:
                if part["type"] == "image":
                    yield part["image"]
                elif part["type"] == "video":
                    yield from part["frames"]
        for step in trajectory["steps"]:
            for block in (step["replay"] or {}).get("blocks") or ():
                if block.get("map") is not None:
                    yield block["map"]
            for use in step["tool_calls"]:
                yield from (use["observation"] or {}).get("images", ())


def open_runs(folders: Sequence[Path]) -> list[Run]:
    """Read several runs and label each with as many folders of its path as make it unique.

    Raises:
        ValueError: A folder does not hold a run, or is named twice.
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
