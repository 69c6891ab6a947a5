"""Parse a model's text: thoughts, tagged bodies, JSON calls and their arguments.

The text is untrusted. Whatever is wrong with it is a `ToolError`, which the model reads.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from visreplay.agent.state import ToolCall
from visreplay.tools import ToolError
from visreplay.tools.types import preview


def split_thought(written: str) -> tuple[str, str]:
    """Split a turn into thought and rest; an unclosed <think> holds the whole turn."""
    before, closed, after = written.rpartition("</think>")
    if closed:
        return before.replace("<think>", "", 1).strip(), after
    if written.lstrip().startswith("<think>"):
        return written.replace("<think>", "", 1).strip(), ""
    outside = re.split(r"<tool_call>|<grounding>|<answer>", written, maxsplit=1)[0]
    return outside.strip(), written


def first_call(written: str) -> int:
    """Find where a turn's first call begins, after its thought; the turn's end if it has none."""
    thought = 0
    if written.lstrip().startswith("<think>"):
        thought = written.find("</think>")
    call = written.find("<tool_call>", thought) if thought >= 0 else -1
    return call if call >= 0 else len(written)


def bodies(written: str, tag: str) -> list[str]:
    """List the texts between pairs of tags.

    Raises:
        ToolError: A tag is not closed.
    """
    texts = []
    for piece in written.split(f"<{tag}>")[1:]:
        body, closed, _ = piece.partition(f"</{tag}>")
        if not closed:
            raise ToolError(f"The {tag.replace('_', ' ')} is not closed with </{tag}>.")
        texts.append(body)
    return texts


def ends_in_a_box(written: str) -> bool:
    r"""Tell whether the last \boxed{...} is not closed."""
    _, opened, last = written.rpartition(r"\boxed{")
    return bool(opened) and boxed(opened + last) is None


def parse_call(body: str, *, tolerant: bool = False) -> ToolCall:
    """Parse the JSON of a call: an object with a name and an object of arguments.

    Args:
        body: The text between the tags.
        tolerant: Whether the JSON may be as in `tolerate`.

    Raises:
        ToolError: The text is anything else.
    """
    call = parse_json(body, "tool call", tolerant=tolerant)
    if (
        not isinstance(call, dict)
        or set(call) != {"name", "arguments"}
        or not isinstance(call["name"], str)
        or not isinstance(call["arguments"], dict)
    ):
        raise ToolError(
            'A tool call is one JSON object {"name": string, "arguments": object} and nothing else.'
        )
    return ToolCall(name=call["name"], arguments=call["arguments"])


def parse_calls(written: str, *, tolerant: bool = False) -> tuple[ToolCall, ...]:
    """Parse every call of a turn.

    Args:
        written: The turn.
        tolerant: As in `parse_call`.

    Raises:
        ToolError: A call cannot be parsed; the error says which. No call is run then.
    """
    texts = bodies(written, "tool_call")
    calls = []
    for number, body in enumerate(texts, 1):
        try:
            calls.append(parse_call(body, tolerant=tolerant))
        except ToolError as error:
            if len(texts) == 1:
                raise
            raise ToolError(
                f"Call {number} of {len(texts)} cannot be read, so none was run. {error}"
            ) from error
    return tuple(calls)


def parse_json(body: str, what: str, *, tolerant: bool = False) -> Any:
    """Parse JSON; Python's NaN and Infinity are refused.

    Args:
        body: The text.
        what: Name of the text in the error.
        tolerant: Whether text that is no JSON is read again as `tolerate` rewrites it.

    Raises:
        ToolError: The text is not JSON.
    """
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        if tolerant and (rewritten := tolerate(body)) != body:
            return parse_json(rewritten, what)
        raise ToolError(f"The {what} is not valid JSON: {error}.") from error


_PIECE = re.compile(
    r"""(?P<plain>"(?:[^"\\]|\\.)*+")|'(?P<quoted>(?:[^'\\]|\\.)*+)'"""
    r"""|(?P<comma>,)(?=\s*+[}\]])|(?P<key>[A-Za-z_]\w*+)(?=\s*+:)|\w++|\\.|.""",
    re.DOTALL,
)
"""A piece of JSON5. No quantifier gives back what it took, so that reading takes linear time."""


def tolerate(body: str) -> str:
    """Rewrite the commonest forms of JSON5 as JSON.

    These are strings in single quotes, keys without quotes, and a comma after the last item.
    """

    def rewrite(piece: re.Match[str]) -> str:
        if piece["quoted"] is not None:
            quoted = re.sub(r"""\\(.)|(")""", _requote, piece["quoted"], flags=re.DOTALL)
            return f'"{quoted}"'
        if piece["key"] is not None:
            return f'"{piece["key"]}"'
        return "" if piece["comma"] else piece[0]

    return _PIECE.sub(rewrite, body)


def _requote(mark: re.Match[str]) -> str:
    """Write a quotation mark or an escape of a string for double quotes."""
    if mark[2]:
        return '\\"'
    return "'" if mark[1] == "'" else mark[0]


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON value")


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
