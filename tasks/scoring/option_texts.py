"""Extraction of the option whose text an answer has: whole, as a number, or by the words of it."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from visreplay.tasks.scoring.answer_extraction import (
    SENTENCE_END,
    UNIT_SPACE,
    Reading,
    normalise,
    strip_markup,
)
from visreplay.tasks.scoring.denials import SO, TAKES_BACK, without_denied, without_doubts
from visreplay.tasks.scoring.numerals import has_number, is_number, read_number
from visreplay.tasks.scoring.yes_no import read_yes_no

_MAX_SENTENCES = 200
_SECOND_THOUGHT = re.compile(rf"(?<=[.,;!?\n])\s{{0,3}}(?:no|{TAKES_BACK})\b|(?<=[.,;!?\n ]){SO}\b")
_AGREEMENT = re.compile(r"\b(?:that|this|[a-j])(?:'s| is) (?:right|correct)(?=\W{0,9}$|[.,;!])")
_NONE_OF = re.compile(
    r"^(?:it is |it's )?none of (?:these|those|them|the (?:above|options|choices|others?))\b"
)
_STOP_WORDS = frozenset(
    "the a an is are was were of to in on at it its and by with from as that this there be "  # noqa: SIM905
    "into onto".split()
)
_RELATIONS = frozenset(
    "left right above below under over behind front beside inside outside before after next near "  # noqa: SIM905
    "between bigger smaller taller shorter larger longer higher lower closer farther".split()
)
"""Words with which two things that are exchanged make another claim."""
_TOKEN = re.compile(r"(?<!\w)-?\d(?:[.,/^]?\w)*|\w+")
_POSSESSIVE = re.compile(r"\b(\w+)'s (left|right)\b")
_NUMERIC = re.compile(r"\W{0,3}[-+\u2212]?[\d.,/ ]*\d\s*([^\d]{0,15})")
_UNIT = re.compile(r"\d\s?([a-z°%]{1,3})(?![a-z])")


def option_by_text(text: str, options: Mapping[str, str]) -> Reading[str | None]:
    """Find the only option that a text names in words.

    The first of these counts: "yes" or "no", if they are options; "none of these"; the number that
    the text states, if the options are numbers; the only option whose text is in it; the only one
    whose own words are in it ("It is on the left"). Denied texts do not count. Of a text that
    names several, the part after "no, wait" or "so" is tried.

    Args:
        text: The text.
        options: Texts by letter.
    """
    words = {letter: normalise(option) for letter, option in options.items()}
    if {"yes", "no"} <= set(words.values()) and (said := read_yes_no(text)).value is not None:
        return Reading(_only(k for k, word in words.items() if word == said.value), said.rule)
    written = _as_one_line(text)
    if _NONE_OF.match(written):
        letter = _only(k for k, word in words.items() if word.startswith("none of"))
        if letter is not None:
            return Reading(letter, 'the option "none of the above"')
    numbers, unit = _number_options(options)
    if unit is not None and has_number(written):
        number = _by_number(text, numbers, unit)
        if number.value is not None:
            return number
        # "5.5" and "more than 5" are not the option 5, though its text is in them.
        words = {letter: word for letter, word in words.items() if letter not in numbers}
    if not any(re.search(r"\b(?:whether|if)\b", word) for word in words.values()):
        written = without_doubts(written)
    written = _AGREEMENT.sub(" ", written)
    *_, later = _SECOND_THOUGHT.split(written)
    for part in dict.fromkeys((written, later)):
        letter = _by_words(part, words)
        if letter is not None:
            return Reading(letter, "the only option whose text is in the answer")
    for part in dict.fromkeys((written, later)):
        letter = _by_difference(part, words)
        if letter is not None:
            return Reading(letter, "the only option whose own words are in the answer")
    return Reading(None, "no option, or several")


def named_options(text: str, options: Mapping[str, str]) -> set[str]:
    """Find all options whose texts are in a text as whole words without a negation."""
    written = _as_one_line(text)
    return _matching(written, {letter: normalise(option) for letter, option in options.items()})


def _as_one_line(text: str) -> str:
    return UNIT_SPACE.sub("", " ".join(strip_markup(text).casefold().split()))


def _by_words(written: str, words: Mapping[str, str]) -> str | None:
    return _only(_matching(written, words))


def _matching(written: str, words: Mapping[str, str]) -> set[str]:
    """Find the options whose text is in a text, without those within a longer option's text."""
    whole = {letter: _whole(wanted) for letter, wanted in words.items() if wanted}
    # The longest first, so that "not dark red" does not deny red.
    each = "|".join(sorted(whole.values(), key=len, reverse=True))
    without = without_denied(written, _several(each)) if whole else written
    matches = {letter: words[letter] for letter, each in whole.items() if re.search(each, without)}
    return {
        letter
        for letter, option in matches.items()
        if not any(option != other and option in other for other in matches.values())
    }


