r"""Extraction of the answer that a text states.

A model rarely writes only the answer. The answer is the first of these that the text has:

1. the inside of the last ``<answer>``, or else the text after the last ``</think>``; within that
2. the last ``\boxed{..}``, because a later one revises an earlier one;
3. the text after the last phrase like "the answer is", "Answer:", "I choose", "答案是";
4. the whole text.
"""

import math
import re
import unicodedata

from visreplay.agent.protocols.parsing import boxed

MAX_CHARACTERS = 20_000
"""Only so many characters at the end of a text are read."""

# Repetitions in these patterns are bounded, because they run over whatever a model wrote.
_TAGGED = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL | re.IGNORECASE)
_WRAPPERS = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|operatorname|emph)\s*\{([^{}]*)\}"
)
_MARKUP = re.compile(r"[`$]|\*{2,}|(?<!\w)\*|\*(?!\w)|\\[()\[\],;!]|(?<!\w)_+|_+(?!\w)")
PHRASE = re.compile(
    r"\b(?:answers?|option|choice|solution|result)\b(?:\s+(?:to|for)\b[^.:\n]{1,60}?)?"
    r"(?:\s+(?:is|are|would be|should be|must be)\b(?!\s+not\b)|\s*[:=])\s*[:=]?\s*"
    r"|\bI(?:'d| would|'ll| will)?\s+(?:choose|pick|select|go with|answer)\b\s*[:=]?\s*"
    r"|(?:答案|选项)\s{0,3}(?:应该|应当|应)?\s{0,3}(?:是|为|选|:)\s*:?\s*"
    r"|(?<!不)(?:应选|故选|选择|选)\s{0,3}:?\s{0,3}(?=\W{0,3}[A-Z](?![A-Za-z0-9]))",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"[.;。;](?:\s|$)|\n")
EDGES = " \t\r\n.,;:!?\"'()[]{}<>。、,·「」『』\u201c\u201d\u2018\u2019"
_OUTER = re.sub(r"[()\[\]{}<>]", "", EDGES)
_ARTICLE = re.compile(r"^(?:the|an?)\s+(?=\S)")
_SIGNS = str.maketrans("\u2212\u2044", "-/")  # the minus sign, and the bar of a fraction
_WORDS = tuple(
    "zero one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
)
_NUMBER = re.compile(
    r"(?<![\w.])([-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?)"
    r"(?:\s*/\s*(\d+(?:\.\d+)?))?"
)
_FRACTION = re.compile(r"(?<!\d)\\[dt]?frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")
_POWER = re.compile(
    r"(?:(?<=\d)\s{0,3}(?:\\times|\\cdot|[\u00d7\u00b7\u22c5*x])\s{0,3}|(?<![\w.,]))10\s?"
    r"(?:(?:\^|\*\*)\s?(?:\{\s?([-+\u2212]?\d{1,4})\s?\}|([-+\u2212]?\d{1,4}))|([⁺⁻]?[⁰¹²³⁴-⁹]{1,4}))"
)
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺"
_RAISED = str.maketrans(f"{_SUPERSCRIPTS}\u2212", "0123456789-+-")
_UNITS = re.compile(
    r"\^?\s?\{?\\(?:circ|degree)\b\}?|\\(?:left|right|approx|quad|qquad|displaystyle|mu|Omega)\b"
)
"""LaTeX that does not change the number."""
_OTHER_LATEX = re.compile(r"\\[A-Za-z]|√|π|[\d)}]\s?\^")
_REASON = re.compile(r",\s|\b(?:because|since|as)\b")
_ALTERNATIVE = re.compile(r"\d\s{0,3}\S{0,8}\s{0,3}(?:\bor\b|\band\b|\bto\b|或|和|~)\s*[-+]?\d")


def final_answer(text: str) -> str:
    """Remove the thinking before the answer, and the tags around the answer."""
    text = text[-MAX_CHARACTERS:]
    tagged = _TAGGED.findall(text)
    return str(tagged[-1]) if tagged else text.rpartition("</think>")[2]


def stated_answer(text: str) -> str | None:
    """Return the inside of the last box, or the text after the last phrase; None without either."""
    box = boxed(text)
    if box is not None:
        return box
    *_, last = (None, *PHRASE.finditer(text))
    return None if last is None else text[last.end() :]


def stated_number(text: str) -> float | None:
    r"""Read the number that a text states; None if it states no number or several.

    Signs, thousands ("1,234.5"), fractions (3/4, ``\frac34``), powers of ten (2.5e3,
    ``2.5 \times 10^3``) and the words from zero to twelve are read. The right-hand side of an
    equation counts. Other LaTeX, such as ``2\sqrt3``, is not a number.
    """
    raised = _POWER.sub(_as_exponent, final_answer(text).replace("{,}", ","))
    # The exponents of units would become digits.
    written = strip_markup(re.sub(f"[{_SUPERSCRIPTS}]", "^", raised)).translate(_SIGNS)
    box = boxed(written)
    if "\\boxed" in written and box is None:
        return None  # the box is not closed: more digits could have followed
    statement = stated_answer(written)
    sentence = written if statement is None else SENTENCE_END.split(statement)[0]
    sentence = _FRACTION.sub(lambda m: f"{m[1] or m[2]}/{m[3] or m[4]}", sentence)
    if (word := normalise(sentence)) in _WORDS:
        return float(_WORDS.index(word))
    side = sentence.rpartition("=")[2]
    if not (values := _numbers(side)):
        side, values = sentence, _numbers(sentence)
    if statement is not None:
        if _OTHER_LATEX.search(_UNITS.sub("", side if box is not None else _REASON.split(side)[0])):
            return None
        if len(values) > 1 and not _ALTERNATIVE.search(sentence):
            values = values[:1]  # "14, since 3 + 11": the rest is a reason
    return values[0] if len(set(values)) == 1 else None


def strip_markup(text: str) -> str:
    """Make full-width characters narrow, and remove Markdown and LaTeX around words."""
    text = unicodedata.normalize("NFKC", text).replace("\u2019", "'")
    return _MARKUP.sub("", _WRAPPERS.sub(r"\1", text)).strip()


def normalise(text: str) -> str:
    """Bring a text to the form in which texts are compared."""
    text = " ".join(strip_markup(text).casefold().split()).strip(_OUTER)
    # Brackets around one word are decoration; around more they can mean an interval.
    text = re.sub(r"^[(\[{<](\w+)[)\]}>]$", r"\1", text)
    return _ARTICLE.sub("", text)


def _as_exponent(power: re.Match[str]) -> str:
    one = "" if power[0].lstrip()[:1] != "1" else "1"  # without a factor: 10^3 is 1e3
    return f"{one}e{(power[1] or power[2] or power[3]).translate(_RAISED)}"


def _numbers(text: str) -> list[float]:
    values = []
    for top, bottom in _NUMBER.findall(text):
        value = float(top.replace(",", ""))
        if bottom:
            value = value / float(bottom) if float(bottom) else math.inf
        if math.isfinite(value):
            values.append(value)
    return values
