"""The text of a question and its options, as a model reads it."""

import re
from collections.abc import Mapping, Sequence
from typing import TypedDict

from visreplay.agent.protocols import Question
from visreplay.agent.protocols.wording import Kind, Wording


def inline_options(question: str) -> dict[str, str]:
    """Find the options within a question, one on each line: "(A) red", "B. blue", "C: green"."""
    options: dict[str, str] = {}
    for letter, text in re.findall(
        r"^[ \t]*\(?([A-Z])[).:][ \t]*(.*?)[ \t]*$", question, re.MULTILINE
    ):
        if letter == chr(65 + len(options)):
            options[letter] = text
    return options if len(options) > 1 else {}


def strip_media_marks(question: str) -> str:
    """Remove the marks that say where images stand; numbered marks become words.

    The images come before the question, and its text must not contain a mark of the model itself.
    """
    question = re.sub(r"<(?:image|video)>\s*", "", question)
    return re.sub(r"<image\s*(\d+)>", r"[image \1]", question).strip()


def options_by_letter(options: Sequence[str]) -> dict[str, str]:
    """Give each option a letter, from A."""
    return {chr(65 + number): option for number, option in enumerate(options)}


class QuestionFields(TypedDict):
    """The fields of a `Sample` that hold its question."""

    question: str
    parts: Question


def question_fields(
    question: str, options: Mapping[str, str] = {}, kind: Kind = "open"
) -> QuestionFields:
    """Make the fields of a sample for a question.

    Args:
        question: The question itself.
        options: Its options by their letters.
        kind: What it asks for, if it has no options.
    """
    parts = Question(question, options, kind)
    return {"question": Wording().write(parts), "parts": parts}
