"""HR-Bench: questions about photographs of 4K and 8K.

A TSV file, in which every question occurs four times, each time with another order of its options:

    index  question                    image      A   B   C   D   answer  category  cycle_category
    0      Which number has the buoy?  /9j/4AA..  17  71  11  77  B       single    1
    1      Which number has the buoy?  0          71  17  77  11  A       single    2

`image` is the file of the picture in base64, or the index of the row that has it. Questions about
one object are the category FSP (fine-grained single-instance perception), and questions across
objects the category FCP.

HR-Bench's score is the mean over the cycles of each cycle's mean. Every cycle has every question
once, so that is the plain mean over all samples. The cycles of a question are a group.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

from visreplay.tasks.datasets.file_task import (
    MIN_IMAGE_CHARACTERS,
    FileTask,
    answer_letter,
)
from visreplay.tasks.datasets.table_files import Row
from visreplay.tasks.questions import question_fields
from visreplay.tasks.types import Sample

CATEGORIES = {"single": "FSP", "cross": "FCP"}


class HRBench(FileTask):
    """HR-Bench at one resolution."""

    suffixes: ClassVar = (".tsv",)
    columns: ClassVar = (
        *("index", "question", "image", "A", "B", "C", "D"),
        *("answer", "category", "cycle_category"),
    )

    def __init__(self, name: str, data: Path) -> None:
        self._pictures: dict[str, str] = {}  # digest by the index of the row that has the picture
        super().__init__(name, data)

    def read(self, row: Row) -> Sample:
        """Make the sample of a question in one of its cycles; facts hold `options` and `cycle`.

        The group is a digest of what all cycles share: question, options and picture.
        """
        options = {letter: row.text(letter) for letter in "ABCD"}
        category = row.text("category").lower()
        if category not in CATEGORIES:
            raise row.error("category", f"{category!r} is none of {', '.join(CATEGORIES)}")
        index, image, question = row.text("index"), row.text("image"), row.text("question")
        if len(image) >= MIN_IMAGE_CHARACTERS:
            self._pictures[index] = sha256(image.encode()).hexdigest()
            image = index
        # During the first reading, the row that has the picture may come later.
        shared = [question, sorted(options.values()), self._pictures.get(image)]
        return Sample(
            sample_id=index,
            **question_fields(question, options),
            answer=answer_letter(row, "answer", options),
            category=CATEGORIES[category],
            group=sha256(json.dumps(shared).encode()).hexdigest()[:16],
            facts={"options": options, "cycle": row.text("cycle_category")},
        )
