r"""Rules that tell whether an answer is right: pure functions of text, without a model as judge.

The rules compare the answer that a text states (`visreplay.tasks.scoring.answer_extraction`; for
options, the longer rule of `visreplay.tasks.scoring.multiple_choice`). A text that states nothing,
or two things at once ("A or B"), is wrong. No rule raises, whatever the text. Values in different
notation, such as ``\frac12`` and 0.5, are compared by `visreplay.tasks.scoring.mathematics`.
"""

import re
from collections.abc import Mapping
from string import ascii_uppercase

from visreplay.tasks.scoring.answer_extraction import (
    SENTENCE_END,
    final_answer,
    normalise,
    stated_answer,
    stated_number,
    strip_markup,
)
from visreplay.tasks.scoring.multiple_choice import option_letter, option_letters

TEXTLESS_OPTIONS: Mapping[str, str] = dict.fromkeys(ascii_uppercase[:10], "")
"""Options A to J without texts, for questions whose options stand in the picture."""

_VERB = re.compile(r"\b(?:is|are|was|says|reads|shows)\b")
_DENIED = re.compile(
    r"\b(?:not|cannot|never|no|none|nothing|neither|nor|if|whether|unless|unclear)\b|n't\b|\?",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"\b(?:and|but|or|while|whereas|because|since|as|so|then)\b|[,:!]")


def same_text(expected: str, answer: str | None) -> bool:
    """Tell whether an answer is the expected text.

    Letter case, white space, Markdown, punctuation at the ends and a leading article do not count.
    The expected text is compared with the whole answer, with the answer that it states, and with
    the first sentence of that. If the text is one sentence with one claim ("The text on it is .."),
    it is also compared with the words after the verb.

    Examples:
        >>> same_text("MIRA II", "The text on the lifebelt is **Mira II**.")
        True
    """
    if answer is None:
        return False
    wanted, text = normalise(expected), strip_markup(final_answer(answer))
    if not wanted:
        return text == strip_markup(expected)
    candidates = [text]
    if (statement := stated_answer(text)) is not None:
        sentence = SENTENCE_END.split(statement)[0]
        candidates += [statement, sentence, re.split(r",\s+(?:because|since|as)\b", sentence)[0]]
    if (claim := _claim(text if statement is None else f"is {statement}")) is not None:
        candidates.append(claim)
    return any(normalise(candidate) == wanted for candidate in candidates)


def _claim(text: str) -> str | None:
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
    return sentence[last.end() :]


def same_number(expected: str, answer: str | None, tolerance: float = 1e-9) -> bool:
    r"""Tell whether an answer states a number within `tolerance` (absolute) of the expected one.

    Units and percent signs are ignored.

    Examples:
        >>> same_number("0.75", r"The share is \frac{3}{4}.")
        True
    """
    if answer is None:
        return False
    wanted, value = stated_number(expected), stated_number(answer)
    return wanted is not None and value is not None and abs(wanted - value) <= tolerance


def same_value(expected: str, answer: str | None) -> bool:
    """Tell whether an answer is the expected text or, for a number, equal to two decimals.

    This is the rule of MMMU's own evaluation for open questions.
    """
    is_number = re.fullmatch(r"[-+\u2212]?[\d.,/]*\d", expected.strip()) is not None
    return same_text(expected, answer) or (is_number and same_number(expected, answer, 0.005))


def same_option(
    expected: str, answer: str | None, options: Mapping[str, str] = TEXTLESS_OPTIONS
) -> bool:
    """Tell whether an answer chooses the expected option, by `option_letter`."""
    return answer is not None and option_letter(answer, options) == expected.strip().upper()


def same_options(
    expected: str, answer: str | None, options: Mapping[str, str] = TEXTLESS_OPTIONS
) -> bool:
    """Tell whether an answer chooses all of several options ("A, C") and no other."""
    wanted = set(re.findall("[A-Z]", expected.upper()))
    if answer is None or len(wanted) < 2:
        return same_option(expected, answer, options)
    return option_letters(answer, options) == wanted