def _several(each: str) -> str:
    """Make the pattern of a text, or of a list of texts: "red, blue nor green"."""
    return rf"(?:{each})(?:(?:\s?,\s?|,?\s(?:or|nor|and)\s)(?:the\s|an?\s)?(?:{each})){{0,8}}"


def _whole(wanted: str) -> str:
    """Make the pattern of a text as whole words; Chinese and Japanese have no spaces between."""
    edge = r"(?<![\w.^/+-])(?<!\d,)" if wanted[0].isdigit() else r"(?<!\w)"
    end = r"(?!\w|[.,]\d|\s?[\^/*]|\s?\\[a-z])" if wanted[-1].isdigit() else r"(?!\w)"
    start = "" if _is_cjk(wanted[0]) else edge
    return f"{start}{re.escape(wanted)}{'' if _is_cjk(wanted[-1]) else end}"


def _is_cjk(character: str) -> bool:
    return "\u3040" <= character <= "\u9fff" or "\uac00" <= character <= "\ud7a3"


def _number_options(options: Mapping[str, str]) -> tuple[dict[str, float], str | None]:
    """Find the options that are numbers, and their unit; None unless several have the same."""
    numbers: dict[str, float] = {}
    units = set()
    for letter, option in options.items():
        plain = strip_markup(option)
        match = _NUMERIC.fullmatch(plain)
        if (match or is_number(plain)) and (value := read_number(plain).value) is not None:
            numbers[letter] = value
            units.add(match[1].strip(" .").casefold() if match else "")
    return numbers, units.pop() if len(numbers) > 1 and len(units) == 1 else None


def _by_number(text: str, numbers: Mapping[str, float], unit: str) -> Reading[str | None]:
    """Find the option that is the number that a text states."""
    stated = read_number(text).value
    other = _UNIT.search(strip_markup(text).casefold())
    if stated is None or (unit and other and other[1] != unit):
        return Reading(None, "no number, or another unit")
    same = _only(k for k, value in numbers.items() if math.isclose(value, stated, abs_tol=1e-9))
    return Reading(same, "the option that is the number that the answer states")


def _by_difference(written: str, words: Mapping[str, str]) -> str | None:
    """Find the only option whose words are in a text, except those that most options have.

    Of "The kite is on the left of the boat" and ".. on the right of the boat", "It is on the left"
    is the first. If the options are about places, the words that a sentence shares with the option
    must be in the option's order: "The boat is on the left of the kite" is neither.
    """
    written = _POSSESSIVE.sub(r"\2 of \1", written)
    content = {letter: _content(word) for letter, word in words.items()}
    counts = Counter(word for tokens in content.values() for word in set(tokens))
    common = {word for word, count in counts.items() if 2 * count > len(content)}
    denied = _several("|".join(_whole(word) for word in sorted(counts.keys() - common)))
    sentences = [
        without_denied(sentence, denied)
        for sentence in SENTENCE_END.split(written)[:_MAX_SENTENCES]
    ]
    matches: dict[str, frozenset[str]] = {}
    for letter, tokens in content.items():
        own = frozenset(tokens) - common
        if not own:
            continue
        for sentence in sentences:
            found = [token for token in _content(sentence) if token in tokens]
            if own <= set(found) and (_in_order(found, tokens) or not own & _RELATIONS):
                matches[letter] = own
    return _only(
        letter for letter, own in matches.items() if not any(own < o for o in matches.values())
    )


def _content(text: str) -> list[str]:
    return [word for word in _TOKEN.findall(text) if word not in _STOP_WORDS]


def _in_order(found: list[str], tokens: list[str]) -> bool:
    rest = iter(tokens)
    return all(token in rest for token in dict.fromkeys(found))


def _only(letters: Iterable[str]) -> str | None:
    """Return the only one of some letters; None if there are none or several."""
    found = list(letters)
    return found[0] if len(found) == 1 else None
