r"""Extraction of the answer that a text states.

A model rarely writes only the answer. The answer is the first of these that the text has:

1. the inside of the last ``<answer>``, or else the text after the last ``</think>``; within that
2. the value in ``{"answer": ..}``, if the text is such an object;
3. the last ``\boxed{..}``, because a later one revises an earlier one;
4. the text after the last phrase like "the answer is", "Answer:", "I choose", "答案是";
5. the whole text.
"""

import ast
import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Generic, TypeVar

from visreplay.agent.protocols.parsing import boxed
from visreplay.tasks.scoring.denials import WRONG, without_denied
from visreplay.tasks.scoring.printed_lists import printed_list

MAX_CHARACTERS = 20_000
"""Only so many characters at the end of a text are read."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """What was read in a text.

    Attributes:
        value: The number, the letter or the text that was read; None if there is none.
        rule: The rule that found it, or that decided that there is none, in words for the user.
    """

    value: T
    rule: str


# Repetitions in these patterns are bounded, because they run over whatever a model wrote.
_TAGGED = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL | re.IGNORECASE)
_WRAPPERS = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:rm|bf|sf|it)|operatorname|emph|underline|[mf]box"
    r"|bold(?:symbol)?|bm)\s?\{([^{}]*)\}"
)
BOX = r"\\boxed\s?\{(?:[^{}]|\{(?:[^{}]|\{[^{}]{0,200}\}){0,200}\}){0,200}\}\$?"
_ONE_FORM = str.maketrans("\u2018\u2019\u2010\u2011\u2012\u2013\u2212", "''-----")
"""Quotes, and dashes that can be a minus sign or a hyphen."""
_MARKUP = re.compile(r"[`$]|\*{2,}|(?<!\w)\*|\*(?!\w)|\\[()\[\],;! ]|(?<!\w)_+|_+(?!\w)")
PHRASE = re.compile(
    r"(?<![A-Za-z0-9])(?<!wrong )(?<!incorrect )(?<!false )"
    r"(?:ans|answers?|option|choice|solution|result)\b"
    r"(?:\s+(?:to|for)\b[^.:\n]{1,60}?)?[\"']?"
    r"(?:\s+(?:is|are|would be|should be|must be)\b(?!\s+not\b)|\s*[:=]|\s+-\s)\s*[:=]?\s*"
    r"|\bI(?:'d| would|'ll| will)?\s+(?:choose|pick|select|go with|go for|answer)\b\s*[:=]?\s*"
    r"|\b(?:réponse|antwort|respuesta|resposta|risposta|odpowiedź|antwoord|ответ)\b"
    r"(?:\s+\w{1,12}){0,2}?(?:\s+(?:est|ist|es|é|è|to|is)\b|\s*:)\s*:?\s*"
    r"|(?:答案|选项|答え|正解|정답)\s{0,3}(?:应该|应当|应)?\s{0,3}(?:是|为|选|:|は|은|는)\s*:?\s*"
    r"|(?<!不)(?:应选|故选|选择|选)\s{0,3}:?\s{0,3}(?=\W{0,3}[A-Z](?![A-Za-z0-9]))",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"[.;。;](?:\s|$)|\n")
EDGES = " \t\r\n.,;:!?\"'()[]{}<>。、,·「」『』\u201c\u201d\u2018\u2019«»\u2039\u203a"
_OUTER = re.sub(r"[()\[\]{}<>]", "", EDGES)
_ARTICLE = re.compile(r"^(?:the|an?)\s+(?=\S)")
_SPACES = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" ?\n(?: ?\n)+ ?")
UNIT_SPACE = re.compile(r"(?<=\d) (?=[a-z°%]{1,3}(?![a-z]))")
_VULGAR = re.compile(r"(?<=\d)(?=[½⅓⅔¼¾⅕-⅞])")
_FENCE = re.compile(r"^\s*```\w{0,10}\s*\n(.*)\n\s*```\s*$", re.DOTALL)
_CALL = re.compile(r"^\s*(?:final_?)?answer\((.{0,1000})\)\s*$", re.DOTALL | re.IGNORECASE)
_BACKSLASH = re.compile(r"(?<!\\)\\(?![\"'\\n]|u[0-9a-fA-F]{4})")
_ANSWER_KEYS = ("answer", "option", "choice", "letter", "result", "prediction")


def final_answer(text: str) -> str:
    """Remove the thinking before the answer, and the tags or the JSON object around the answer.

    Runs of white space become short, so that no pattern can spend long on them.
    """
    text = _LINES.sub("\n\n", _SPACES.sub(" ", text[-MAX_CHARACTERS:]))
    tagged = _TAGGED.findall(text)
    return _unwrapped(str(tagged[-1]) if tagged else text.rpartition("</think>")[2])


def without_denied_boxes(text: str) -> str:
    r"""Remove the boxes that a text denies: "not ``\boxed{..}``", "``\boxed{..}`` is wrong"."""
    return without_denied(text, rf"{BOX}(?:,?\s(?:or|nor|and)\s{BOX}){{0,4}}", after=WRONG)


def last_box(text: str) -> str | None:
    r"""Return the inside of the last ``\boxed{..}`` that a text does not deny; None without one."""
    return boxed(without_denied_boxes(text))


def stated_answer(text: str) -> str | None:
    """Return the inside of the last box, or the text after the last phrase; None without either."""
    box = last_box(text)
    if box is not None:
        return box
    *_, last = (None, *PHRASE.finditer(text))
    return None if last is None else text[last.end() :]


def strip_markup(text: str) -> str:
    """Make full-width characters narrow, and remove Markdown and LaTeX around words."""
    text = unicodedata.normalize("NFKC", _VULGAR.sub(" ", text)).translate(_ONE_FORM)
    for _ in range(2):  # \mathbf{\text{A}}
        text = _WRAPPERS.sub(r"\1", text)
    return _MARKUP.sub("", text).strip()


def normalise(text: str) -> str:
    """Bring a text to the form in which texts are compared."""
    text = " ".join(strip_markup(text).casefold().split()).strip(_OUTER)
    # Brackets around one word are decoration; around more they can mean an interval.
    text = re.sub(r"^[(\[{<](\w+)[)\]}>]$", r"\1", text)
    return _ARTICLE.sub("", UNIT_SPACE.sub("", text))


def text_list(text: str) -> list[str] | None:
    """Parse a list that begins with a quoted text (`printed_list`); None if the text is none."""
    return printed_list(_doubled(text)) if re.match(r"\s*[\[(]\s*[\"']", text) else None


def _unwrapped(text: str) -> str:
    """Take the answer out of an object like {"answer": ..}, a list of texts or a call."""
    inner = _FENCE.sub(r"\1", text).strip()
    if call := _CALL.match(inner):
        return call[1]
    if not (inner.startswith("{") and inner.endswith("}")):
        values = text_list(inner)
        return text if values is None else ", ".join(values)
    fields = _parsed(inner)
    if not isinstance(fields, dict):
        return text
    named = [
        value for part in _ANSWER_KEYS for key, value in fields.items() if part in str(key).lower()
    ]
    if not named and len(fields) != 1:
        return text
    value = [*named, *fields.values()][0]
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _parsed(text: str) -> object:
    """Parse JSON or a Python literal; None if the text is neither."""
    text = _doubled(text)
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


def _doubled(text: str) -> str:
    r"""Double the backslashes of LaTeX, so that "\frac" is not read as a form feed."""
    return _BACKSLASH.sub(r"\\\\", text)
