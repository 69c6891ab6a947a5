"""What a chat template formats: JSON, and texts by `%` and by `format`, whose length is counted."""

import json
import re
from collections.abc import Mapping
from string import Formatter
from typing import Any

from visreplay.replay_core.template_meter import METER, TemplateLimitError

_PERCENT = re.compile(r"%(?:\([^()]*\))?[-+ #0]*(\d+|\*)?(?:\.(\d+|\*))?")
_DIGITS = re.compile(r"\d+")
_WIDEST = 10_000
_REPR = 10
"""Characters of the `repr` of a value for each of its own, at most."""
_NUMBER = 400
"""Characters of the longest number without a width."""


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON as transformers' filter does, without the escapes that HTML needs."""
    meter = METER.get()
    meter.made(value)
    if indent is not None:
        if not isinstance(indent, int) or not 0 <= indent <= 16:
            raise TemplateLimitError(f"it indents JSON by {str(indent)[:20]!r}")
        meter.make(indent * _nesting(value))
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _nesting(value: Any) -> int:
    """Add up the depths of all items of a value."""
    total, depth, level = 0, 0, [value]
    while level:
        depth += 1
        total += depth * len(level)
        groups = (each.values() if isinstance(each, Mapping) else each for each in level
                  if isinstance(each, Mapping | list | tuple))  # fmt: skip
        level = [child for group in groups for child in group]
    return total


def format_percent(text: Any, *values: Any, **named: Any) -> str:
    """Fill a text by `%`: jinja's filter `format`."""
    meter = METER.get()
    form = meter.text_of(text)
    meter.make(percent_length(form, [*values, *named.values()]))
    return form % (named or values)


def percent_length(text: str, values: Any) -> int:
    """Find how long `text % values` can become.

    Raises:
        TemplateLimitError: A width is too large, or stands among the values.
    """
    places = _PERCENT.findall(text)
    return _length(text, [width for place in places for width in place], values)


def braces_length(text: str, values: Any) -> int:
    """Find how long `text.format(..)` can become.

    Raises:
        TemplateLimitError: A width is too large, or stands among the values, or the text is wrong.
    """
    try:
        specs = [spec or "" for _, name, spec, _ in Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise TemplateLimitError(f"it formats a text that is wrong: {error}") from error
    if any("{" in spec for spec in specs):
        raise TemplateLimitError("it formats with a width among the values")
    widths = [width for spec in specs for width in (_DIGITS.findall(spec) or [""])]
    return _length(text, widths, values)


def _length(text: str, widths: list[str], values: Any) -> int:
    """Add up a text, its widths, and all values at each of its places."""
    if "*" in widths:
        raise TemplateLimitError("it formats with a width among the values")
    numbers = [int(width) if len(width) < 6 else 10 * _WIDEST for width in widths if width]
    if max(numbers, default=0) > _WIDEST:
        raise TemplateLimitError(f"it formats with a width of more than {_WIDEST}")
    each = _NUMBER + _REPR * METER.get().size_of(values)
    return len(text) + sum(numbers) + len(widths) * each
