"""The table of images, questions and answers in which VLMEvalKit keeps its data sets.

MathVista, MathVerse, MathVision, DynaMath, LogicVista, MMMU, MMMU-Pro and others as TSV files:

    index  image      question                       A        B       answer  category
    0      iVBORw0..  Which pipe drains the tank?    The red  Both    A       Physics

    index  image      question                       question_type  answer_type  precision  answer
    12     iVBORw0..  How wide is gap x, in metres?  free_form      float        1.0        2.4

`image` is a file in base64, a list of them, or the index of the row that has it; without it,
`image_path` is a path or a list of them. Options are columns, or a list in `choices`, or stand in
the question. An answer without options is compared by the rule of the task, or as a number where
`answer_type` is integer or float; it may be a list of which any is right: "['24/7', '3.429']".
A list of different numbers is one answer, as in MathVista: "[1, 3]". Lists are written as JSON,
Python or numpy prints them. LogicVista's answers are one letter or several: "A, C".

`split` is the split of a sample, where a file holds several: MMMU_DEV_VAL.tsv has "dev" and
"validation". DynaMath has ten variants of each question, which share their `qid`; its numbers are
right within 0.001.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import ClassVar, cast

from visreplay.tasks.datasets.file_task import (
    FileTask,
    answer_letter,
    parse_list,
)
from visreplay.tasks.datasets.table_files import Row
from visreplay.tasks.questions import (
    inline_options,
    options_by_letter,
    question_fields,
    strip_media_marks,
)
from visreplay.tasks.scoring.mathematics import require_math_verify
from visreplay.tasks.scoring.numerals import stated_number
from visreplay.tasks.scoring.scorers import Scorer, ScorerKind
from visreplay.tasks.types import Sample

OPEN_RULES: dict[str, ScorerKind] = {
    "mathvista": "value",
    "mathverse": "mathematics",
    "mathvision": "mathematics",
    "dynamath": "value",
    "logicvista": "letters",
    "mmmu": "value",
    "mmmu-pro": "value",
    "we-math": "value",
    "image-qa": "value",
}
"""The rule by which each task compares open answers."""

DYNAMATH_TOLERANCE = 0.001
"""The tolerance of DynaMath's own evaluation (arXiv 2411.00836)."""

_OPEN_TYPES = {"free_form", "free-form", "open", "open-ended"}


class ImageQA(FileTask):
    """A task in this layout."""

    suffixes: ClassVar = (".tsv",)
    columns: ClassVar[Sequence[str]] = ("index", "question", "answer")

    def __init__(self, name: str, data: Path) -> None:
        if OPEN_RULES[name] == "mathematics":
            require_math_verify()
        super().__init__(name, data)

    def read(self, row: Row) -> Sample:
        """Make the sample of a question; facts hold `options` and `scorer`."""
        question = strip_media_marks(row.text("question"))
        if (hint := row.optional("hint")) and hint not in question:
            question = f"Hint: {hint}\n{question}"
        options = self._options(row)
        inline = inline_options(question)
        listed = {} if inline else options
        if not options and inline and re.fullmatch(r"\(?[A-Z]\)?\.?", row.text("answer")):
            options = inline
        scorer = Scorer("option", options) if options else self._typed_scorer(row)
        field = "answer_option" if options and row.optional("answer_option") else "answer"
        images: tuple[Path, ...] = ()
        if "image" not in row.fields or (
            row.optional("image") is None and row.optional("image_path") is not None
        ):
            images = tuple(self.find(row, "image_path", path) for path in self._paths(row))
        category = next(filter(None, map(row.optional, ("category", "task", "skill"))), None)
        return Sample(
            sample_id=row.text("index"),
            **question_fields(question, listed, "options" if options else "open"),
            answer=answer_letter(row, field, options) if options else row.text("answer"),
            images=images,
            category=category,
            group=row.optional("qid") if self.name == "dynamath" else None,
            split=row.optional("split"),
            facts={"options": options, "scorer": scorer},
        )

    def _paths(self, row: Row) -> list[str]:
        """Read `image_path`: a path, or a list of them."""
        text = row.text("image_path")
        is_list = text[0] in "[(" and not (self.folder / text).is_file()
        return parse_list(row, "image_path", text) if is_list else [text]

    def _options(self, row: Row) -> dict[str, str]:
        """Read the options from columns, or from `choices`."""
        if (row.optional("question_type") or "").lower() in _OPEN_TYPES:
            return {}
        if choices := row.optional("choices"):
            return options_by_letter(parse_list(row, "choices", choices))
        letters = [letter for letter in ascii_uppercase if letter in row.fields]
        texts = {letter: row.optional(letter) for letter in letters}
        answer = row.text("answer").strip("(). ").upper()
        if answer in texts and texts[answer] is None:
            # The right option was "None" or "N/A" before pandas took it for a missing value.
            texts[answer] = str(row.fields[answer] or "").strip() or None
        options = {letter: text for letter, text in texts.items() if text is not None}
        if list(options) != list(options_by_letter(list(options.values()))):
            raise row.error(max(options), "an option before it is empty")
        return options if len(options) > 1 else {}

    def _typed_scorer(self, row: Row) -> Scorer:
        """Choose the rule and, for numbers, the tolerance: half a unit of the last decimal."""
        kind = row.optional("answer_type")
        if kind == "multiple choice":  # its options stand in the picture, or within a line
            return Scorer("letters")
        if kind not in ("integer", "float"):
            return self.open_scorer(self.name)
        if stated_number(row.text("answer")) is None:
            raise row.error("answer", f"{row.text('answer')!r} is not a number, but {kind}")
        if kind == "integer":
            return Scorer("number", tolerance=1e-6)
        if self.name == "dynamath":
            return Scorer("number", tolerance=DYNAMATH_TOLERANCE + 1e-9)
        precision = row.optional("precision") or "1"
        if not re.fullmatch(r"\d{1,2}(\.0)?", precision):
            raise row.error("precision", f"{precision!r} is not a number of decimals")
        return Scorer("number", tolerance=0.5 * 10.0 ** -float(precision) + 1e-9)

    @classmethod
    def open_scorer(cls, name: str) -> Scorer:
        """Choose the rule for open questions without an `answer_type`."""
        return Scorer(OPEN_RULES[name])

    def scorer(self, sample: Sample) -> Scorer:
        """Choose the sample's rule."""
        return cast(Scorer, sample.facts["scorer"])
