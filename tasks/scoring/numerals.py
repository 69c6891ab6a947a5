r"""Extraction of the number that an answer states: 14, 1,234.5, 3/4, ``\frac34``, fifteen, none."""

import math
import re

from visreplay.tasks.scoring.answer_extraction import (
    SENTENCE_END,
    Reading,
    final_answer,
    last_box,
    stated_answer,
    strip_markup,
)
from visreplay.tasks.scoring.denials import (
    DENIED_VERB,
    NOT,
    SO,
    TAKES_BACK,
    WRONG,
    without_denied,
    without_doubts,
)

_SIGNS = str.maketrans("\u2044", "/")  # the bar of a fraction
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.])"
    r"([-+]?(?:\d{1,3}(?:[, ]\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?)"
    r"(?:\s*/\s*(\d+(?:\.\d+)?)|\s(\d{1,3})/(\d{1,3})(?![\d.]))?"
    r"(?:\s(hundred|thousand|million|billion|trillion)\b)?"
)
_SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
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
_UNIT_POWER = re.compile(r"(?<=[A-Za-z])\s?\^\s?\{?[-+]?\d\}?")
_OTHER_LATEX = re.compile(r"\\[A-Za-z]|√|π|[\d)}]\s?\^")
_REASON = re.compile(r",\s|\b(?:because|since|as)\b")
_ALTERNATIVE = re.compile(
    r"\d\s{0,3}\S{0,8}\s{0,3}(?:\bor\b|\band\b|\bto\b|或|和|~|[-\u2013])\s*[-+]?\d"
)
_SOLUTIONS = re.compile(r"\d[^=\d.;\n]{0,9}\b(?:or|and)\s[A-Za-z]\w{0,2}\s?=[^=]*$")
"""The end of "x = 1 or x = 2", which is no equation that is solved in steps."""

