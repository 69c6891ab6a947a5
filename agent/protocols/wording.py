"""Questions, and how they are put into words: templates whose {names} are filled in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import MinLen

Kind = Literal["open", "options", "number", "text", "ocr"]
"""What a question asks for: one of its options, a number, a text, or the text in a picture. "open"
says nothing about it."""

STRICT = {"extra": "forbid", "strict": True}
"""How pydantic checks the classes of a recipe: no unknown key, and no conversion of types."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question taken apart, so that a protocol can put it into the words of its training.

    Attributes:
        text: The question itself.
        options: Its options by their letters.
        kind: What it asks for; a question with options asks for one of them.
    """

    text: str
    options: Mapping[str, str] = field(default_factory=dict)
    kind: Kind = "open"

    def __post_init__(self) -> None:
        """Derive the kind of a question with options."""
        if self.options:
            object.__setattr__(self, "kind", "options")


@dataclass(frozen=True)
class Wording:
    """The words of a question, by whether it has options.

    Attributes:
        plain: A question without options; {question} is its text.
        options: A question with options, {options} of them on a line each.
        option: One option, by its {letter} and {text}.
    """

    plain: Annotated[str, MinLen(1)] = "{question}"
    options: Annotated[str, MinLen(1)] = (
        "{question}\n{options}\nAnswer with the letter of the right option."
    )
    option: Annotated[str, MinLen(1)] = "{letter}. {text}"

    __pydantic_config__: ClassVar[Any] = STRICT

    def __post_init__(self) -> None:
        """Refuse templates that would leave the question out.

        Raises:
            ValueError: A mark is missing, or there twice.
        """
        check_marks("plain", self.plain, "question")
        check_marks("options", self.options, "question", "options")
        check_marks("option", self.option, "text")

    def write(self, question: Question) -> str:
        """Put a question and its options into words."""
        lines = [
            fill(self.option, letter=letter, text=text) for letter, text in question.options.items()
        ]
        template = self.options if lines else self.plain
        return fill(template, question=question.text, options="\n".join(lines))


def fill(template: str, **values: object) -> str:
    """Replace the {names} of a template by their values, all at once.

    Other braces stay: templates quote JSON.
    """
    return re.sub(
        r"\{(\w+)\}", lambda mark: str(values.get(mark[1], mark[0])), template, flags=re.ASCII
    )


def tags_of(template: str) -> list[str]:
    """List the tags of a template, such as <tool_response>."""
    return re.findall(r"</?\w+>", template)


def check_marks(name: str, template: str, *marks: str) -> None:
    """Check that a template has each of some marks once.

    Raises:
        ValueError: It has not.
    """
    for mark in marks:
        if template.count(f"{{{mark}}}") != 1:
            raise ValueError(f"{name} must have {{{mark}}} in it, once")
