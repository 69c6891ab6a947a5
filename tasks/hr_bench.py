"""HR-Bench: questions about photographs of 4K and 8K.

A TSV file; every question comes four times, with its options in another order each time:

    index  question                    image      A   B   C   D   answer  category  cycle_category
    0      Which number has the buoy?  /9j/4AA..  17  71  11  77  B       single    1
    1      Which number has the buoy?  0          71  17  77  11  A       single    2

`image` is the file of the picture in base64, or the index of the row that has it. Questions about
one object are called FSP (fine-grained single-instance perception), those across objects FCP.
"""

from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean
from typing import ClassVar

from visreplay.tasks.files import Entry, FileTask, answer_letter, asked, chose_right
from visreplay.tasks.rows import Row
from visreplay.tasks.types import Sample

CATEGORIES = {"single": "FSP", "cross": "FCP"}


class HRBench(FileTask):
    """The task at one resolution."""

    entries: ClassVar = tuple(
        Entry(
            f"hr-bench-{size}",
            "option letter, mean over answer cycles",
            f"hr_bench_{size}.tsv",
        )
        for size in ("4k", "8k")
    )
    suffixes: ClassVar = (".tsv",)
    columns: ClassVar = (
        *("index", "question", "image", "A", "B", "C", "D"),
        *("answer", "category", "cycle_category"),
    )

    def read(self, row: Row) -> Sample:
        """A question in one of its cycles; facts hold `options` and `cycle`."""
        options = {letter: row.text(letter) for letter in "ABCD"}
        category = row.text("category").lower()
        if category not in CATEGORIES:
            raise row.refused("category", f"{category!r} is none of {', '.join(CATEGORIES)}")
        return Sample(
            sample_id=row.text("index"),
            question=asked(row.text("question"), options),
            answer=answer_letter(row, "answer", options),
            category=CATEGORIES[category],
            facts={"options": options, "cycle": row.text("cycle_category")},
        )

    def is_right(self, sample: Sample, answer: str | None) -> bool:
        """Whether the answer chooses the right option."""
        return chose_right(sample, answer)


def mean_over_cycles(scored: Iterable[tuple[str, float]]) -> float:
    """HR-Bench's score: the mean over the cycles of each cycle's mean.

    Args:
        scored: For each sample its cycle, and 1 if it is right or 0 if it is wrong.

    Raises:
        ValueError: there are none.
    """
    cycles: defaultdict[str, list[float]] = defaultdict(list)
    for cycle, right in scored:
        cycles[cycle].append(right)
    if not cycles:
        raise ValueError("there are no samples to average")
    return fmean(fmean(scores) for scores in cycles.values())
