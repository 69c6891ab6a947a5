"""The common image-question-answer table, in which VLMEvalKit keeps its data sets.

MathVista, MathVerse, MathVision, LogicVista, MMMU and others as TSV files:

    index  image      question                       A        B       answer  category
    0      iVBORw0..  Which pipe drains the tank?    The red  Both    A       Physics

    index  image      question                       question_type  answer_type  precision  answer
    12     iVBORw0..  How wide is gap x, in metres?  free_form      float        1.0        2.4

`image` is a file in base64, a list of such, or the index of the row that has it; without that
column, `image_path` is a path. Options are columns, or a list in `choices`, or lines in the
question. Without options, the task's own rule for open answers holds, or, where `answer_type` is
integer or float, the number's. LogicVista's answers are one letter or several: "A, C".
"""

import re
from pathlib import Path
from typing import ClassVar

from visreplay.tasks.datasets.file_task import (
    FileTask,
    TaskInfo,
    answer_letter,
    chose_right,
    listed,
)
from visreplay.tasks.datasets.table_files import Row
from visreplay.tasks.questions import asked, inline_options, lettered, without_marks
from visreplay.tasks.scoring.answer_extraction import number
from visreplay.tasks.scoring.mathematics import require_math_verify, same_mathematics
from visreplay.tasks.scoring.scorers import same_number, same_options, same_value
from visreplay.tasks.types import Sample

OPEN = {
    "mathvista": "text",
    "mathverse": "mathematics",
    "mathvision": "mathematics",
    "logicvista": "letters",
    "mmmu": "text",
    "image-qa": "text",
}
"""How each task's open answers are compared."""

_RULES = {"text": "number or text", "mathematics": "math-verify", "letters": "all of the letters"}
_OPEN_TYPES = {"free_form", "free-form", "open", "open-ended"}


class ImageQA(FileTask):
    """A task in the layout."""

    entries: ClassVar = tuple(
        TaskInfo(
            name,
            f"option letter; open questions: {_RULES[rule]}",
            "TSV: index, question, image, answer; A, B..",
        )
        for name, rule in OPEN.items()
    )
    suffixes: ClassVar = (".tsv",)
    columns: ClassVar = ("index", "question", "answer")

    def __init__(self, name: str, data: Path) -> None:
        if OPEN[name] == "mathematics":
            require_math_verify()
        super().__init__(name, data)

    def read(self, row: Row) -> Sample:
        """A question; facts hold `rule`, by which its answer is compared, and `options`."""
        question = without_marks(row.text("question"))
        if (hint := row.optional("hint")) and hint not in question:
            question = f"Hint: {hint}\n{question}"
        options, rule, tolerance = self._options(row), "option", 0.0
        if options:
            if not inline_options(question):
                question = asked(question, options)
        elif inline_options(question) and re.fullmatch(r"\(?[A-Z]\)?\.?", row.text("answer")):
            options = inline_options(question)
        else:
            rule, tolerance = self._open_rule(row)
        field = "answer_option" if options and row.optional("answer_option") else "answer"
        images: tuple[Path, ...] = ()
        if "image" not in row.fields:
            images = (self.find(row, "image_path", row.text("image_path")),)
        category = next(filter(None, map(row.optional, ("category", "task", "skill"))), None)
        return Sample(
            sample_id=row.text("index"),
            question=question,
            answer=answer_letter(row, field, options) if options else row.text("answer"),
            images=images,
            category=category,
            facts={"options": options, "rule": rule, "tolerance": tolerance},
        )

    def _options(self, row: Row) -> dict[str, str]:
        """Those in columns, or in `choices`."""
        if (row.optional("question_type") or "").lower() in _OPEN_TYPES:
            return {}
        if choices := row.optional("choices"):
            return lettered(listed(row, "choices", choices))
        letters = [chr(65 + place) for place in range(26) if chr(65 + place) in row.fields]
        options = {letter: text for letter in letters if (text := row.optional(letter))}
        if list(options) != list(lettered(list(options.values()))):
            raise row.refused(max(options), "an option before it is empty")
        return options if len(options) > 1 else {}

    def _open_rule(self, row: Row) -> tuple[str, float]:
        """The rule and, for numbers, the tolerance: half a unit of the last place."""
        kind = row.optional("answer_type")
        if kind not in ("integer", "float"):
            return OPEN[self.name], 0.0
        if number(row.text("answer")) is None:
            raise row.refused("answer", f"{row.text('answer')!r} is not a number, but {kind}")
        if kind == "integer":
            return "number", 1e-6
        precision = row.optional("precision") or "1"
        if not re.fullmatch(r"\d{1,2}(\.0)?", precision):
            raise row.refused("precision", f"{precision!r} is not a number of decimals")
        return "number", 0.5 * 10.0 ** -float(precision) + 1e-9

    def is_right(self, sample: Sample, answer: str | None) -> bool:
        """Whether the answer is right, by the sample's rule."""
        match sample.facts["rule"]:
            case "option":
                return chose_right(sample, answer)
            case "number":
                return same_number(sample.answer, answer, float(str(sample.facts["tolerance"])))
            case "mathematics":
                return same_mathematics(sample.answer, answer)
            case "letters":
                return same_options(sample.answer, answer)
        return same_value(sample.answer, answer)
