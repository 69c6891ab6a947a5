"""Bounds on the JSON of a request, which is counted piece by piece before it is parsed."""

import re
from dataclasses import dataclass

_TOKEN = re.compile(rb'["\[\]{}]|[^\s:,"\[\]{}]++')
_STRETCH = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
"""What a string holds, up to its end: a backslash takes the next byte with it."""
_MEDIA = b"data:"
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_%"


class JsonBoundsError(ValueError):
    """A text is beyond the bounds, or is no JSON in UTF-8.

    Attributes:
        status: The HTTP status for it.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class JsonBounds:
    """Bounds on a JSON text.

    Attributes:
        bytes: Bytes of the text, without the base64 of its data URIs.
        values: Objects, lists, strings, numbers and words; the keys of objects count too.
        depth: Objects and lists within one another.
        digits: Characters of a number. A float64 without an exponent has 309 digits at most.
    """

    bytes: int
    values: int
    depth: int = 100
    digits: int = 400


class JsonCounter:
    """Counts what a JSON text holds, and refuses one that is beyond its bounds.

    Parsing turns two bytes into a list of 56, and holds up everybody else while it lasts; counting
    keeps nothing but a few numbers. It does not check that the text is JSON, which the parser does.

    Args:
        bounds: The bounds of all that is pushed, together.

    Attributes:
        values: The values so far.
    """

    def __init__(self, bounds: JsonBounds) -> None:
        self._bounds = bounds
        self._bytes = 0
        self.values = 0
        self._depth = 0
        self._in_string = False
        self._in_media = False
        self._rest = b""  # a token that goes on in the next piece, perhaps

    def push(self, piece: bytes) -> None:
        """Count the next piece; it may end anywhere.

        Raises:
            JsonBoundsError: The text is beyond a bound.
        """
        if b"\0" in piece:
            raise JsonBoundsError(400, "the body is no JSON in UTF-8: it has a zero byte")
        self._bytes += len(piece)
        text, self._rest = self._rest + piece, b""
        at = 0
        while at < len(text):
            at = self._string(text, at) if self._in_string else self._tokens(text, at)
        if self._bytes > self._bounds.bytes:
            raise JsonBoundsError(
                413,
                f"the body has more than {self._bounds.bytes:,} bytes of JSON, not counting "
                "images and videos in base64: send less",
            )

    def _tokens(self, text: bytes, at: int) -> int:
        """Count tokens up to the next string; returns where that begins."""
        bounds = self._bounds
        for token in _TOKEN.finditer(text, at):
            start, end = token.span()
            first = text[start : start + 1]
            if first in b"]}":
                self._depth -= 1
                if self._depth < 0:
                    raise JsonBoundsError(400, "the body is no JSON: it closes more than it opens")
                continue
            if first == b'"':
                if len(text) - end < len(_MEDIA):
                    self._rest = text[start:]
                    break
            elif first in b"[{":
                self._depth += 1
                if self._depth > bounds.depth:
                    raise JsonBoundsError(
                        400, f"the body's JSON is nested in more than {bounds.depth} levels"
                    )
            elif end - start > bounds.digits:
                raise JsonBoundsError(
                    400, f"a number in the body has more than {bounds.digits} characters"
                )
            elif end == len(text):
                self._rest = text[start:]
                break
            self.values += 1
            if self.values > bounds.values:
                raise JsonBoundsError(
                    413, f"the body has more than {bounds.values:,} JSON values: send fewer"
                )
            if first == b'"':
                self._in_string = True
                self._in_media = text[end : end + len(_MEDIA)].lower() == _MEDIA
                return end
        return len(text)

    def _string(self, text: bytes, at: int) -> int:
        """Count the rest of a string; returns where it ends."""
        found = _STRETCH.match(text, at)
        end = found.end() if found else at
        if self._in_media:
            self._bytes -= end - at - len(text[at:end].translate(None, _BASE64))
        if end == len(text):
            return end
        if text[end : end + 1] == b'"':
            self._in_string = False
            return end + 1
        self._rest = text[end:]  # a backslash, whose character is in the next piece
        return len(text)
