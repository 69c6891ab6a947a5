"""Parse a model's text: thoughts, answers in boxes, and the arguments of calls.

The text is untrusted. Whatever is wrong with it is a `ToolError`, which the model reads.
"""

import re
from collections.abc import Mapping
from typing import Any

from visreplay.tools import ToolError
from visreplay.tools.types import preview


def split_thought(written: str) -> tuple[str, str]:
    """Split a turn into thought and rest; all that follows an unclosed <think> is a thought."""
    before, closed, after = written.rpartition("</think>")
    if after.lstrip().startswith("<think>"):
        return written.replace("<think>", "", 1).strip(), ""
    if closed:
        return before.replace("<think>", "", 1).strip(), after
    outside = re.split(r"<tool_call>|<grounding>|<answer>", written, maxsplit=1)[0]
    return outside.strip(), written


def ends_in_a_box(written: str) -> bool:
    r"""Tell whether the last \boxed{...} is not closed."""
    _, opened, last = written.rpartition(r"\boxed{")
    return bool(opened) and boxed(opened + last) is None


def arguments_of(
    call: Mapping[str, Any], required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> list[Any]:
    """Take the required arguments out of a call, and check that it has no unknown ones.

    Args:
        call: The call as the model wrote it.
        required: Names of the arguments that it must have.
        optional: Names of the arguments that it may have.

    Returns:
        The values of the required arguments.

    Raises:
        ToolError: An argument is missing or unknown.
    """
    arguments = call["arguments"]
    allowed = (*required, *optional)
    unknown = sorted(set(arguments) - set(allowed))
    if unknown:
        raise ToolError(f"unknown argument {unknown[0]!r}; allowed are {', '.join(allowed)}")
    for name in required:
        if name not in arguments:
            raise ToolError(f"argument {name!r} is missing")
    return [arguments[name] for name in required]


def numbered(value: object, name: str, what: str, first: int, count: int) -> int:
    """Convert a number that the model wrote into an index from 0.

    Args:
        value: The number as the model wrote it.
        name: Name of the argument.
        what: Name of the numbered things, for the error.
        first: Number of the first thing.
        count: How many things there are.

    Raises:
        ToolError: There is no such number.
    """
    if not count:
        raise ToolError(f"{name} is {preview(value)}; there are no {what}")
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0
    if not whole or not first <= value < first + count:  # type: ignore[operator]
        raise ToolError(
            f"{name} is {preview(value)}; the {what} are numbered from {first} to "
            f"{first + count - 1}"
        )
    return int(value) - first  # type: ignore[call-overload, no-any-return]


def unknown_tool(name: str, *known: str) -> ToolError:
    """Make the error about a call to a tool that does not exist."""
    return ToolError(f"there is no tool {preview(name)}; available: {', '.join(known) or 'none'}")


def boxed(written: str) -> str | None:
    r"""Find the content of the last \boxed{...}, whose braces may nest; None if none is closed.

    The scorers of `visreplay.tasks` use it too.
    """
    open_braces: list[tuple[bool, int]] = []  # whether it is a box's, and where its content begins
    last: tuple[int, int] | None = None
    for brace in re.finditer(r"\\boxed\s{0,3}\{|\\[{}]|[{}]", written):
        if brace[0] in (r"\{", r"\}"):
            continue
        if brace[0] != "}":
            open_braces.append((brace[0] != "{", brace.end()))
        elif open_braces:
            is_box, start = open_braces.pop()
            if is_box and (last is None or start > last[0]):
                last = start, brace.start()
    return written[slice(*last)].strip() if last else None
