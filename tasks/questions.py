"""The text of a question and its options, as a model reads it."""

import re
from collections.abc import Mapping, Sequence
from typing import TypedDict

from visreplay.agent.protocols import Question
from visreplay.agent.protocols.wording import Kind, Wording

_OPTION_LINE = re.compile(r"^[ \t]*\(?([A-Z])[).:][ \t]*(.*?)[ \t]*$", re.MULTILINE)
_OPTION_MARK = re.compile(r"(?:^|(?<=\s))\(?([A-Z])(?:\)|[.:](?=\s))\s*")
_FIRST_OPTION = re.compile(r"(^\s*|[?.:;,]\s+)(?=\(?A(?:\)|[.:]\s))", re.MULTILINE)
_INSTRUCTION = re.compile(r"(?<=\S)\s+(?:please\s+)?(?:answer|select|choose|respond)\s.*$", re.I)
"""What a question asks for behind its options: "Answer with the option's letter"."""


def inline_options(question: str) -> dict[str, str]:
    """Find the options within a question: "(A) red", "B. blue", "C: green".

    They stand one on each line, or all on one line behind the question's last mark: "Which? (A) red
    (B) blue".
    """
    options: dict[str, str] = {}
    for letter, text in _OPTION_LINE.findall(question):
        if letter == chr(65 + len(options)):
            options[letter] = text
    if len(options) > 1:
        return options
    first = _FIRST_OPTION.search(question)
    return {} if first is None else _split(question[first.end(1) :])


def _split(text: str) -> dict[str, str]:
    """Split options on one line; {} if the letters are not in order, or an option has no text."""
    _, *pieces = _OPTION_MARK.split(text)
    letters = pieces[::2]
    texts = [each.partition("\n")[0].strip(" \t,;") for each in pieces[1::2]]
    texts[-1:] = [_INSTRUCTION.sub("", last).strip(" \t,;") for last in texts[-1:]]
    in_order = letters == [chr(65 + number) for number in range(len(letters))]
    good = in_order and len(texts) > 1 and all(texts)
    return dict(zip(letters, texts, strict=True)) if good else {}


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
