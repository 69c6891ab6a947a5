r"""VisualProbe: small things in large pictures, at three levels of difficulty, without options.

A JSON file with relative paths:

    [{"images": ["images/harbour_12.jpg"], "doc_id": "hard_12", "data_source": "VisualProbe_Hard",
      "problem": "<image>\nWhat is written on the lifebelt?", "solution": "MIRA II"}]

or the common TSV layout:

    index  image      question                           answer
    0      /9j/4AA..  What is written on the lifebelt?   MIRA II
"""

from typing import ClassVar

from visreplay.tasks.datasets.file_task import FileTask
from visreplay.tasks.datasets.table_files import Row
from visreplay.tasks.questions import strip_media_marks
from visreplay.tasks.scoring.scorers import Scorer
from visreplay.tasks.types import Sample


class VisualProbe(FileTask):
    """VisualProbe at one level of difficulty."""

    suffixes: ClassVar = (".json", ".jsonl", ".tsv")
    columns: ClassVar = ("index", "image", "question", "answer")

    def read(self, row: Row) -> Sample:
        """Make the sample of a question; it has no facts."""
        if "problem" not in row.fields:
            return Sample(
                sample_id=row.text("index"),
                question=strip_media_marks(row.text("question")),
                answer=row.text("answer"),
                category=row.optional("category"),
            )
        paths = row.texts("images")
        if not paths:
            raise row.error("images", "there must be at least one")
        return Sample(
            sample_id=row.text("doc_id"),
            question=strip_media_marks(row.text("problem")),
            answer=row.text("solution"),
            images=tuple(self.find(row, "images", path) for path in paths),
            category=row.optional("data_source"),
        )

    @classmethod
    def open_scorer(cls, name: str) -> Scorer:
        """Choose the rule: the expected text."""
        return Scorer("text")
