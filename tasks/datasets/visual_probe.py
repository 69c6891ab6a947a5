r"""VisualProbe: small things in large pictures, at three difficulties, without options.

A JSON file; paths are relative to it:

    [{"images": ["images/harbour_12.jpg"], "doc_id": "hard_12", "data_source": "VisualProbe_Hard",
      "problem": "<image>\nWhat is written on the lifebelt?", "solution": "MIRA II"}]

or the common TSV layout:

    index  image      question                           answer
    0      /9j/4AA..  What is written on the lifebelt?   MIRA II
"""

from typing import ClassVar

from visreplay.tasks.datasets.file_task import FileTask, TaskInfo
from visreplay.tasks.datasets.table_files import Row
from visreplay.tasks.questions import without_marks
from visreplay.tasks.scoring.scorers import same_text
from visreplay.tasks.types import Sample


class VisualProbe(FileTask):
    """The task at one difficulty."""

    entries: ClassVar = tuple(
        TaskInfo(
            f"visual-probe-{level}",
            "text",
            f"VisualProbe_{level.title()}.json with images, or TSV: index, question, image, answer",
        )
        for level in ("easy", "medium", "hard")
    )
    suffixes: ClassVar = (".json", ".jsonl", ".tsv")
    columns: ClassVar = ("index", "image", "question", "answer")

    def read(self, row: Row) -> Sample:
        """A question, without facts."""
        if "problem" not in row.fields:
            return Sample(
                sample_id=row.text("index"),
                question=without_marks(row.text("question")),
                answer=row.text("answer"),
                category=row.optional("category"),
            )
        paths = row.texts("images")
        if not paths:
            raise row.refused("images", "there must be at least one")
        return Sample(
            sample_id=row.text("doc_id"),
            question=without_marks(row.text("problem")),
            answer=row.text("solution"),
            images=tuple(self.find(row, "images", path) for path in paths),
            category=row.optional("data_source"),
        )

    def is_right(self, sample: Sample, answer: str | None) -> bool:
        """Whether the answer is the expected text."""
        return same_text(sample.answer, answer)
