"""The layout of Video-R1, in which its training data and several benchmarks are distributed.

A JSON file; `path` is relative to it:

    [{"problem_id": 31, "problem": "How many oars are in the water at the end?",
      "data_type": "video", "problem_type": "multiple choice",
      "options": ["A. Two", "B. Four", "C. None"], "path": "./NeXT-QA/rowing_4.mp4",
      "solution": "<answer>B</answer>"}]

`problem_type` is `multiple choice`, `numerical`, `free-form` or `OCR`; the last two are compared as
texts. `regression` is refused, because its reward is a matter of degree.
"""

import re
from dataclasses import replace

from visreplay.agent.protocols.wording import Kind
from visreplay.tasks.datasets.file_task import FileTask, answer_letter
from visreplay.tasks.datasets.table_files import Row
from visreplay.tasks.questions import options_by_letter, question_fields, strip_media_marks
from visreplay.tasks.scoring.scorers import Scorer
from visreplay.tasks.types import Sample

KINDS: dict[str, Kind] = {
    "multiple choice": "options",
    "numerical": "number",
    "free-form": "text",
    "OCR": "ocr",
}
"""What a question asks for, by the name of its kind in the file."""


class VideoR1(FileTask):
    """Any data in the layout of Video-R1."""

    def read(self, row: Row) -> Sample:
        """Make the sample of a question; facts hold `kind` and `options`."""
        kind = row.text("problem_type")
        if kind not in KINDS:
            raise row.error("problem_type", f"{kind!r} is none of {', '.join(KINDS)}")
        media = row.text("data_type")
        if media not in ("video", "image"):
            raise row.error("data_type", f"{media!r} is neither video nor image")
        path = self.find(row, "path", row.text("path"))
        tagged = re.search(r"<answer>(.*?)</answer>", row.text("solution"), re.DOTALL)
        if tagged is None or not tagged[1].strip():
            raise row.error("solution", "there is no <answer>..</answer> in it")
        answer, question, options = tagged[1].strip(), strip_media_marks(row.text("problem")), {}
        if kind == "multiple choice":
            choices = row.texts("options")
            options = options_by_letter(
                [re.sub(r"^\s*[A-Z][.):]\s*", "", text) for text in choices]
            )
            answer = answer_letter(replace(row, fields={"solution": answer}), "solution", options)
        return Sample(
            sample_id=row.text("problem_id"),
            **question_fields(question, options, KINDS[kind]),
            answer=answer,
            images=(path,) if media == "image" else (),
            video=path if media == "video" else None,
            category=row.optional("data_source") or kind,
            facts={"kind": kind, "options": options},
        )

    @classmethod
    def open_scorer(cls, name: str) -> Scorer:
        """Choose the rule for open questions that are not numerical: the expected text."""
        return Scorer("text")

    def scorer(self, sample: Sample) -> Scorer:
        """Choose the rule by the problem's kind."""
        is_number = sample.facts["kind"] == "numerical"
        return Scorer("number", tolerance=0.005) if is_number else super().scorer(sample)
