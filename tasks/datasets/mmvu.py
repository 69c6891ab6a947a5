"""MMVU: expert questions about lectures and experiments on video.

A JSON file; videos lie in `videos/` beside it, named by the end of their address:

    [{"id": "validation_7",
      "video": "https://huggingface.co/datasets/yale-nlp/MMVU/resolve/main/videos/Physics/3.mp4",
      "question_type": "multiple-choice", "metadata": {"subject": "Physics", ..},
      "question": "What happens to the pendulum's period if its mass is doubled?",
      "choices": {"A": "It doubles", "B": "It halves", "C": "It stays", "D": "", "E": ""},
      "answer": "C"}]

`question_type` is also written `multiple choice`. An `open-ended` question has empty choices, and
its answer is a text: "Simple harmonic motion (SHM)".
"""

import re

from visreplay.tasks.datasets.file_task import FileTask, answer_letter
from visreplay.tasks.datasets.table_files import Row
from visreplay.tasks.questions import question_fields
from visreplay.tasks.scoring.scorers import Scorer
from visreplay.tasks.types import Sample


class MMVU(FileTask):
    """MMVU."""

    def read(self, row: Row) -> Sample:
        """Make the sample of a question; the category is its kind, as in published figures.

        Facts hold `options`, which are empty for an open question, and `subject`.
        """
        kind = row.text("question_type").replace(" ", "-")
        if kind not in ("multiple-choice", "open-ended"):
            raise row.error("question_type", f"{kind!r} is not multiple-choice or open-ended")
        video = row.text("video")
        path = re.sub(r"^https?://.*?/(?=videos/)", "", video)
        metadata = row.fields.get("metadata")
        subject = metadata.get("subject") if isinstance(metadata, dict) else None
        question = row.text("question")
        options = row.options("choices") if kind == "multiple-choice" else {}
        return Sample(
            sample_id=row.text("id"),
            **question_fields(question, options, "text"),
            answer=answer_letter(row, "answer", options) if options else row.text("answer"),
            video=self.find(row, "video", path, f"videos/{path}"),
            category=kind,
            facts={"options": options, "subject": subject},
        )

    @classmethod
    def open_scorer(cls, name: str) -> Scorer:
        """Choose the rule for open questions: a text, whose abbreviation may be left out."""
        return Scorer("text", abbreviations=True)
