r"""What a text states as its answer.

A model rarely writes the bare answer. What it states is looked for in this order, and the first
that is there counts:

1. the inside of the last ``<answer>``, or else what follows the last ``</think>``; within that
2. the last ``\boxed{..}``: a later one revises an earlier one;
3. what follows the last phrase like "the answer is", "Answer:", "I choose", "答案是";
4. the whole text.
"""

import math
import re
import unicodedata

from visreplay.agent.protocols.parsing import boxed

MAX_CHARACTERS = 20_000
"""Only the end of a longer text is looked at."""

# What repeats in these patterns is bounded: they run over whatever a model wrote.
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
"""LaTeX that does not change which number is meant."""
_UNREAD = re.compile(r"\\[A-Za-z]|√|π|[\d)}]\s?\^")
_REASON = re.compile(r",\s|\b(?:because|since|as)\b")
_ALTERNATIVE = re.compile(r"\d\s{0,3}\S{0,8}\s{0,3}(?:\bor\b|\band\b|\bto\b|或|和|~)\s*[-+]?\d")


def final(text: str) -> str:
    """A text without the thinking before its answer, and without the tags around that."""
    text = text[-MAX_CHARACTERS:]
    tagged = _TAGGED.findall(text)
    return str(tagged[-1]) if tagged else text.rpartition("</think>")[2]


def stated(text: str) -> str | None:
    """The inside of the last box, or what follows the last phrase."""
    box = boxed(text)
    if box is not None:
        return box
    *_, last = (None, *PHRASE.finditer(text))
    return None if last is None else text[last.end() :]


def number(text: str) -> float | None:
    r"""The number that a text states, or None if it states none or several.

    Signs, thousands ("1,234.5"), fractions (3/4, ``\frac34``), powers of ten (2.5e3,
    ``2.5 \times 10^3``) and the words from zero to twelve are read. Of an equation the right-hand
    side counts. Other LaTeX, as ``2\sqrt3``, is no number.
    """
    raised = _POWER.sub(_as_exponent, final(text).replace("{,}", ","))
    # The exponents of units would become digits.
    written = plain(re.sub(f"[{_SUPERSCRIPTS}]", "^", raised)).translate(_SIGNS)
    box = boxed(written)
    if "\\boxed" in written and box is None:
        return None  # it breaks off: more digits may have been to come
    said = stated(written)
    sentence = written if said is None else SENTENCE_END.split(said)[0]
    sentence = _FRACTION.sub(lambda m: f"{m[1] or m[2]}/{m[3] or m[4]}", sentence)
    if (word := bare(sentence)) in _WORDS:
        return float(_WORDS.index(word))
    side = sentence.rpartition("=")[2]
    if not (found := _numbers(side)):
        side, found = sentence, _numbers(sentence)
    if said is not None:
        if _UNREAD.search(_UNITS.sub("", side if box is not None else _REASON.split(side)[0])):
            return None
        if len(found) > 1 and not _ALTERNATIVE.search(sentence):
            found = found[:1]  # "14, since 3 + 11": what follows is a reason
    return found[0] if len(set(found)) == 1 else None


def plain(text: str) -> str:
    """Full-width characters made narrow; Markdown and LaTeX around words taken away."""
    text = unicodedata.normalize("NFKC", text).replace("\u2019", "'")
    return _MARKUP.sub("", _WRAPPERS.sub(r"\1", text)).strip()


def bare(text: str) -> str:
    """A text as it is compared."""
    text = " ".join(plain(text).casefold().split()).strip(_OUTER)
    # Brackets around one word are decoration; around more they can mean an interval.
    text = re.sub(r"^[(\[{<](\w+)[)\]}>]$", r"\1", text)
    return _ARTICLE.sub("", text)


def _as_exponent(power: re.Match[str]) -> str:
    one = "" if power[0].lstrip()[:1] != "1" else "1"  # it stands alone: 10^3 is 1e3
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
