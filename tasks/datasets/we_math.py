"""We-Math: problems of two or three steps, each asked as a whole and step by step.

A TSV file; every problem has a row for each of its steps and a last one for the whole:

    index  ID  key           question                     image      A      B      C    answer
    0      17  2steps_1      How long is the side BC?     iVBORw0..  3 cm   4 cm   5 cm  A
    1      17  2steps_2      What is a square's area?     iVBORw0..  6 cm2  9 cm2  No    B
    2      17  2steps_multi  What is the area of ABCD?    iVBORw0..  9 cm2  4 cm2  No    A

`key` is the number of steps of the problem, and which of its questions the row is. Problems of two
and of three steps are numbered apart. The published figures are strict scores of problems
(`visreplay.tasks.evaluation.problem_scores`), and not shares of right answers.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from visreplay.tasks.datasets.image_qa import ImageQA
from visreplay.tasks.datasets.table_files import Row
from visreplay.tasks.types import Sample


class WeMath(ImageQA):
    """We-Math."""

    columns: ClassVar[Sequence[str]] = ("index", "ID", "key", "question", "answer")

    def read(self, row: Row) -> Sample:
        """Make the sample of a question; its category is the key, and its group the problem."""
        key = row.text("key")
        match = re.fullmatch(r"([23])steps_(?:[123]|multi)", key)
        if match is None:
            raise row.error("key", f"{key!r} is not like 2steps_1 or 3steps_multi")
        return replace(super().read(row), category=key, group=f"{match[1]}steps/{row.text('ID')}")
