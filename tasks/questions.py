"""How a question and its options are written for a model."""

import re
from collections.abc import Mapping, Sequence


def inline_options(question: str) -> dict[str, str]:
    """The options that stand in a question, one a line: "(A) red", "B. blue", "C: green"."""
    options: dict[str, str] = {}
    for mark, text in re.findall(
        r"^[ \t]*\(?([A-Z])[).:][ \t]*(.*?)[ \t]*$", question, re.MULTILINE
    ):
        if mark == chr(65 + len(options)):
            options[mark] = text
    return options if len(options) > 1 else {}


def without_marks(question: str) -> str:
    """A question without the marks where its images stand; numbered ones stay in words.

    The images come before the question, and a model's own mark must not be in its text.
    """
    question = re.sub(r"<(?:image|video)>\s*", "", question)
    return re.sub(r"<image\s*(\d+)>", r"[image \1]", question).strip()


def lettered(options: Sequence[str]) -> dict[str, str]:
    """Options by letter, from A."""
    return {chr(65 + number): option for number, option in enumerate(options)}


def asked(question: str, options: Mapping[str, str]) -> str:
    """A question with its options, as a model reads it."""
    lines = [question, *(f"{letter}. {option}" for letter, option in options.items())]
    return "\n".join([*lines, "Answer with the letter of the right option."])
