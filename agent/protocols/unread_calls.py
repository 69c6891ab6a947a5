"""Whole turns that call a tool in a form that no protocol reads.

Where a turn without a call is the answer, such a turn would become the answer in silence.
"""

import re
from collections.abc import Collection, Mapping

from visreplay.agent.protocols.tolerant_json import parse_json
from visreplay.tools import ToolError

_FENCED = re.compile(r"\s*```\w*\s*\n(.*)\n\s*```\s*\Z", re.DOTALL)
_WRITTEN = re.compile(r"\s*(?:[A-Za-z_]\w*\.)?([A-Za-z_]\w*)\(")
_NAMES = ("name", "tool", "tool_name", "function", "action")
_ARGUMENTS = ("arguments", "args", "parameters", "params", "input", "action_input", "kwargs")


def unread_call(turn: str, tools: Collection[str]) -> str | None:
    """Find the tool that a turn calls by other means than a call: nothing else stands in the turn.

    Such a turn is `zoom(bbox_2d=[..])`, or an object or a list of objects that names one of the
    protocol's tools, or any tool beside its arguments. A code block around it does not count.

    Args:
        turn: The text of the turn after the thought.
        tools: Names of the protocol's tools.

    Returns:
        The name of the tool; None if the turn is something else.

    Examples:
        >>> unread_call('{"tool": "zoom", "args": {"bbox_2d": [0, 0, 9, 9]}}', ())
        'zoom'
    """
    text = (_FENCED.sub(r"\1", turn) if turn.lstrip().startswith("```") else turn).strip()
    written = _WRITTEN.match(text)
    if written and written[1] in tools and text.endswith(")"):
        return written[1]
    if not text.startswith(("{", "[")):
        return None
    try:
        value = parse_json(text, "turn", tolerant=True)
    except ToolError:
        return None
    for item in value if isinstance(value, list) else [value]:
        if (name := _called(item, tools)) is not None:
            return name
    return None


def _called(item: object, tools: Collection[str]) -> str | None:
    """Find the tool that an object calls."""
    if not isinstance(item, Mapping):
        return None
    for key in _NAMES:
        name = item.get(key)
        if isinstance(name, Mapping):  # {"function": {"name": .., "arguments": ..}}
            name = _called(name, tools)
        if isinstance(name, str) and (
            name in tools or (key != "name" and any(key in item for key in _ARGUMENTS))
        ):
            return name
    return None
