"""Every task of the package by its name. The module of a task is imported when it is opened."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, cast

from visreplay.tasks.scoring.scorers import Scorer
from visreplay.tasks.types import Task, TaskInfo

if TYPE_CHECKING:
    from visreplay.tasks.datasets.file_task import FileTask

_LETTER = "option letter"
_OPEN_TEXT = f"{_LETTER}; open questions: number or text"
_OPEN_MATHEMATICS = f"{_LETTER}; open questions: math-verify"
_TSV = "TSV: index, question, image, answer; A, B.."
_PROBE = "VisualProbe_{}.json with images, or TSV: index, question, image, answer"

_SYNTHETIC: dict[str, tuple[TaskInfo, ...]] = {
    "visual_search": tuple(
        TaskInfo(f"visual-search-{level}", "text", "") for level in ("easy", "medium", "hard")
    ),
    "video_search": (
        TaskInfo("video-search", "text", ""),
        TaskInfo("video-search-hard", "text", ""),
    ),
}
"""The tasks of each module in `tasks/synthetic/`, which holds them in its `TASKS`."""

_DATASETS: dict[str, tuple[TaskInfo, ...]] = {
    "hr_bench.HRBench": (
        TaskInfo("hr-bench-4k", _LETTER, "hr_bench_4k.tsv"),
        TaskInfo("hr-bench-8k", _LETTER, "hr_bench_8k.tsv"),
    ),
    "vstar.VStar": (
        TaskInfo(
            "vstar",
            _LETTER,
            "test_questions.jsonl, or the folder of */*.json; pictures beside them",
        ),
    ),
    "visual_probe.VisualProbe": tuple(
        TaskInfo(f"visual-probe-{level}", "text", _PROBE.format(level.title()))
        for level in ("easy", "medium", "hard")
    ),
    "image_qa.ImageQA": (
        TaskInfo("mathvista", _OPEN_TEXT, _TSV),
        TaskInfo("mathverse", _OPEN_MATHEMATICS, _TSV),
        TaskInfo("mathvision", _OPEN_MATHEMATICS, _TSV),
        TaskInfo("dynamath", f"{_LETTER}; open questions: number to 0.001, or text", _TSV),
        TaskInfo("logicvista", f"{_LETTER}; open questions: all of the letters", _TSV),
        TaskInfo("mmmu", _OPEN_TEXT, _TSV),
        TaskInfo("mmmu-pro", _OPEN_TEXT, _TSV),
        TaskInfo("image-qa", _OPEN_TEXT, _TSV),
    ),
    "we_math.WeMath": (
        TaskInfo("we-math", f"{_LETTER}; strict score of whole problems", f"{_TSV}; ID, key"),
    ),
    "mmvu.MMVU": (
        TaskInfo(
            "mmvu",
            f"{_LETTER}; open questions: text",
            "validation.json; videos in videos/SUBJECT/",
        ),
    ),
    "video_mmmu.VideoMMMU": (
        TaskInfo(
            "video-mmmu",
            _OPEN_TEXT,
            "perception_video.json, comprehension_video.json, adaptation_video.json, or their "
            "folder; videos in videos/",
        ),
    ),
    "mlvu.MLVU": (
        TaskInfo(
            "mlvu",
            _LETTER,
            "json/1_plotQA.json or another, or json/; videos in video/1_plotQA/",
        ),
    ),
    "video_holmes.VideoHolmes": (
        TaskInfo("video-holmes", _LETTER, "test_Video-Holmes.json; videos in videos/"),
    ),
    "video_r1.VideoR1": (
        TaskInfo(
            "video-r1",
            f"{_LETTER}; numerical: number to 0.01; others: text",
            "JSON: problem_id, problem, problem_type, options, data_type, path, solution",
        ),
    ),
}
"""The tasks of each class in `tasks/datasets/`, which read files that the user has."""

SYNTHETIC_TASKS: tuple[str, ...] = tuple(
    info.name for infos in _SYNTHETIC.values() for info in infos
)
"""The names of the tasks that are drawn from seeds and read no file."""

TASK_INFOS: tuple[TaskInfo, ...] = tuple(
    info for table in (_SYNTHETIC, _DATASETS) for infos in table.values() for info in infos
)
"""Every task, in the order of `visreplay tasks`."""

_INFO_BY_NAME = {info.name: info for info in TASK_INFOS}
_OWNER_BY_NAME = {
    info.name: owner for owner, infos in (_SYNTHETIC | _DATASETS).items() for info in infos
}


def get_task(name: str, data: str | Path | None = None, *, max_pixels: int | None = None) -> Task:
    """Open a task.

    Args:
        name: A name in the list of `visreplay tasks`.
        data: The file or folder of a task that reads one; None for a synthetic task.
        max_pixels: Largest number of pixels of an image in the data; None for the default of
            `load_image`.

    Raises:
        ValueError: There is no such task, its file is missing from the call or malformed, or a
            file is named for a synthetic task.
        OSError: The file cannot be read.
        ImportError: The task's scorer is not installed.
    """
    files = _info(name).files
    if files and data is None:
        raise ValueError(f"{name} needs its file, --data: {files}")
    if not files and data is not None:
        raise ValueError(f"{name} is synthetic and reads no file: leave out --data {data}")
    task: Task
    if data is None:
        module = import_module(f"visreplay.tasks.synthetic.{_OWNER_BY_NAME[name]}")
        task = module.TASKS[name]
    else:
        file_task = _file_task(name)(name, Path(data))
        file_task.max_pixels = max_pixels
        task = file_task
    return task


def get_scorer(name: str, options: Mapping[str, str]) -> Scorer:
    """Choose the rule of a task for a question with options, or for an open one, without its file.

    Raises:
        ValueError: There is no such task, or there are no options and it has no open questions.
    """
    if not _info(name).files:
        return Scorer("text")
    return _file_task(name).scorer_for(name, options)


def _info(name: str) -> TaskInfo:
    if name not in _INFO_BY_NAME:
        close = _close_names(name, list(_INFO_BY_NAME))
        raise ValueError(f"there is no task {name!r}{close}: see `visreplay tasks`")
    return _INFO_BY_NAME[name]


def _file_task(name: str) -> "type[FileTask]":
    file, _, class_name = _OWNER_BY_NAME[name].partition(".")
    module = import_module(f"visreplay.tasks.datasets.{file}")
    return cast("type[FileTask]", getattr(module, class_name))


def select(
    ids: Sequence[str],
    *,
    limit: int | None = None,
    sample_ids: Sequence[str] | None = None,
    shuffle: int | None = None,
) -> list[str]:
    """Choose which samples of a task to run, and in which order.

    Args:
        ids: The ids of all samples of the task.
        limit: The largest number of samples to keep, after shuffling.
        sample_ids: The only samples to keep, in this order.
        shuffle: A seed; the same seed gives the same order on every machine.

    Raises:
        ValueError: An id is unknown or named twice, or the limit is not positive.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit is {limit}; it must be at least 1")
    known, chosen = set(ids), list(ids if sample_ids is None else sample_ids)
    if unknown := [sample_id for sample_id in chosen if sample_id not in known]:
        more = f" (and {len(unknown) - 1} more)" if unknown[1:] else ""
        raise ValueError(
            f"the task has no sample {unknown[0]!r}{more}{_close_names(unknown[0], ids)}; "
            f"its first is {ids[0]!r}"
        )
    if len(set(chosen)) < len(chosen):
        twice = next(sample_id for sample_id in chosen if chosen.count(sample_id) > 1)
        raise ValueError(f"the sample {twice!r} is named twice: it would be counted twice")
    if shuffle is not None:
        Random(shuffle).shuffle(chosen)
    return chosen[:limit]


def _close_names(name: str, names: Sequence[str]) -> str:
    close = get_close_matches(name, names, 3)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
