r"""Rules that tell whether an answer is right: pure functions of text, without a model as judge.

The rules compare the answer that a text states (`visreplay.tasks.scoring.answer_extraction`; for
options, the longer rule of `visreplay.tasks.scoring.multiple_choice`). A text that states nothing,
or two things at once ("A or B"), is wrong. No rule raises, whatever the text. Values in different
notation, such as ``\frac12`` and 0.5, are compared by `visreplay.tasks.scoring.mathematics`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Literal, get_args

from visreplay.tasks.scoring.answer_extraction import text_list
from visreplay.tasks.scoring.mathematics import judge_mathematics
from visreplay.tasks.scoring.multiple_choice import read_option, read_options
from visreplay.tasks.scoring.numerals import is_number, read_number, stated_number
from visreplay.tasks.scoring.printed_lists import printed_list
from visreplay.tasks.scoring.texts import judge_text
from visreplay.tasks.types import Verdict

TEXTLESS_OPTIONS: Mapping[str, str] = dict.fromkeys(ascii_uppercase[:10], "")
"""Options A to J without texts, for questions whose options stand in the picture."""

VALUE_TOLERANCE = 0.005
"""MMMU's own evaluation compares numbers to two decimals."""

ScorerKind = Literal["option", "letters", "text", "number", "value", "mathematics"]
SCORER_KINDS: tuple[ScorerKind, ...] = get_args(ScorerKind)


@dataclass(frozen=True, slots=True)
class Scorer:
    """The rule for the answers to one question.

    Attributes:
        kind: "option" for one of the options, "letters" for all of several options, "text",
            "number", "value" for a text or a number, or "mathematics".
        options: Texts by letter, for "option" and "letters".
        tolerance: The largest difference of a right number, for "number".
        abbreviations: Whether an abbreviation in brackets, as in "Depth-First Search (DFS)", may be
            left out or stand alone.
    """

    kind: ScorerKind
    options: Mapping[str, str] = field(default_factory=lambda: TEXTLESS_OPTIONS)
    tolerance: float = 1e-9
    abbreviations: bool = False

    def judge(self, expected: str | Sequence[str], answer: str | None) -> Verdict:
        """Tell whether an answer is right, and by which rule; never raises, whatever the answer.

        Args:
            expected: The right answer, or several of which any is right. A text that is a list of
                quoted texts, as in MMMU's files, or of one number written in several ways, is such
                a list, but not for mathematics. Different numbers are one answer: "[1, 3]".
            answer: The text that a model wrote; None if there is none.

        Raises:
            ImportError: math-verify is needed and is not installed.
        """
        if answer is None:
            return Verdict(False, "there is no answer")
        accepted = [expected] if isinstance(expected, str) else list(expected)
        if isinstance(expected, str) and self.kind in ("text", "number", "value"):
            accepted = text_list(expected) or _spellings(expected) or accepted
        if self.abbreviations:
            accepted += [part for each in accepted for part in _without_abbreviation(each)]
        verdicts = (self._judge_one(each, answer) for each in accepted)
        first = next(verdicts)
        return first if first.right else next((v for v in verdicts if v.right), first)

    def _judge_one(self, expected: str, answer: str) -> Verdict:
        match self.kind:
            case "option":
                return judge_option(expected, answer, self.options)
            case "letters":
                return judge_options(expected, answer, self.options)
            case "number":
                return judge_number(expected, answer, self.tolerance)
            case "mathematics":
                return judge_mathematics(expected, answer)
            case "value":
                return judge_value(expected, answer)
        return judge_text(expected, answer)


def _spellings(expected: str) -> list[str]:
    """Read a list of one number that is written in several ways; [] if the text is none."""
    texts = printed_list(expected) or []
    one = all(map(is_number, texts)) and len(set(map(stated_number, texts))) == 1
    return texts if one else []


def _without_abbreviation(expected: str) -> tuple[str, ...]:
    match = re.fullmatch(r"(.+?)\s*\(([^()]+)\)", expected)
    return match.groups() if match else ()


def judge_number(expected: str, answer: str, tolerance: float = 1e-9) -> Verdict:
    """Judge whether an answer states a number within `tolerance` (absolute) of the expected one.

    Units and percent signs are ignored.
    """
    wanted, stated = read_number(expected).value, read_number(answer)
    value = stated.value
    right = wanted is not None and value is not None and abs(wanted - value) <= tolerance
    return Verdict(right, stated.rule, None if value is None else f"{value:.15g}")


def judge_value(expected: str, answer: str) -> Verdict:
    """Judge whether an answer is the expected text or, for a number, equal to two decimals.

    This is the rule of MMMU's own evaluation for open questions.
    """
    verdict = judge_text(expected, answer)
    if verdict.right or not is_number(expected):
        return verdict
    return judge_number(expected, answer, VALUE_TOLERANCE)


def judge_option(
    expected: str, answer: str, options: Mapping[str, str] = TEXTLESS_OPTIONS
) -> Verdict:
    """Judge whether an answer chooses the expected option, by `read_option`."""
    chosen = read_option(answer, options)
    return Verdict(chosen.value == expected.strip().upper(), chosen.rule, chosen.value)


def judge_options(
    expected: str, answer: str, options: Mapping[str, str] = TEXTLESS_OPTIONS
) -> Verdict:
    """Judge whether an answer chooses all of several options ("A, C") and no other."""
    wanted = set(re.findall("[A-Z]", expected.upper()))
    if len(wanted) < 2:
        return judge_option(expected, answer, options)
    chosen = read_options(answer, options)
    return Verdict(chosen.value == wanted, chosen.rule, ", ".join(sorted(chosen.value)) or None)


def same_text(expected: str, answer: str | None) -> bool:
    """Tell whether an answer is the expected text, by `judge_text`.

    Examples:
        >>> same_text("MIRA II", "The text on the lifebelt is **Mira II**.")
        True
    """
    return Scorer("text").judge(expected, answer).right


def same_number(expected: str, answer: str | None, tolerance: float = 1e-9) -> bool:
    r"""Tell whether an answer states the expected number, by `judge_number`.

    Examples:
        >>> same_number("0.75", r"The share is \frac{3}{4}.")
        True
    """
    return Scorer("number", tolerance=tolerance).judge(expected, answer).right


def same_value(expected: str, answer: str | None) -> bool:
    """Tell whether an answer is the expected text or number, by `judge_value`."""
    return Scorer("value").judge(expected, answer).right


def same_option(
    expected: str, answer: str | None, options: Mapping[str, str] = TEXTLESS_OPTIONS
) -> bool:
    """Tell whether an answer chooses the expected option, by `judge_option`."""
    return Scorer("option", options).judge(expected, answer).right


def same_options(
    expected: str, answer: str | None, options: Mapping[str, str] = TEXTLESS_OPTIONS
) -> bool:
    """Tell whether an answer chooses all of the expected options, by `judge_options`."""
    return Scorer("letters", options).judge(expected, answer).right
