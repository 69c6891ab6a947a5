"""The text of a question and its options, as a model reads it."""

import re
from collections.abc import Mapping, Sequence


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


def format_question(question: str, options: Mapping[str, str]) -> str:
    """Put a question, its options and the request for a letter on lines of their own."""
    lines = [question, *(f"{letter}. {option}" for letter, option in options.items())]
    return "\n".join([*lines, "Answer with the letter of the right option."])
