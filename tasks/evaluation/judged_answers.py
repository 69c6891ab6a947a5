"""The verdicts on answers that exist already: in a file, or in a run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from visreplay.tasks.datasets.file_task import FileTask
from visreplay.tasks.datasets.table_files import JsonFile, Row
from visreplay.tasks.evaluation.runs import Run
from visreplay.tasks.questions import options_by_letter
from visreplay.tasks.registry import get_scorer, get_task
from visreplay.tasks.scoring.scorers import SCORER_KINDS, TEXTLESS_OPTIONS, Scorer
from visreplay.tasks.types import Verdict
from visreplay.tools.types import preview


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """An answer with its verdict, or the reason why there is none.

    Attributes:
        label: The line of the file, or the sample of the run, with the rollout if it has several.
        expected: The right answer, or several of which any is right.
        answer: The answer; None if there is none.
        verdict: The verdict; None after an error.
        recorded: The verdict that stands in the file or in the run; None if none does.
        error: Why the line or the sample cannot be read; None if it can.
    """

    label: str
    expected: str | Sequence[str] = ""
    answer: str | None = None
    verdict: Verdict | None = None
    recorded: bool | None = None
    error: str | None = None


def judge_file(path: Path) -> Iterator[JudgedAnswer]:
    """Judge the answers of a JSON Lines or JSON file, whose lines are independent.

    A line has these fields:

    - `scorer`, one of `SCORER_KINDS`, or `task`, the name of a task whose rule is taken;
    - `options`, a list of texts or an object of texts by letter; none for an open question, and for
      options that stand in the picture;
    - `expected`, the right answer, or a list of which any is right;
    - `answer`, a text, or null where a model gave none;
    - `tolerance`, for the scorer "number"; `right`, a verdict to compare with. Both may be missing.

    Raises:
        ValueError: The file is not JSON, or has no lines.
        OSError: The file cannot be read.
    """
    rows = list(JsonFile(path).scan())
    if not rows:
        raise ValueError(f"{path} has no lines")
    for row in rows:
        try:
            row.check()
            expected, answer = _expected(row), _answer(row)
            verdict = _scorer(row).judge(expected, answer)
            recorded = row.fields.get("right")
            if recorded is not None and not isinstance(recorded, bool):
                raise row.error("right", f"true or false is needed, not {preview(recorded)}")
            yield JudgedAnswer(row.label, expected, answer, verdict, recorded)
        except ValueError as error:
            yield JudgedAnswer(row.label, error=str(error))


def judge_run(run: Run, data: Path | None = None) -> Iterator[JudgedAnswer]:
    """Judge the answers of a run by the rules of its task as they are now.

    Args:
        run: The run.
        data: The file of the task's data; None for that of the run.

    Raises:
        ValueError: The task or its data cannot be opened, or the data is not that of the run.
        OSError: The data cannot be read.
    """
    data = data or (Path(run.settings["data"]) if run.settings.get("data") else None)
    task = get_task(str(run.settings["task"]), data)
    digest = run.settings.get("data_digest")
    if digest is not None and digest != getattr(task, "digest", None):
        raise ValueError(f"{data} is not the data of the run {run.folder}: its content is another")
    for sample_id, record in run.scored.items():
        try:
            if isinstance(task, FileTask):
                sample = task.describe(sample_id)
            else:
                sample = task.load(sample_id)
        except ValueError as error:
            yield JudgedAnswer(sample_id, error=str(error))
            continue
        for number, rollout in enumerate(record["rollouts"]):
            label = f"{sample_id}, rollout {number}" if len(record["rollouts"]) > 1 else sample_id
            answer = rollout["trajectory"]["answer"]
            verdict = task.judge(sample, answer)
            yield JudgedAnswer(label, sample.answer, answer, verdict, rollout["right"])


def _expected(row: Row) -> str | list[str]:
    value = row.fields.get("expected")
    if isinstance(value, list) and value:
        return row.texts("expected")
    return row.text("expected")


def _answer(row: Row) -> str | None:
    if "answer" not in row.fields:
        raise row.error("answer", "it is missing; null is a model's missing answer")
    answer: str | None = row.fields["answer"]
    if not (answer is None or isinstance(answer, str)):
        raise row.error("answer", f"a text or null is needed, not {preview(answer)}")
    return answer


def _scorer(row: Row) -> Scorer:
    options: dict[str, str] = {}
    if row.fields.get("options"):
        is_list = isinstance(row.fields["options"], list)
        # Options that stand in the picture have no texts.
        options = options_by_letter(row.texts("options")) if is_list else row.options("options")
    kind, task = row.optional("scorer"), row.optional("task")
    if (kind is None) == (task is None):
        raise row.error("scorer", "a line has either a scorer or a task")
    if task is not None:
        try:
            return get_scorer(task, options)
        except ValueError as error:
            raise row.error("task", str(error)) from error
    if kind not in SCORER_KINDS:
        raise row.error("scorer", f"{kind!r} is none of {', '.join(SCORER_KINDS)}")
    tolerance = row.fields.get("tolerance", 1e-9)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not tolerance >= 0:
        raise row.error("tolerance", f"a number from 0 is needed, not {preview(tolerance)}")
    return Scorer(kind, options or TEXTLESS_OPTIONS, float(tolerance))
