"""The comparison of an answer in words with the expected text."""

import re

from visreplay.tasks.scoring.answer_extraction import (
    SENTENCE_END,
    final_answer,
    normalise,
    stated_answer,
    strip_markup,
)
from visreplay.tasks.scoring.denials import NOT
from visreplay.tasks.scoring.yes_no import read_yes_no
from visreplay.tasks.types import Verdict

_VERB = re.compile(
    r"(?:\b(?:is|are|was|says|reads|shows|(?:appears?|seems?)\s+to\s+(?:be|say|read)|looks\s+like)"
    r"|(?<=\b[Ii]t)'s)\b"
)
_HEDGE = re.compile(
    r"^\s*(?:(?:probably|likely|most likely|clearly|definitely|certainly|actually|simply|just"
    r"|indeed|called)\s+){1,3}",
    re.IGNORECASE,
)
_DENIED = re.compile(rf"{NOT}|(?i:\b(?:none|nothing|if|whether|unless|unclear)\b)|\?")
_CLAUSE = re.compile(r"\b(?:and|but|or|while|whereas|because|since|as|so|then)\b|[,:!]")
_REASON = re.compile(r",\s+(?:because|since|as)\b")
_CONTRAST = re.compile(r",\s+(?:and\s+)?(?:not|rather than|instead of)\b", re.IGNORECASE)


def judge_text(expected: str, answer: str) -> Verdict:
    """Judge whether an answer is the expected text.

    Letter case, white space, Markdown, punctuation at the ends and a leading article do not count.
    The expected text is compared with the whole answer, with the answer that it states, and with
    the first sentence of that. If the text is one sentence with one claim ("The text on it is .."),
    it is also compared with the words after the verb. "Yes" and "no" are
    read by `read_yes_no`, too.
    """
    wanted, text = normalise(expected), strip_markup(final_answer(answer))
    if not wanted:
        return Verdict(text == strip_markup(expected), "the whole answer")
    candidates = {"the whole answer": text}
    if (statement := stated_answer(text)) is not None:
        sentence = SENTENCE_END.split(statement)[0]
        candidates |= {
            'the text in the box or after "the answer is"': statement,
            'the sentence in the box or after "the answer is"': sentence,
            "the words before a reason": _REASON.split(sentence)[0],
        }
    if (claim := claim_of(text if statement is None else f"is {statement}")) is not None:
        candidates["the words after the verb"] = claim
        candidates['the words after the verb, before "not"'] = _CONTRAST.split(claim)[0]
    for rule, candidate in candidates.items():
        if normalise(candidate) == wanted:
            return Verdict(True, rule, candidate.strip())
    if wanted in ("yes", "no"):
        said = read_yes_no(answer)
        return Verdict(said.value == wanted, said.rule, said.value)
    if wanted in ("true", "false") and (word := re.match(r"\W*(true|false)\b(?=\W)", text.lower())):
        return Verdict(word[1] == wanted, "true or false at the beginning", word[1])
    return Verdict(False, "another text", (text if statement is None else statement).strip())


def claim_of(text: str) -> str | None:
    """Return the words after the last verb of a text of one sentence; None without a claim."""
    sentence, *more = SENTENCE_END.split(text.strip())
    *before, last = (None, *_VERB.finditer(sentence))
    if (
        last is None
        or any(rest.strip() for rest in more)
        or _DENIED.search(sentence, 0, last.start())
    ):
        return None
    if (earlier := before[-1]) and _CLAUSE.search(sentence, earlier.end(), last.start()):
        return None  # "The sky is red and the boat is blue"
    return _HEDGE.sub("", sentence[last.end() :])
