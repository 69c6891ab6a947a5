r"""Whether an answer is right: pure rules over text, and never a model that judges.

What is compared is the answer that a text states (`visreplay.tasks.scoring.answer_extraction`; for
options the longer rule of `visreplay.tasks.scoring.multiple_choice`). A text that states nothing,
or two things at once ("A or B"), is wrong. No rule raises, whatever the text. Values that are
written differently, as ``\frac12`` and 0.5, are compared by `visreplay.tasks.scoring.mathematics`.
"""

import re
from collections.abc import Mapping
from string import ascii_uppercase

from visreplay.tasks.scoring.answer_extraction import (
    SENTENCE_END,
    bare,
    final,
    number,
    plain,
    stated,
)
from visreplay.tasks.scoring.multiple_choice import option_letter, option_letters

LETTERS: Mapping[str, str] = dict.fromkeys(ascii_uppercase[:10], "")
"""Options whose texts are not known: they are in the picture."""

_VERB = re.compile(r"\b(?:is|are|was|says|reads|shows)\b")
_DENIED = re.compile(
    r"\b(?:not|cannot|never|no|none|nothing|neither|nor|if|whether|unless|unclear)\b|n't\b|\?",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"\b(?:and|but|or|while|whereas|because|since|as|so|then)\b|[,:!]")


def same_text(expected: str, answer: str | None) -> bool:
    """Whether an answer is the expected text.

    Letter case, white space, Markdown, punctuation at the ends and an article in front do not
    count. The whole answer is compared, what it states, the first sentence of that, and, where it
    is one sentence that claims one thing, what follows its verb: "The text on the lifebelt is ..".
    """
    if answer is None:
        return False
    wanted, text = bare(expected), plain(final(answer))
    if not wanted:
        return text == plain(expected)
    candidates = [text]
    if (said := stated(text)) is not None:
        sentence = SENTENCE_END.split(said)[0]
        candidates += [said, sentence, re.split(r",\s+(?:because|since|as)\b", sentence)[0]]
    if (claim := _claim(text if said is None else f"is {said}")) is not None:
        candidates.append(claim)
    return any(bare(candidate) == wanted for candidate in candidates)


def _claim(text: str) -> str | None:
    """What follows the last verb of a text that is one sentence; None if that claims nothing."""
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
    return sentence[last.end() :]


def same_number(expected: str, answer: str | None, tolerance: float = 1e-9) -> bool:
    """Whether an answer states a number within `tolerance` (absolute) of the expected one.

    Units and percent signs are not looked at.
    """
    if answer is None:
        return False
    wanted, found = number(expected), number(answer)
    return wanted is not None and found is not None and abs(wanted - found) <= tolerance


def same_value(expected: str, answer: str | None) -> bool:
    """Whether an answer is the expected text or, if that is a bare number, equal to two decimals.

    The rule of MMMU's own evaluation for open questions.
    """
    is_number = re.fullmatch(r"[-+\u2212]?[\d.,/]*\d", expected.strip()) is not None
    return same_text(expected, answer) or (is_number and same_number(expected, answer, 0.005))


def same_option(expected: str, answer: str | None, options: Mapping[str, str] = LETTERS) -> bool:
    """Whether an answer chooses the expected option, by `option_letter`."""
    return answer is not None and option_letter(answer, options) == expected.strip().upper()


def same_options(expected: str, answer: str | None, options: Mapping[str, str] = LETTERS) -> bool:
    """Whether an answer chooses all of several options ("A, C") and no other."""
    wanted = set(re.findall("[A-Z]", expected.upper()))
    if answer is None or len(wanted) < 2:
        return same_option(expected, answer, options)
    return option_letters(answer, options) == wanted
