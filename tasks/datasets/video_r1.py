"""Video-R1's own layout, in which its training data and several benchmarks are handed around.

A JSON file; `path` is relative to it:

    [{"problem_id": 31, "problem": "How many oars are in the water at the end?",
      "data_type": "video", "problem_type": "multiple choice",
      "options": ["A. Two", "B. Four", "C. None"], "path": "./NeXT-QA/rowing_4.mp4",
      "solution": "<answer>B</answer>"}]

`problem_type` is `multiple choice`, `numerical`, or `free-form` or `OCR`, which are compared as
texts. `regression`, whose reward is a matter of degree, is refused.
"""

import re
from typing import ClassVar

from visreplay.tasks.datasets.file_task import FileTask, TaskInfo, answer_letter, chose_right
from visreplay.tasks.datasets.table_files import Row
from visreplay.tasks.questions import asked, lettered, without_marks
from visreplay.tasks.scoring.scorers import same_number, same_text
from visreplay.tasks.types import Sample

KINDS = ("multiple choice", "numerical", "free-form", "OCR")


class VideoR1(FileTask):
    """The task."""

    entries: ClassVar = (
        TaskInfo(
            "video-r1",
            "option letter; numerical: number to 0.01; others: text",
            "JSON: problem_id, problem, problem_type, options, data_type, path, solution",
        ),
    )

    def read(self, row: Row) -> Sample:
        """A question about a video or an image; facts hold `kind` and `options`."""
        kind = row.text("problem_type")
        if kind not in KINDS:
            raise row.refused("problem_type", f"{kind!r} is none of {', '.join(KINDS)}")
        media = row.text("data_type")
        if media not in ("video", "image"):
            raise row.refused("data_type", f"{media!r} is neither video nor image")
        path = self.find(row, "path", row.text("path"))
        tagged = re.search(r"<answer>(.*?)</answer>", row.text("solution"), re.DOTALL)
        if tagged is None or not tagged[1].strip():
            raise row.refused("solution", "there is no <answer>..</answer> in it")
        answer, question, options = tagged[1].strip(), without_marks(row.text("problem")), {}
        if kind == "multiple choice":
            given = row.texts("options")
            options = lettered([re.sub(r"^\s*[A-Z][.):]\s*", "", text) for text in given])
            solved = Row(row.file, row.number, row.where, {"solution": answer})
            answer = answer_letter(solved, "solution", options)
            question = asked(question, options)
        return Sample(
            sample_id=row.text("problem_id"),
            question=question,
            answer=answer,
            images=(path,) if media == "image" else (),
            video=path if media == "video" else None,
            category=row.optional("data_source") or kind,
            facts={"kind": kind, "options": options},
        )

    def is_right(self, sample: Sample, answer: str | None) -> bool:
        """Whether the answer is right, by the rule of the problem's kind."""
        if sample.facts["kind"] == "multiple choice":
            return chose_right(sample, answer)
        if sample.facts["kind"] == "numerical":
            return same_number(sample.answer, answer, 0.005)
        return same_text(sample.answer, answer)
