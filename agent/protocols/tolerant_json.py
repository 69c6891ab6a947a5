"""JSON as models write it: strict, or JSON5 where a protocol's framework reads that.

The text is untrusted. Reading takes time in proportion to its length.
"""

import json
import re
from typing import Any

from visreplay.tools import ToolError

MAX_DEPTH = 32
"""How deep lists and objects may nest: what takes more is no tool's arguments."""


def parse_json(body: str, what: str, *, tolerant: bool = False) -> Any:
    """Parse JSON; Python's NaN and Infinity are refused.

    Args:
        body: The text.
        what: Name of the text in the error.
        tolerant: Whether text that is no JSON is read again as JSON5.

    Raises:
        ToolError: The text is not JSON, or nests too deep.
    """
    try:
        return _checked(json.loads(body, parse_constant=_refuse_constant))
    except (ValueError, RecursionError) as error:
        if tolerant and (rewritten := tolerate(body)) != body:
            return parse_json(rewritten, what)
        raise ToolError(f"The {what} is not valid JSON: {error}.") from error


def object_at(text: str, start: int, *, tolerant: bool = False) -> tuple[Any, int]:
    """Parse the object that begins at a place, whatever follows it.

    Args:
        text: The text.
        start: Where its brace is.
        tolerant: As in `parse_json`.

    Returns:
        The object, and where it ends.

    Raises:
        ValueError: There is no whole object.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
        return _checked(value), end
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
    except ValueError:
        end = _object_end(text, start) if tolerant else 0
        if not end:
            raise
    try:
        value = json.loads(tolerate(text[start:end]), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
    return _checked(value), end


_NUMBER = r"[+-]?(?:0[xX][0-9a-fA-F]++|(?:\d++\.?+\d*+|\.\d++)(?:[eE][+-]?\d++)?+)"
_PIECE = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+')"""
    r"""|(?P<comment>//[^\n]*+|/\*(?:[^*]|\*(?!/))*+(?:\*/)?+)"""
    r"""|(?P<key>(?:[^\W\d]|\$)[\w$]*+)(?=\s*+:)"""
    rf"""|(?P<number>{_NUMBER})(?![\w.$])"""
    r"""|(?P<comma>,)|[\w$]++|\s++|\\.|.""",
    re.DOTALL,
)
"""A piece of JSON5. No quantifier gives back what it took, so that reading takes linear time."""


def tolerate(body: str) -> str:
    """Rewrite JSON5 as JSON; JSON stays as it is.

    Strings in single quotes, keys without quotes, commas after the last item, comments, and
    numbers such as `+1`, `.5`, `5.` and `0x1f`. Text that is neither comes out as neither.
    """
    pieces: list[str] = []
    last = comma = -1  # the last piece but white space, and the same if it is a comma after an item
    for piece in _PIECE.finditer(body):
        text = piece[0]
        match piece.lastgroup:
            case "comment" if text[1] == "/" or (text.endswith("*/") and len(text) > 3):
                text = " "
            case "string" if text[0] == "'" or "\\" in text:
                text = _requoted(text)
            case "key":
                text = f'"{text}"'
            case "number":
                text = _rewritten_number(text)
            case "comma":
                after_item = last >= 0 and pieces[last] not in ("{", "[", ",")
                comma = len(pieces) if after_item else -1
        if text in ("}", "]") and comma == last >= 0:
            pieces[comma] = ""
        if not text.isspace():
            last = len(pieces)
        pieces.append(text)
    return "".join(pieces)


_ESCAPE = re.compile(r'\\(?:x([0-9a-fA-F]{2})|(\r\n|.))|"', re.DOTALL)
_ESCAPES = {
    **dict.fromkeys(("\n", "\r", "\r\n", "\u2028", "\u2029"), ""),
    **{mark: f"\\{mark}" for mark in '"\\/bfnrtu'},
    "v": "\\u000b",
    "0": "\\u0000",
}
"""The JSON of a backslash and a character; with a line break after it, it is nothing."""


def _requoted(string: str) -> str:
    """Write a string of JSON5 as one of JSON."""

    def rewrite(mark: re.Match[str]) -> str:
        if mark[0] == '"':
            return '\\"'
        return f"\\u00{mark[1]}" if mark[1] else _ESCAPES.get(mark[2], mark[2])

    return f'"{_ESCAPE.sub(rewrite, string[1:-1])}"'


def _rewritten_number(text: str) -> str:
    # A blank for the plus: two numbers in a row stay two.
    sign, digits = {"-": "-", "+": " "}.get(text[0], ""), text.lstrip("+-")
    if digits[:2].lower() == "0x":
        return f"{sign}{int(digits, 16)}" if len(digits) <= 18 else text
    whole, point, rest = digits.partition(".")
    if not point:
        return sign + digits
    exponent = "" if rest[:1].isdigit() else "0"
    return f"{sign}{whole or '0'}.{exponent}{rest}"


def _object_end(text: str, start: int) -> int:
    """Find where the object that begins at a place ends; 0 if it does not."""
    depth = 0
    for piece in _PIECE.finditer(text, start):
        if piece[0] in ("{", "["):
            depth += 1
        elif piece[0] in ("}", "]"):
            depth -= 1
            if not depth:
                return piece.end()
    return 0


def _checked(value: Any) -> Any:
    """Refuse what nests too deep.

    Raises:
        ValueError: It does.
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        parents = (each for each in level if isinstance(each, dict | list))
        groups = (each.values() if isinstance(each, dict) else each for each in parents)
        level = [child for group in groups for child in group]
        if not level:
            return value
    raise ValueError(f"lists and objects nest deeper than {MAX_DEPTH}")


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON value")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
