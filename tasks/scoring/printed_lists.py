r"""Lists in cells of tables, as JSON, Python and numpy print them.

    ["24/7", "3.429"]   ('24/7', 3.429)   ['24/7' '3.429']

The last is how pandas saves a list that came from a Parquet file. Python would read it as one text,
because it joins neighbours: so no code reads these cells but this.
"""

import re

_SINGLE = r"'(?P<single>[^'\\]*+(?:\\.[^'\\]*+)*+)'"
_DOUBLE = _SINGLE.replace("'", '"').replace("single", "double")
_BARE = r"(?P<bare>[-+]?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d++)?|True|False)"
_ITEM = re.compile(
    rf"\s*+(?:[uU]?(?:{_SINGLE}|{_DOUBLE})|{_BARE})(?P<gap>\s*+,?)", re.DOTALL | re.ASCII
)
_ESCAPE = re.compile(
    r"\\(?:(?P<one>[\\'\"/abfnrtv])|x(?P<x>[\da-fA-F]{2})|u(?P<u>[\da-fA-F]{4})"
    r"|U(?P<U>00(?:0[\da-fA-F]|10)[\da-fA-F]{4}))",
    re.ASCII,
)
_CONTROLS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def printed_list(text: str) -> list[str] | None:
    """Parse a list or tuple of texts, numbers, True and False; None if the text is none.

    Numbers stay as they are written: 24 and 24.0 are two texts.
    """
    text = text.strip()
    if text[:1] + text[-1:] not in ("[]", "()"):
        return None
    inner = text[1:-1].rstrip()
    items: list[str] = []
    gaps: list[str] = []
    at = 0
    while at < len(inner):
        item = _ITEM.match(inner, at)
        if item is None:
            return None
        items.append(_value(item))
        gaps.append(item["gap"].strip() or " " * bool(item["gap"]))
        at = item.end()
    between = set(gaps[:-1])
    if "" in between or len(between) > 1:
        return None
    return None if text[0] == "(" and items and "," not in gaps else items


def _value(item: re.Match[str]) -> str:
    if item["bare"] is not None:
        return item["bare"].removesuffix(".")  # as numpy writes whole numbers: 24.
    value: str = item["single"] if item["double"] is None else item["double"]
    if "\\" not in value:
        return value
    # JSON writes a character beyond U+FFFF as a pair of surrogates.
    pairs = _ESCAPE.sub(_unescaped, value).encode("utf-16", "surrogatepass")
    return pairs.decode("utf-16", "surrogatepass")


def _unescaped(escape: re.Match[str]) -> str:
    if one := escape["one"]:
        return _CONTROLS.get(one, one)
    return chr(int(escape["x"] or escape["u"] or escape["U"], 16))
