"""Where a letter in a text is the letter of an option: not in a word, a formula or a name."""

import re
from collections.abc import Iterator, Mapping

from visreplay.tasks.scoring.answer_extraction import strip_markup
from visreplay.tasks.scoring.denials import without_denied, without_doubts

BEFORE_LETTER = r"(?<![A-Za-z0-9_\\])(?<![A-Za-z]['.])(?<![+^≤≥])(?<! [<>=] )"
AFTER_LETTER = (
    r"(?![A-Za-z0-9_]|'(?:[A-Za-z]|\s?=)|\.[A-Z]\b|\s?[=^≤≥≈≠\u00d7÷]|\s[<>+]\s?[\w\\]|\+"
    r"|\s?\\(?:cdot|times|approx|neq?|leq?|geq?|equiv|sim|perp|parallel|pm|div)\b)"
)
"""What may not follow: "A's", "A = 12", "E + 1", "A.M."."""
_ONE = rf"[(\[\"']{{0,2}}[A-Z]{AFTER_LETTER}[)\]\"']{{0,2}}"
_SEVERAL = (
    rf"{_ONE}(?:,\s?{_ONE}(?=\s*,|\s+(?:or|nor|and|is|are|do|does|can)\b)){{0,8}}"
    rf"(?:,?\s+(?:or|nor|and)\s+(?:option\s+)?{_ONE}){{0,8}}"
)
_LETTERS = rf"(?<![A-Za-z0-9_'])(?!I\s+(?!is\b)){_SEVERAL}"
_WRONG_IN_CHINESE = re.compile(r"(?<![A-Za-z0-9'])[A-Z]\s*(?:不对|错误|是错)")
_MENTION = re.compile(
    rf"(?:\b((?i:point|angle|triangle|vertex|line|segment|vitamin|team|plan|grade|type|class"
    rf"|person|player|box|node|bus|route|hepatitis))\s)?{BEFORE_LETTER}([(\[]?)([A-Z])"
    rf"{AFTER_LETTER}(?=\s+([a-z]+)|)"
)
_AFTER_A_LETTER = {"is", "was", "it", "and", "or", "because", "as", "since", "for", "but", "nor"}
"""Words that follow the letter A, but rarely the article."""


def stated_letters(text: str) -> str:
    """Remove the letters that a text denies: "not A", "A and C are wrong", "whether A"."""
    return without_doubts(without_denied(_WRONG_IN_CHINESE.sub(" ", text), _LETTERS))


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
