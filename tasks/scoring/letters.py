"""Where a letter in a text is the letter of an option: not in a word, a formula or a name."""

import re
from collections.abc import Iterator, Mapping

from visreplay.tasks.scoring.answer_extraction import strip_markup
from visreplay.tasks.scoring.denials import without_denied, without_doubts

OPERATOR = (
    r"\\(?:cdot|times|approx|neq?|leq?|geq?|equiv|sim|perp|parallel|pm|div|cap|cup|setminus|to|in"
    r"|mid|wedge|vee|su[bp]set(?:eq)?|(?:long)?(?:left|right|leftright)arrow)\b"
)
BEFORE_LETTER = (
    r"(?<![A-Za-z0-9_\\])(?<![A-Za-z]['.])(?<![+^≤≥])(?<! [<>=] )"
    r"(?<!\b[A-Za-z]\()(?<![A-Zabce-z}]\{)"  # boxed{A} ends with d
)
"""What may not stand before: "4A", "= A", "P(A)", "\\vec{A}"."""
AFTER_LETTER = (
    r"(?![A-Za-z0-9_]|'(?:[A-Za-z]|\s?=)|\.[A-Z]\b|\s?[=^≤≥≈≠\u00d7÷]|\s[<>+]\s?[\w\\]|\+"
    rf"|\s?{OPERATOR})"
)
"""What may not follow: "A's", "A = 12", "E + 1", "A.M."."""
_ONE = rf"[(\[\"']{{0,2}}[A-Z]{AFTER_LETTER}[)\]\"']{{0,2}}"
_SEVERAL = (
    rf"{_ONE}(?:(?:,\s?{_ONE}){{2,8}}"
    rf"|(?:,\s?{_ONE}(?=\s*,|\s+(?:or|nor|and|is|are|do|does|can)\b)){{0,8}})"
    rf"(?:,?\s+(?:or|nor|and)\s+(?:option\s+)?{_ONE}){{0,8}}"
)
_FORMULA = re.compile(
    rf"(?<![A-Za-z0-9_'])[A-Z](?:(?:\s?(?:{OPERATOR}|[\u2229\u222a\u00b7\u00d7\u00f7])\s?[A-Z]){{1,9}}(?![A-Za-z0-9_])"
    r"|(?:\s?[-/]\s?(?:[A-Z]|\d{1,9})|(?::|\s:\s)[A-Z]){1,9}(?=\s?[=≈<>]))"
)
"""Letters with operators between: "A \\cap B", "A - B = 2", "A:B = 2:1"."""
_LETTERS = rf"(?<![A-Za-z0-9_'])(?!I\s+(?!is\b)){_SEVERAL}"
_NONE_OF = re.compile(rf"(?i:\bnone\sof)\s{_ONE}(?:,?\s(?:(?:or|nor|and)\s)?{_ONE}){{1,9}}")
_WRONG_IN_CHINESE = re.compile(r"(?<![A-Za-z0-9'])[A-Z]\s*(?:不对|错误|是错)")
_MENTION = re.compile(
    rf"(?:\b((?i:point|angle|triangle|vertex|line|segment|vitamin|team|plan|grade|type|class"
    rf"|person|player|box|node|bus|route|hepatitis))\s)?{BEFORE_LETTER}([(\[]?)([A-Z])"
    rf"{AFTER_LETTER}(?=\s+([a-z]+)|)"
)
_AFTER_A_LETTER = {"is", "was", "it", "and", "or", "because", "as", "since", "for", "but", "nor"}
"""Words that follow the letter A, but rarely the article."""


def stated_letters(text: str) -> str:
    """Remove the letters that a text denies, "not A" or "whether A", and those in formulas."""
    text = _FORMULA.sub(" ", _WRONG_IN_CHINESE.sub(" ", text))
    return without_doubts(without_denied(_NONE_OF.sub(" ", text), _LETTERS))


def is_word(letter: str, after: str) -> bool:
    """Tell whether A is the article or I the pronoun, by the lower-case word after it."""
    return (letter == "I" and after not in {"", "is", "and", "or"}) or (
        letter == "A" and after not in {"", *_AFTER_A_LETTER}
    )


def mentions(text: str, options: Mapping[str, str]) -> Iterator[str]:
    """Find the letters that a text mentions, outside of the options' own texts.

    Where options have texts, letters that name something else do not count: "point A".
    """
    has_texts = any(options.values())
    for option in sorted(options.values(), key=len, reverse=True):
        if len(option := strip_markup(option)) > 1:
            text = re.sub(rf"(?<!\w){re.escape(option)}(?!\w)", " ", text, flags=re.IGNORECASE)
    for noun, bracket, letter, word in _MENTION.findall(text):
        if (
            letter in options
            and not (noun and has_texts)
            and (bracket or not is_word(letter, word))
        ):
            yield letter
