"""The calls that were found in a model's turn, and which of them are run."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from visreplay.agent.protocols.tolerant_json import parse_json
from visreplay.agent.state import ToolCall
from visreplay.tools import ToolError


@dataclass(frozen=True, slots=True)
class FoundCall:
    """Something in a text that looks like a call.

    Attributes:
        start: Where it begins, its tag included.
        end: Where it ends.
        call: The call, if it can be read.
        error: Why it cannot be read, in words for the model.
        closed: Whether its end is marked; if not, it may have ended earlier.
        mention: Whether it is a tag in prose.
        quoted: Whether it stands in a block of code, or in backquotes.
    """

    start: int
    end: int
    call: ToolCall | None = None
    error: str = ""
    closed: bool = True
    mention: bool = False
    quoted: bool = False


@dataclass(frozen=True)
class FoundCalls:
    """All that looks like a call in a text.

    Attributes:
        text: The text.
        found: What looks like a call, in the order of the text.
    """

    text: str
    found: tuple[FoundCall, ...] = ()

    @cached_property
    def attempts(self) -> tuple[FoundCall, ...]:
        """The calls without tags in prose. Code counts only where there is nothing else."""
        attempts = tuple(each for each in self.found if not each.mention)
        return tuple(each for each in attempts if not each.quoted) or attempts

    @cached_property
    def counted(self) -> tuple[FoundCall, ...]:
        """The calls that are run or reported. Tags in prose count where there is nothing else."""
        return self.attempts or self.found

    def chosen(self, which: Literal["first", "last", "all"]) -> tuple[ToolCall, ...]:
        """Choose the calls to run.

        Args:
            which: Which of several.

        Raises:
            ToolError: One of them cannot be read; the error says which. No call is run then.
        """
        counted = self.counted
        chosen = {"first": counted[:1], "last": counted[-1:], "all": counted}[which]
        calls = []
        for number, each in enumerate(chosen, 1):
            if each.call is not None:
                calls.append(each.call)
            elif len(chosen) == 1:
                raise ToolError(each.error)
            else:
                raise ToolError(
                    f"Call {number} of {len(chosen)} cannot be read, so none was run. {each.error}"
                )
        return tuple(calls)

    @property
    def start(self) -> int:
        """The place where the first call begins; the text's end if there is none."""
        return self.counted[0].start if self.counted else len(self.text)

    def after(self, answer: int) -> bool:
        """Tell whether the last call comes after an answer, or has it in itself.

        Args:
            answer: Where the answer begins; -1 if there is none.
        """
        last = (self.attempts if answer >= 0 else self.counted)[-1:]
        return any(answer < (each.end if each.closed else each.start) for each in last)

    @property
    def closing(self) -> int | None:
        """Find where the calls begin that the text ends with; None if it ends otherwise."""
        start = end = len(self.text)
        for each in reversed(self.attempts):
            if self.text[each.end : end].strip(" \n\r\t`"):
                break
            start = end = each.start
        return start if start < len(self.text) else None


def arguments_object(value: object, *, tolerant: bool = False) -> dict[str, Any] | None:
    """Read the arguments of a call in any form that models and clients give them.

    Nothing (null, or a blank text) means no arguments, and a text is read as JSON: some models
    write the arguments as a string, or as a string in a string.

    Args:
        value: The arguments.
        tolerant: Whether a text may be JSON5.

    Returns:
        The arguments; None if they are anything else.
    """
    for _ in range(3):
        if not isinstance(value, str):
            break
        if not value.strip():
            return {}
        try:
            value = parse_json(value, "text", tolerant=tolerant)
        except ToolError:
            return None
    if value is None:
        return {}
    return value if isinstance(value, dict) else None
