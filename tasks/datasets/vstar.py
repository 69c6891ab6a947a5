r"""V*: which attribute a small object has, and how two small objects lie to each other.

A JSON Lines file with the options in the text, and paths relative to it:

    {"image": "direct_attributes/sa_7.jpg", "text": "What is the color of the kite?\n(A) teal\n
     (B) pink\nAnswer with the option's letter from the given choices directly.",
     "category": "direct_attributes", "question_id": "7", "label": "B"}

or a folder of raw JSON files, each beside its picture, in which the first option is always right:

    relative_position/sp_3.json
    {"target_object": ["kite", "boat"], "bbox": [[31, 14, 9, 9], [70, 88, 12, 6]],
     "question": "Is the kite left or right of the boat?",
     "options": ["The kite is left of the boat.", "The kite is right of the boat."]}

Raw options are shuffled: or else A would always be right. The order depends on the sample alone.
"""

from random import Random
from typing import ClassVar

from visreplay.tasks.datasets.file_task import FileTask, TaskInfo, answer_letter, chose_right
from visreplay.tasks.datasets.table_files import Row
from visreplay.tasks.questions import asked, inline_options, lettered, without_marks
from visreplay.tasks.types import Sample


class VStar(FileTask):
    """The task in either form."""

    entries: ClassVar = (
        TaskInfo(
            "vstar",
            "option letter",
            "test_questions.jsonl, or the folder of */*.json; pictures beside them",
        ),
    )
    pattern: ClassVar = "*/*.json"

    def read(self, row: Row) -> Sample:
        """A question; facts hold `options`."""
        if "text" in row.fields:
            return self._inline(row)
        stem = f"{row.file.parent.name}/{row.file.stem}"
        sample_id = row.optional("question_id") or stem
        given = row.texts("options")
        if len(given) < 2:
            raise row.refused("options", f"two or more are needed; there are {len(given)}")
        order = list(range(len(given)))
        Random(f"V* {sample_id}").shuffle(order)
        options = lettered([given[place] for place in order])
        image = row.optional("image")
        places = [image] if image else [f"{stem}{end}" for end in (".jpg", ".png", ".jpeg")]
        return Sample(
            sample_id=sample_id,
            question=asked(without_marks(row.text("question")), options),
            answer=chr(65 + order.index(0)),
            images=(self.find(row, "image", *places),),
            category=row.optional("category") or row.file.parent.name,
            facts={"options": options},
        )

    def _inline(self, row: Row) -> Sample:
        question = without_marks(row.text("text"))
        options = inline_options(question)
        if not options:
            raise row.refused("text", "there are no lines with options, as (A) red")
        return Sample(
            sample_id=row.text("question_id"),
            question=question,
            answer=answer_letter(row, "label", options),
            images=(self.find(row, "image", row.text("image")),),
            category=row.text("category"),
            facts={"options": options},
        )

    def is_right(self, sample: Sample, answer: str | None) -> bool:
        """Whether the answer chooses the right option."""
        return chose_right(sample, answer)
