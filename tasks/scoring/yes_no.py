"""Extraction of yes or no from an answer in words."""

import re

from visreplay.tasks.scoring.answer_extraction import (
    SENTENCE_END,
    Reading,
    final_answer,
    stated_answer,
    strip_markup,
)
from visreplay.tasks.scoring.denials import DENIED_VERB, NOT, SO, TAKES_BACK, WRONG, without_denied

_YES = {"yes", "yeah", "yep", "yup", "是", "是的"}
_WORD = (
    r"(yes|yeah|yep|yup|nope|nah"
    r"|no(?!\s+(?:(?:doubt|one|idea|answer|information|question)\b|way\s)))"
)
_SURELY = (
    r"(?:absolutely|indeed|definitely|certainly|clearly|probably|surely|obviously|evidently|apparently"
    r"|most\slikely|of\scourse|actually|i\s(?:think|guess|believe)|i'm\safraid)"
)
_LEADING = re.compile(
    rf"^\W{{0,9}}(?:(?:well|hm+|um+|oh|ok|okay|{_SURELY})\W{{1,3}}){{0,2}}{_WORD}\b(?!\W{{0,3}}\?)"
    r"|^\W{0,9}(是的|不是|是|否)",
    re.IGNORECASE,
)
_NOT_AT_ALL = re.compile(
    rf"^\W{{0,9}}(?:{_SURELY}\W{{1,3}}not|not\s(?:at\sall|really|in\sthe\sleast)"
    r"|i\s(?:don't|do\snot)\s(?:think|believe)\sso)(?=\W{0,9}$|[.,;:!])",
    re.IGNORECASE,
)
_SAID = re.compile(
    rf"\b(?:is|be|say|believe|think|guess|wait|actually|sorry)\b\W{{1,3}}(?:that\s+)?{_WORD}"
    rf"(?=\W{{0,9}}$|[.,;:!\n])|(?:\b{SO}\W{{1,3}}|(?:[.!?]\s|\n)\s?){_WORD}(?=\W{{0,9}}$)",
    re.IGNORECASE,
)
_CONDITION = re.compile(r"\b(?:if|unless|whether)\b[^.;!?\n]{0,200}", re.IGNORECASE)
_TAKEN_BACK = re.compile(rf"\b{TAKES_BACK}\b", re.IGNORECASE)
_BOTH = re.compile(r"\byes\s+(?:and|or)\s+no\b|\bno\s+(?:and|or)\s+yes\b", re.IGNORECASE)
_THING = r"(?:image|picture|photo|photograph|video|question|text|problem)s?"
"""What is missing when a model cannot answer: "I see no image"."""
_NEGATIVE = re.compile(
    r"^\W{0,9}(?:"
    # "I don't know" says nothing of the question, but "I don't see a dog" does.
    rf"(?:i|we|one|you)\s(?:{DENIED_VERB}\s(?:see|find|spot|notice)\s(?:an?|any)"
    rf"|(?:can\s)?(?:see|find|spot|notice)\sno)\s(?!{_THING}\b)"
    r"|(?:nobody|no\sone|nothing|none\sof\s(?:them|the\s\w{1,20}))"
    r"\s(?:is|are|was|were|has|have|wears?|can\sbe)\b|(?!(?:i|we|one|you)\s)"
    r"(?:(?!(?:but|while|whereas|although|because|since|and\s(?:he|she|it|they)|which|who|not|no"
    r"|cannot)\b|(?<=\s)(?<!seems )(?<!appears )that\b|\w{1,8}n't\b)"
    r"[\w'-]{1,30}\s{1,3}){0,6}?"
    rf"(?:{DENIED_VERB}|(?:it|he|she|that|there|who|what|they|we)'(?:s|re)\snot\b"
    rf"|(?:there's|is|are|was|were|has|have|had|wears?|shows?|contains?|holds?)\sno\s(?!{_THING}\b))"
    r")"
    r"(?!\s*(?:clear|sure|certain|known|possible|visible enough|way|telling|answer|doubt|idea"
    r"|information|enough|be\s(?:determined|seen|said|answered|told)|any\sway|only|just|necessarily"
    r"|say|tell|know|determine|need|reason|evidence|indication|problem|more|less|fewer|other)\b)",
    re.IGNORECASE,
)


def read_yes_no(answer: str) -> Reading[str | None]:
    """Find whether an answer says "yes" or "no"; None if it says neither or both.

    The first word counts ("Well, no", "Absolutely not"), unless a second thought follows ("No,
    wait: yes"); then "I would say no", "so yes" or the last sentence, "Yes."; then one sentence
    whose verb is denied ("He is not wearing a hat", "He has no hat") for no. "I wouldn't say yes"
    says neither.
    """
    text = strip_markup(final_answer(answer))
    statement = stated_answer(text)
    text = text if statement is None else statement
    if _BOTH.search(text):
        return Reading(None, "both yes and no")
    without = without_denied(_CONDITION.sub(" ", text), _WORD, NOT, WRONG)
    said = [_meaning(m[1] or m[2]) for m in _SAID.finditer(without)]
    first = "no" if _NOT_AT_ALL.match(text) else None
    if leading := _LEADING.match(without):
        first = _meaning(leading[1] or leading[2])
    if first and not (said and _TAKEN_BACK.search(text)):
        if said and said[-1] != first:
            return Reading(None, "both yes and no")
        return Reading(first, "yes or no at the beginning")
    if said:
        return Reading(said[-1], 'yes or no after "I would say", "so" or a second thought')
    sentence, *more = SENTENCE_END.split(text.strip())
    alone = not any(rest.strip() for rest in more) and "?" not in sentence
    if alone and _NEGATIVE.match(sentence):
        return Reading("no", "one sentence whose verb is denied")
    return Reading(None, "neither yes nor no")


def _meaning(word: str) -> str:
    return "yes" if word.lower() in _YES else "no"
