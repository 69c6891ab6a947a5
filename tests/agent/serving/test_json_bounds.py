"""JSON is counted before it is parsed, wherever its pieces begin and end."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visreplay.agent.serving.json_bounds import JsonBounds, JsonBoundsError, JsonCounter

BOUNDS = JsonBounds(bytes=1000, values=100, depth=10, digits=40)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["data", "data:", "data:image/png;base64,AA+/", 'DATA:\\"x', "\\", '"', "[{"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


def counted(text: bytes, size: int, bounds: JsonBounds = BOUNDS) -> str | None:
    """Push a text in pieces; returns why it is refused."""
    counter = JsonCounter(bounds)
    try:
        for start in range(0, len(text), size):
            counter.push(text[start : start + size])
    except JsonBoundsError as error:
        return f"{error.status} {error}"
    return None


def values_in(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(values_in, value.values()))
    return 1 + sum(map(values_in, value)) if isinstance(value, list) else 1


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return int(isinstance(value, dict | list)) + max(map(depth_of, inner), default=0)


def outside_media(text: str) -> int:
    """Count bytes without the base64 of data URIs, by an expression for whole strings."""

    def stripped(string: re.Match[str]) -> str:
        if string[0][1:6].lower() != "data:":
            return string[0]
        return '"' + re.sub("[A-Za-z0-9+/=]", "", string[0][1:-1]) + '"'

    return len(re.sub(r'"(?:[^"\\]|\\.)*"', stripped, text).encode())


@settings(deadline=None)
@given(VALUES, st.integers(1, 60), st.booleans(), st.sampled_from([None, 1]))
def test_counts_are_those_of_the_parsed_values(
    value: Any, size: int, ascii_only: bool, indent: int | None
) -> None:
    value = [value, None]  # so that no token is the last
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    content = text.encode("utf-8", "surrogatepass")
    measured = JsonBounds(outside_media(text), values_in(value), depth_of(value))
    assert counted(content, size, measured) is None
    fewer = JsonBounds(measured.bytes - 1, measured.values, measured.depth)
    assert "413 the body has more than" in (counted(content, size, fewer) or "")
    fewer = JsonBounds(measured.bytes, measured.values - 2, measured.depth)
    assert "JSON values" in (counted(content, size, fewer) or "")
    fewer = JsonBounds(measured.bytes, measured.values, measured.depth - 1)
    assert "400 the body's JSON is nested" in (counted(content, size, fewer) or "")


REFUSED = {
    b"[" + b"[]," * 200 + b"1]": "413 the body has more than 100 JSON values",
    b"[" + b"{}," * 200 + b"1]": "413 the body has more than 100 JSON values",
    b"[" + b'"",' * 200 + b"1]": "413 the body has more than 100 JSON values",
    b"[" + b"1," * 200 + b"1]": "413 the body has more than 100 JSON values",
    b"1 " * 200: "413 the body has more than 100 JSON values",
    b"[" * 11: "400 the body's JSON is nested in more than 10 levels",
    b'{"a":' * 11: "400 the body's JSON is nested in more than 10 levels",
    b"[]]": "400 the body is no JSON: it closes more than it opens",
    b"[" + b"7" * 41 + b"]": "400 a number in the body has more than 40 characters",
    b"[1e" + b"7" * 39 + b"]": "400 a number in the body has more than 40 characters",
    b'"' + b"a" * 1000: "413 the body has more than 1,000 bytes of JSON",
    b" " * 1001: "413 the body has more than 1,000 bytes of JSON",
    b'["data:' + b"A " * 1001: "413 the body has more than 1,000 bytes of JSON",
    b'["data:' + b"\\/" * 1001: "413 the body has more than 1,000 bytes of JSON",
    b'["data:' + "\u20ac".encode() * 1001: "413 the body has more than 1,000 bytes of JSON",
    b'["\\"data:' + b"A" * 1001: "413 the body has more than 1,000 bytes of JSON",
    "[[]]".encode("utf-16"): "400 the body is no JSON in UTF-8",
    "[[]]".encode("utf-32"): "400 the body is no JSON in UTF-8",
}


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_is_beyond_a_bound(text: bytes, size: int) -> None:
    assert (counted(text, size) or "").startswith(REFUSED[text])


@pytest.mark.parametrize("size", [3, 100_000])
def test_media_are_not_counted(size: int) -> None:
    """The slash may be escaped, as PHP does, at each 64th character say."""
    uri = "data:image/png;base64," + ("A" * 9999 + "\\/") * 10
    text = f'{{"url": "{uri}", "other": ["{uri}", 1]}}'
    assert counted(text.encode(), size) is None
    assert counted(text.replace("data:", "date:").encode(), size) is not None
