"""The tasks that the package knows, by name: those that it generates, and those of files."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from random import Random

from visreplay.tasks.datasets.file_task import FileTask, TaskInfo
from visreplay.tasks.datasets.hr_bench import HRBench
from visreplay.tasks.datasets.image_qa import ImageQA
from visreplay.tasks.datasets.mlvu import MLVU
from visreplay.tasks.datasets.mmvu import MMVU
from visreplay.tasks.datasets.video_holmes import VideoHolmes
from visreplay.tasks.datasets.video_mmmu import VideoMMMU
from visreplay.tasks.datasets.video_r1 import VideoR1
from visreplay.tasks.datasets.visual_probe import VisualProbe
from visreplay.tasks.datasets.vstar import VStar
from visreplay.tasks.synthetic import video_search, visual_search
from visreplay.tasks.synthetic.synthetic_task import GeneratedTask
from visreplay.tasks.synthetic.video_search import VideoSearch
from visreplay.tasks.synthetic.visual_search import VisualSearch
from visreplay.tasks.types import Task

GENERATED: dict[str, GeneratedTask] = {
    task.name: task
    for task in (
        VisualSearch(visual_search.EASY),
        VisualSearch(visual_search.MEDIUM),
        VisualSearch(visual_search.HARD),
        VideoSearch(video_search.EASY),
        VideoSearch(video_search.HARD),
    )
}
"""The generated tasks by name."""

TASKS = tuple(GENERATED)
"""Every name that `task_named` knows."""

FAMILIES: tuple[type[FileTask], ...] = (
    HRBench,
    VStar,
    VisualProbe,
    ImageQA,
    MMVU,
    VideoMMMU,
    MLVU,
    VideoHolmes,
    VideoR1,
)
"""The tasks of files that the user has."""

_OF_FILES = {entry.name: family for family in FAMILIES for entry in family.entries}

ENTRIES: tuple[TaskInfo, ...] = (
    *(TaskInfo(name, "text", "") for name in TASKS),
    *(entry for family in FAMILIES for entry in family.entries),
)
"""Every task; those without files are generated."""


def task_named(name: str) -> GeneratedTask:
    """The generated task of a name.

    Raises:
        ValueError: If there is no such task.
    """
    if name not in GENERATED:
        raise ValueError(f"there is no task {name!r}; there are {', '.join(TASKS)}")
    return GENERATED[name]


def open_task(name: str, data: Path | None = None) -> Task:
    """Open any task.

    Args:
        name: One of `visreplay tasks`.
        data: The file of a task that needs one.

    Raises:
        ValueError: there is no such task, its file is not given or malformed, or a file is given
            to a task that has none.
        OSError: the file cannot be read.
        ImportError: the task's scorer is not installed.
    """
    if name in TASKS:
        if data is not None:
            raise ValueError(f"{name} is generated and reads no file: leave out --data {data}")
        return task_named(name)
    if name not in _OF_FILES:
        names = [entry.name for entry in ENTRIES]
        meant = _meant(name, names)
        raise ValueError(f"there is no task {name!r}{meant}: see `visreplay tasks`")
    if data is None:
        files = next(entry.files for entry in ENTRIES if entry.name == name)
        raise ValueError(f"{name} needs its file, --data: {files}")
    return _OF_FILES[name](name, data)


def select(
    ids: Sequence[str],
    *,
    limit: int | None = None,
    sample_ids: Sequence[str] | None = None,
    shuffle: int | None = None,
) -> list[str]:
    """Which samples of a task to run, in which order.

    Args:
        ids: Those of all samples.
        limit: At most so many, the first after shuffling.
        sample_ids: Only these, in this order.
        shuffle: A seed; the same seed gives the same order everywhere.

    Raises:
        ValueError: an id is unknown or named twice, or the limit is not positive.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit is {limit}; it must be at least 1")
    known, chosen = set(ids), list(ids if sample_ids is None else sample_ids)
    if unknown := [sample_id for sample_id in chosen if sample_id not in known]:
        more = f" (and {len(unknown) - 1} more)" if unknown[1:] else ""
        raise ValueError(
            f"the task has no sample {unknown[0]!r}{more}{_meant(unknown[0], ids)}; "
            f"its first is {ids[0]!r}"
        )
    if len(set(chosen)) < len(chosen):
        twice = next(sample_id for sample_id in chosen if chosen.count(sample_id) > 1)
        raise ValueError(f"the sample {twice!r} is there twice: it would be counted twice")
    if shuffle is not None:
        Random(shuffle).shuffle(chosen)
    return chosen[:limit]


def _meant(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, 3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
