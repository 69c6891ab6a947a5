"""Extraction of yes or no from an answer in words."""

import re

from visreplay.tasks.scoring.answer_extraction import (
    SENTENCE_END,
    Reading,
    final_answer,
    stated_answer,
    strip_markup,
)
from visreplay.tasks.scoring.denials import TAKES_BACK

_YES = {"yes", "yeah", "yep", "yup", "是", "是的"}
_WORD = r"(yes|yeah|yep|yup|nope|nah|no(?!\s+(?:doubt|one|way|idea|answer|information)\b))"
_LEADING = re.compile(rf"^\W{{0,9}}{_WORD}\b|^\W{{0,9}}(是的|不是|是|否)", re.IGNORECASE)
_SAID = re.compile(
    rf"\b(?:is|be|say|believe|think|guess|wait|actually|sorry)\b\W{{1,3}}(?:that\s+)?{_WORD}"
    r"(?=\W{0,9}$|[.,;:!\n])",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(rf"\b{TAKES_BACK}\b", re.IGNORECASE)
_BOTH = re.compile(r"\byes\s+(?:and|or)\s+no\b|\bno\s+(?:and|or)\s+yes\b", re.IGNORECASE)
_NEGATIVE = re.compile(
    r"^\W{0,9}"
    r"(?!(?:i|we|one|you)\b)(?:[\w'-]{1,30}\s{1,3}){0,6}?"
    r"(?:(?:is|are|was|were|does|do|did|has|have|can|could|will)(?:\s+not\b|n't\b)|cannot\b"
    r"|(?:it|he|she|that|there|who|what)'s\s+not\b|there\s+(?:is|are|was|were)\s+no\b|there's\s+no\b)"
    r"(?!\s+(?:clear|sure|certain|known|possible|visible enough|way|telling|answer|doubt|idea"
    r"|information|enough|be\s+(?:determined|seen|said|answered)|any\s+way|only|just|necessarily"
    r"|say|tell|know|determine)\b)",
    re.IGNORECASE,
)


def read_yes_no(answer: str) -> Reading[str | None]:
    """Find whether an answer says "yes" or "no"; None if it says neither or both.

    The first word counts, unless a second thought follows ("No, wait: yes"); then "I would say no";
    then one sentence whose verb is denied ("He is not wearing a hat") for no.
    """
    text = strip_markup(final_answer(answer))
    statement = stated_answer(text)
    text = text if statement is None else statement
    if _BOTH.search(text):
        return Reading(None, "both yes and no")
    leading, said = _LEADING.match(text), _SAID.findall(text)
    changed = _TAKEN_BACK.search(text) is not None
    if leading and not (said and changed):
        return Reading(_meaning(leading[1] or leading[2]), "yes or no at the beginning")
    if said:
        return Reading(_meaning(said[-1]), 'yes or no after "I would say" or a second thought')
    sentence, *more = SENTENCE_END.split(text.strip())
    alone = not any(rest.strip() for rest in more) and "?" not in sentence
    if alone and _NEGATIVE.match(sentence):
        return Reading("no", "one sentence whose verb is denied")
    return Reading(None, "neither yes nor no")


def _meaning(word: str) -> str:
    return "yes" if word.lower() in _YES else "no"