_ONES = (  # noqa: SIM905
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
_WORDS: dict[str, float] = {
    **{word: number for number, word in enumerate(_ONES)},
    **{word: 10 * number for number, word in enumerate(_TENS, 2)},
    **_SCALES,
    "dozen": 12,
    "half": 0.5,
}
_SPELLED = re.compile(
    rf"(?<![\w-])(?:an?\s(?=hundred|thousand|million|dozen|half))?(?:{'|'.join(_WORDS)})"
    rf"(?:[\s-](?:and\s)?(?:a\s(?=half))?(?:{'|'.join(_WORDS)})){{0,9}}(?![\w-])(?:\s(third|quarter|fourth|fifth)s?\b)?"
)
_PARTS = {"third": 3, "quarter": 4, "fourth": 4, "fifth": 5}
_SIGN_WORD = re.compile(r"\b(?:minus|negative)\s(?=\d)", re.IGNORECASE)

_PRONOUN = re.compile(
    r"\b(?:no|the|this|that|which|each|every|any|another|other|the\s\w{1,15})\sone\b"
    r"|\bone\s(?:can|could|may|might|would|should|sees?|of\sthe|of\swhich)\b"
)
"""The word "one" where it is no number: "the red one", "one can see"."""
_ASIDE = re.compile(r"(?<=[,;.])\s(?:and\s)?one\b")
_PART = re.compile(
    r"[,;.]\s(?:\d+\sof\s(?:which|them|these|those|whom)\b|of\s(?:which|these|those|whom)\s\d+\b)"
    r"(?:[^.;\d]{1,60}\band\s(?:the\sother\s)?\d+\b)?",
    re.IGNORECASE,
)
"""A part of what was counted, and the rest: "5, of which 2 are red and 3 are blue"."""
_QUALIFIED = re.compile(
    r"(?:\b(?:(?:more|fewer|less|greater|larger|smaller|higher|lower)\sthan|up\sto|at\smost"
    r"|(?<!\d\s)(?:under|over|below|above|beyond|exceed(?:s|ing)?))\s|(?<![-=])[<>≤≥]\s?)[-+]?[\d.,]*\d",
    re.IGNORECASE,
)
"""A bound: "more than 3", "up to 7"; not "3 over 4"."""
_DIGITS = r"(?<![\d.,/])[-+]?[\d.,/]*\d"
_LABEL = re.compile(r"\b\d+(?:st|nd|rd|th|D|K)\b(?!\s*/)")
"""Numbers that count nothing, unless there is no other: "the 2nd row", "3D", "4K"."""
_RETRACTED = re.compile(
    rf"\b{TAKES_BACK}\b"
    r"|(?<=[.?!]\s)no\b|\b(?:first|initially|originally|said)\b[^.;\n]{1,80}?\bbut\b",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(
    rf"\b(?:{SO}|in\stotal|altogether|overall|totals?)\b(?:\sof\b|\sis\b)?[\s,:=]*",
    re.IGNORECASE,
)
_SEE = r"(?:see|count|find|spot|notice)"
_NOT_COUNTED = (
    r"(?!(?:more|less|fewer|doubt|way|answer|idea|information|need|reason|question|telling|one\b"
    r"|evidence|indication|clear|problem|other|longer|single"
    r"|image|picture|video|photo|photograph|option|choice|number|numbers|text)\b)"
)
_NONE = re.compile(
    r"^\W{0,9}(?:the\sanswer\sis\s)?(?:(?:there(?:\s(?:is|are|was|were)|'s)"
    rf"|(?:i|we|you)(?:\scan)?\s{_SEE})\s)?(?:none|zero|nil|nobody)"
    r"(?:\W{0,9}$|\s(?:in|on|at|visible|here|there|present|is|are|can|could)\b"
    r"|\sof\s(?!(?:(?:the|these|those)\s)?(?:above|options?|choices?|answers?|these|those)\b))"
    r"|^\W{0,9}not\s(?:even\s)?(?:a\ssingle|one)\b"
    rf"|(?:^|[.;,!]\s)\W{{0,9}}(?:there(?:\s(?:is|are|was|were)|'s)|(?:i|we|you)(?:\scan)?\s{_SEE}"
    r"|(?:it|(?:the|this|that)\s\w{1,20})\s(?:shows|has|contains|depicts|includes))"
    rf"\sno\s{_NOT_COUNTED}\w"
    r"|\bthere\s(?:is|are|was|were)(?:\snot|n't)\s(?:any|an?|one)\b"
    rf"|\b{DENIED_VERB}\s(?:{_SEE}|contain|show|have)\s(?:any|(?:even\s)?a\ssingle)\b(?!\s(?:image|picture|video|photo|text)\b)"
    rf"|^\W{{0,9}}no\s{_NOT_COUNTED}\w+(?:\s\w+)?(?:\s(?:is|are|was|were|can\sbe)\s"
    r"(?:visible|present|there|shown|seen|found|in)\b|\W{0,9}$)",
    re.IGNORECASE,
)


_SOME = re.compile(r"\b(?:many|several|some|few|lots|numerous)\b", re.IGNORECASE)


def stated_number(text: str) -> float | None:
    r"""Read the number that a text states; None if it states no number or several.

    Signs, thousands ("1,234.5"), fractions (3/4, ``\frac34``, 1 1/2), powers of ten (2.5e3,
    ``2.5 \times 10^3``), English numerals ("twenty-one", "1.5 million") and "none" are read. The
    right-hand side of an equation counts, and of several numbers the one after "so" or "in total",
    or the sum of the others. Numbers behind "not" and "more than" do not count. Other LaTeX, such
    as ``2\sqrt3``, is not a number.
    """
    return read_number(text).value


def read_number(text: str) -> Reading[float | None]:
    """Read the number that a text states, with the rule that found it; see `stated_number`."""
    raised = _POWER.sub(_as_exponent, final_answer(text).replace("{,}", ","))
    # The exponents of units would become digits.
    written = strip_markup(re.sub(f"[{_SUPERSCRIPTS}]", "^", raised)).translate(_SIGNS)
    box = last_box(written)
    if "\\boxed" in written and box is None:
        # More digits could have followed.
        return Reading(None, "the box is denied, or not closed")
    statement = stated_answer(written)
    sentence = written if statement is None else SENTENCE_END.split(statement.strip())[0]
    if statement is not None and statement.lstrip().startswith("not "):
        return Reading(None, 'after "the answer is" stands "not"')
    sentence = _FRACTION.sub(lambda m: f"{m[1] or m[2]}/{m[3] or m[4]}", sentence)
    where = "the box" if box is not None else "the answer that the text states"
    if statement is None:
        where = "the text"
        if (later := _RETRACTED.split(sentence)[-1]) != sentence and _numbers(_digits(later)):
            sentence, where = later, "the text after a second thought"
    side = sentence if _SOLUTIONS.search(sentence) else sentence.rpartition("=")[2]
    if not (values := _numbers(_digits(side))):
        side, values = sentence, _numbers(_digits(sentence))
    if statement is not None:
        if _OTHER_LATEX.search(_UNITS.sub("", side if box is not None else _REASON.split(side)[0])):
            return Reading(None, f"the LaTeX in {where} is no number")
        if len(values) > 1 and not _ALTERNATIVE.search(_digits(sentence)):
            values = values[:1]  # "14, since 3 + 11": the rest is a reason
    none = sentence.replace("\n", " ")
    if not values and _NONE.search(none) and not _SOME.search(none):
        return Reading(0.0, f'"none" in {where}')
    if len(set(values)) == 1:
        return Reading(values[0], f"the number in {where}")
    if not values:
        return Reading(None, f"no number in {where}")
    if statement is None:
        if (concluded := _concluded(_digits(sentence))) is not None:
            return Reading(concluded, 'the number after "so" or "in total"')
        for whole, others in ((values[0], values[1:]), (values[-1], values[:-1])):
            if len(others) > 1 and math.isclose(whole, sum(others)):
                return Reading(whole, "the number that is the sum of the others")
    return Reading(None, f"several numbers in {where}")


def is_number(text: str) -> bool:
    """Tell whether a text is a number and nothing else: "3.5", "24/7", "three"."""
    text = text.strip()
    return (
        re.fullmatch(r"[-+\u2212\u2013]?[\d.,/]*\d", text) is not None
        or _SPELLED.fullmatch(text.lower()) is not None
    )


def has_number(text: str) -> bool:
    """Tell whether digits or a numeral stand in a text."""
    return re.search(r"\d", text) is not None or _SPELLED.search(text.lower()) is not None


def _concluded(text: str) -> float | None:
    """Find the only number after the last "so" or "in total", or in the clause that it ends."""
    for word in reversed(list(_CONCLUSION.finditer(text))[-20:]):
        after = re.split(r"[.;:\n](?!\d)", text[word.end() : word.end() + 200])[0]
        before = re.split(r"[.;:,\n](?!\d)", text[max(0, word.start() - 200) : word.start()])[-1]
        for clause in (after, before):
            if len(set(values := _numbers(clause))) == 1:
                return values[0]
    return None


def _digits(text: str) -> str:
    """Write numerals as digits, and remove numbers that do not say how many."""
    text = " ".join(_UNIT_POWER.sub("", text).split(" "))
    lowered = text.lower()
    if len(lowered) != len(text):
        lowered = text  # some letters change their length
    if not re.search(r"\d", text):
        text = _PRONOUN.sub(" ", lowered)
        without = _ASIDE.sub(" ", text)
        text = _SPELLED.sub(_as_digits, without if _SPELLED.search(without) else text)
    without = _PART.sub("", text)
    text = _SIGN_WORD.sub("-", without if re.search(r"\d", without) else text)
    text = without_doubts(without_denied(_QUALIFIED.sub(" ", text), _DIGITS, NOT, WRONG))
    without = _LABEL.sub(" ", text)
    return without if re.search(r"\d", without) else re.sub(r"(?<=\d)(?:st|nd|rd|th)\b", "", text)


def _as_digits(spelled: re.Match[str]) -> str:
    """Write a numeral as digits: "two hundred and five" is 205."""
    total = current = 0.0
    for word in re.findall(r"[a-z]+", spelled[0]):
        number = _WORDS.get(word)
        if number is None:
            continue
        if number == 100 or word == "dozen":
            current = (current or 1) * number
        elif number > 100:
            total, current = total + (current or 1) * number, 0.0
        elif word == "half" and current and " and a half" not in spelled[0]:
            current *= number
        else:
            current += number
    value = total + current
    if spelled[1]:
        value /= _PARTS[spelled[1]]
    return f"{value:.15g}"


def _as_exponent(power: re.Match[str]) -> str:
    one = "" if power[0].lstrip()[:1] != "1" else "1"  # without a factor: 10^3 is 1e3
    return f"{one}e{(power[1] or power[2] or power[3]).translate(_RAISED)}"


def _numbers(text: str) -> list[float]:
    values = []
    for whole, bottom, numerator, denominator, scale in _NUMBER.findall(text):
        value = float(whole.replace(",", "").replace(" ", ""))
        if bottom:
            value = value / float(bottom) if float(bottom) else math.inf
        if denominator:
            share = float(numerator) / float(denominator) if float(denominator) else math.inf
            value += math.copysign(share, value)
        value *= _SCALES.get(scale, 1.0)
        if math.isfinite(value):
            values.append(value)
    return values
