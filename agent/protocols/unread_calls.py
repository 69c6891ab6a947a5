"""Calls in a form that no protocol reads.

Where a turn without a call is the answer, such a turn would become the answer in silence.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from visreplay.agent.protocols.call_syntax import MAX_REREAD
from visreplay.agent.protocols.parsing import boxed
from visreplay.agent.protocols.tolerant_json import object_at
from visreplay.agent.protocols.tool_schemas import Signature

_NAMES = ("name", "tool", "tool_name", "function", "action")
_ARGUMENTS = ("arguments", "args", "parameters", "params", "input", "action_input", "kwargs")

_GROUNDING = {"bbox_2d", "label"}
"""The keys of an object that Qwen's models find in a picture: such an object is an answer."""

_STRAIGHT = {
    **dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f\u2033\xab\xbb"), '"'),
    **dict.fromkeys(map(ord, "\u2018\u2019\u201a\u201b\u2032"), "'"),
}
"""Straight quotes for curly ones."""

_OBJECT = re.compile(r"\{(?=\s*+[\"']?\w++[\"']?\s*+:)")
"""The beginning of an object that has a key; braces of mathematics have none."""

# Every gap is bounded, or gives nothing back, so that a search takes linear time.
_FORMS = r"""
    # {"tool": "zoom", even if the rest of the object cannot be read
    (?: ["']NAME["'] | \{\s{0,20}NAME ) \s{0,9} : \s{0,9} ["'](TOOL)["']
    # "name": "search", "arguments": {, even if a brace or a comma is wrong between them
  | ["']NAME["'] \s{0,9} : \s{0,9} ["'](\w{1,64})["'] [^\w"']{0,9}
    ["']WORD["'] \s{0,9} : \s{0,9} \{
    # zoom {"bbox_2d":, with a colon, a tag, a fence or a word for the arguments between them
  | \b(TOOL)\b (?: :\d{1,3} )?
    (?: ```\w{0,20} | [\s"'`*:=>,] | WORD\b | <(?!ARGUMENT>)[^<>\n]{1,40}> ){0,40}+
    (?: \{\s{0,20}["']?ARGUMENT["']?\s{0,9}: | <ARGUMENT> | ARGUMENT\s{0,9}=\s{0,9}[\[{"'\d] )
    # <function=zoom> and <tool name="zoom">
  | <\w{1,40} (?: \s{1,9}name )? \s{0,9}=\s{0,9} ["']? (TOOL) ["']? \s{0,9} /?>
    # Action: zoom, and its arguments on the next line
  | ^[^\w\n]{0,20} NAME\b [^\w\n]{1,20} (TOOL) [^\w\n]{0,20} \n
    \s{0,20} [^\w\n]{0,20} (?:WORD|ARGUMENT)\b [^\w\n]{0,9} :
    # zoom(..) as a line of its own, perhaps with its result assigned
  | ^[\s`>\[]{0,20} (?: \w{1,40}[ ]?=[ ]? )? (?: await[ ] )? (?: \w{1,40}\. ){0,3}
    (TOOL) \( INSIDE \) [\s`.;,\])]{0,20}$
    # zoom(bbox_2d=..) at the end of the turn
  | \b(TOOL) \( (?= \s{0,20} (?: ARGUMENT\s{0,9}[=:] | [\[{(] | -?[\d.]{1,20}\s{0,9}, ))
    INSIDE \) [\s`.;,\])]{0,20} (?: </\w{1,40}> \s{0,20} )? \Z
"""


def unread_call(turn: str, tools: Sequence[Signature]) -> str | None:
    r"""Find the tool that a turn calls by other means than a call.

    Such a call is an object anywhere in the turn that names one of the protocol's tools, or any
    tool beside its arguments, or that holds the arguments of one of the tools and nothing else. It
    is also the name of one of the tools with its arguments after it, as in `<function=zoom>{..}`,
    `Action: zoom` or `zoom(bbox_2d=[..])`. Quotes may be curly, and objects JSON5.

    An object of `bbox_2d` and `label` alone is an answer, since Qwen's models write so what they
    find; so is a turn with an <answer> or a \boxed{}, and prose that names a tool.

    Args:
        turn: The text of the turn after the thought.
        tools: Signatures of the protocol's tools.

    Returns:
        The name of the tool; None if the turn calls none.

    Examples:
        >>> unread_call('I look. {"tool": "zoom", "args": {"bbox_2d": [0, 0, 9, 9]}}', ())
        'zoom'
    """
    if "<answer>" in turn or boxed(turn) is not None:
        return None
    text = turn.translate(_STRAIGHT)
    parameters = {
        signature["function"]["name"]: signature["function"]["parameters"] for signature in tools
    }
    if parameters:
        arguments = {key for each in parameters.values() for key in each["properties"]}
        if mark := _forms(frozenset(parameters), frozenset(arguments)).search(text):
            return next(name for name in mark.groups() if name)
    return next(filter(None, (_called(item, parameters) for item in _objects(text))), None)


@lru_cache(maxsize=32)
def _forms(tools: Collection[str], arguments: Collection[str]) -> re.Pattern[str]:
    """Compile the forms of some tools, as they stand in a text."""
    words = {
        "NAME": f"(?i:{'|'.join(_NAMES)})",
        "WORD": f"(?i:{'|'.join(_ARGUMENTS).replace('_', '[ _]')})",
        "TOOL": "|".join(map(re.escape, tools)),
        "ARGUMENT": f"(?:{'|'.join(map(re.escape, arguments))})",
        "INSIDE": r"(?: [^()] | \([^()]*+\) )*+",
    }
    pattern = re.sub(r"[A-Z]{4,}", lambda mark: words[mark[0]], _FORMS)
    return re.compile(pattern, re.VERBOSE | re.MULTILINE)


def _objects(text: str) -> Iterator[Mapping[str, Any]]:
    """Parse the objects of a text, and those within them; a text of broken ones not to its end."""
    spent = 0
    for mark in _OBJECT.finditer(text):
        if spent > MAX_REREAD:
            return
        try:
            value, end = object_at(text, mark.start(), tolerant=True)
        except ValueError:
            spent += len(text) - mark.start()
        else:
            spent += end - mark.start()
            yield value


def _called(item: Mapping[str, Any], tools: Mapping[str, Any]) -> str | None:
    """Find the tool that an object calls; `tools` are the schemas of their parameters."""
    beside = [item[key] for key in _ARGUMENTS if key in item]
    for key in _NAMES:
        name = item.get(key)
        if not isinstance(name, str):
            continue
        # A name is often something else's; one beside an object is a tool's.
        if name in tools or (
            any(isinstance(value, Mapping) for value in beside) if key == "name" else beside
        ):
            return name
    keys = item.keys()
    for name, schema in tools.items():
        if keys == {name} and isinstance(item[name], Mapping | list):
            return name
        if keys <= schema["properties"].keys() and keys & schema["required"] and keys - _GROUNDING:
            return name
    return None
