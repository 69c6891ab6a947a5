"""Files as text: base64 and data URIs (RFC 2397), in the forms in which clients send them."""

import re
from base64 import b64decode
from urllib.parse import unquote, unquote_to_bytes

from visreplay.tools.types import ToolError, preview

_WITHOUT_PLUS_AND_SLASH = str.maketrans("-_", "+/")
_BASE64 = re.compile(r"[A-Za-z0-9+/_=\s-]*")


def is_data_uri(name: str) -> bool:
    """Tell whether a name is a data URI, well formed or not."""
    return name[:80].lstrip()[:5].lower() == "data:"


def read_data_uri(uri: str) -> bytes:
    """Decode the content of a data URI; its media type is not looked at.

    Upper and lower case are the same before the comma. The content is base64, in which characters
    may be percent-encoded, or percent-encoded bytes where the URI does not say `;base64`.

    Raises:
        ToolError: The URI cannot be decoded.
    """
    head, comma, data = uri.partition(",")
    marks = [mark.strip().lower() for mark in head.split(";")[1:]]
    if comma and "base64" in marks:
        return decode_base64(unquote(data) if "%" in data else data)
    # No picture or video is made of such characters alone: base64 that does not say so.
    if not comma or _BASE64.fullmatch(data):
        raise ToolError(f"{preview(uri)} is no base64 data URI: data:image/png;base64,...")
    return unquote_to_bytes(data.encode("utf-8", "surrogatepass"))


def decode_base64(data: str) -> bytes:
    """Decode base64, also URL-safe, without padding, or with spaces and line breaks in it.

    Raises:
        ToolError: The text is not base64.
    """
    digits = "".join(data.split())
    if "-" in digits or "_" in digits:
        digits = digits.translate(_WITHOUT_PLUS_AND_SLASH)
    # A space may be a plus sign that was lost on the way: then the length must be right.
    if " " not in data.strip():
        digits = digits.rstrip("=")
        digits += "=" * (-len(digits) % 4)
    try:
        return b64decode(digits, validate=True)
    except ValueError as error:
        raise ToolError(f"the base64 cannot be decoded: {error}") from error
