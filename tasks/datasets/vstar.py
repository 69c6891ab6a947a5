r"""V*: the attributes of small objects, and how two small objects lie to each other.

A JSON Lines file with the options in the text and with relative paths:

    {"image": "direct_attributes/sa_7.jpg", "text": "What is the color of the kite?\n(A) teal\n
     (B) pink\nAnswer with the option's letter from the given choices directly.",
     "category": "direct_attributes", "question_id": "7", "label": "B"}

or a folder of raw JSON files, each beside its picture, in which the first option is always right:

    relative_position/sp_3.json
    {"target_object": ["kite", "boat"], "bbox": [[31, 14, 9, 9], [70, 88, 12, 6]],
     "question": "Is the kite left or right of the boat?",
     "options": ["The kite is left of the boat.", "The kite is right of the boat."]}

Raw options are shuffled, because A would always be right otherwise. The order depends on the sample
alone.
"""

from random import Random
from typing import ClassVar

from visreplay.tasks.datasets.file_task import FileTask, answer_letter
from visreplay.tasks.datasets.table_files import Row
from visreplay.tasks.questions import (
    inline_options,
    options_by_letter,
    question_fields,
    strip_media_marks,
)
from visreplay.tasks.types import Sample


class VStar(FileTask):
    """V* in either form."""

    pattern: ClassVar = "*/*.json"

    def read(self, row: Row) -> Sample:
        """Make the sample of a question; facts hold `options`."""
        if "text" in row.fields:
            return self._inline(row)
        stem = f"{row.file.parent.name}/{row.file.stem}"
        sample_id = row.optional("question_id") or stem
        choices = row.texts("options")
        if len(choices) < 2:
            raise row.error("options", f"two or more are needed; there are {len(choices)}")
        order = list(range(len(choices)))
        Random(f"V* {sample_id}").shuffle(order)
        options = options_by_letter([choices[number] for number in order])
        image = row.optional("image")
        places = [image] if image else [f"{stem}{end}" for end in (".jpg", ".png", ".jpeg")]
        return Sample(
            sample_id=sample_id,
            **question_fields(strip_media_marks(row.text("question")), options),
            answer=chr(65 + order.index(0)),
            images=(self.find(row, "image", *places),),
            category=row.optional("category") or row.file.parent.name,
            facts={"options": options},
        )

    def _inline(self, row: Row) -> Sample:
        question = strip_media_marks(row.text("text"))
        options = inline_options(question)
        if not options:
            raise row.error("text", "there are no options in it, as (A) red (B) blue")
        return Sample(
            sample_id=row.text("question_id"),
            question=question,
            answer=answer_letter(row, "label", options),
            images=(self.find(row, "image", row.text("image")),),
            category=row.text("category"),
            facts={"options": options},
        )
