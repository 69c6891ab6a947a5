"""Base64 and data URIs in the forms in which clients send them."""

import base64
from urllib.parse import quote

import pytest

from visreplay.tools import ToolError
from visreplay.tools.data_uri import decode_base64, is_data_uri, read_data_uri

CONTENT = bytes(range(256)) + b"\xfb\xef\xff\xfe"  # whose base64 has both + and /, and padding
DIGITS = base64.b64encode(CONTENT).decode()
URL_SAFE = base64.urlsafe_b64encode(CONTENT).decode()
LINES = base64.encodebytes(CONTENT).decode()

FORMS = {
    "standard": DIGITS,
    "URL-safe": URL_SAFE,
    "no padding": DIGITS.rstrip("="),
    "URL-safe without padding": URL_SAFE.rstrip("="),
    "too much padding": DIGITS + "==",
    "lines": LINES,
    "lines as on Windows": LINES.replace("\n", "\r\n"),
    "lines without padding": LINES.rstrip("=\n"),
    "space around it": f" \n{DIGITS}\t",
    "spaces within it": " ".join(DIGITS[at : at + 64] for at in range(0, len(DIGITS), 64)),
}


@pytest.mark.parametrize("form", FORMS)
def test_base64_in_every_form(form: str) -> None:
    assert "+" in DIGITS and "/" in DIGITS and DIGITS.endswith("=")
    assert decode_base64(FORMS[form]) == CONTENT
    assert read_data_uri(f"data:image/png;base64,{FORMS[form]}") == CONTENT
    assert read_data_uri(f"data:image/png;base64,{quote(FORMS[form], safe='')}") == CONTENT


@pytest.mark.parametrize(
    "head",
    [
        "data:image/png;base64",
        "DATA:IMAGE/PNG;BASE64",
        "Data:image/jpeg;charset=utf-8;Base64",
        "data:image/png;name=photo.png;base64",
        "data:;base64",
        "data:image/png; base64",
        " data:image/png;base64",
        "\ndata:image/png;base64",
        "data:image/png;base64;charset=utf-8",
    ],
)
def test_a_data_uri_in_every_form(head: str) -> None:
    assert is_data_uri(head)
    assert read_data_uri(f"{head},{DIGITS}") == CONTENT


def test_without_base64_the_bytes_are_percent_encoded() -> None:
    assert read_data_uri(f"data:image/png,{quote(CONTENT)}") == CONTENT
    assert read_data_uri("data:,%89\ud800") == b"\x89\xed\xa0\x80"


@pytest.mark.parametrize(
    "uri",
    [
        "data:",
        "data:,",
        "data:image/png",
        "data:image/png;base64",
        f"data:image/png;base64{DIGITS}",
        f"data:image/png,{DIGITS}",
        f"data:image/png,{URL_SAFE}",
        f"data:image/png;{DIGITS}",
    ],
)
def test_a_data_uri_that_says_too_little_is_refused(uri: str) -> None:
    with pytest.raises(ToolError, match="no base64 data URI: data:image/png;base64,"):
        read_data_uri(uri)


@pytest.mark.parametrize(
    "data",
    [
        "*",
        "A",
        "AAAAA",
        "AA=A",
        "AAAA=AAAA",
        "QUJD%",
        "QUJ\u00c4",
        "\ud800",
        DIGITS.replace("+", " ", 1),
        "====A",
    ],
)
def test_what_is_not_base64_is_refused(data: str) -> None:
    with pytest.raises(ToolError, match="the base64 cannot be decoded"):
        decode_base64(data)
    with pytest.raises(ToolError, match="the base64 cannot be decoded"):
        read_data_uri(f"data:image/png;base64,{data}")


@pytest.mark.parametrize("name", ["", "data.png", "dat:", "file:data:", "x" * 100 + "data:"])
def test_other_names_are_no_data_uris(name: str) -> None:
    assert not is_data_uri(name)
