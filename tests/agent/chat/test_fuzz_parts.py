"""Blocks and base64 as anyone might write them: a part, or an error that tells what is wrong."""

import base64

from fuzzing import fuzzing
from hypothesis import given
from hypothesis import strategies as st
from shared import png

from visreplay.agent.chat.media_parts import read_part
from visreplay.tools import ImageStore, Media, TokenGrid, ToolError
from visreplay.tools.data_uri import decode_base64, is_data_uri, read_data_uri

RED = png("red")
GRID = TokenGrid(28, 56 * 56, 112 * 112)
WORDS = st.sampled_from(
    [
        "",
        RED,
        f"data:image/png;base64,{RED}",
        f"DATA:;base64,{RED.rstrip('=')}",
        "data:image/png;base64,AAAA",
        "data:,%89PNG",
        "image/png",
        "video/mp4",
        "low",
        "http://127.0.0.1:1/a.png",
        "/etc/passwd",
        "visreplay:" + "0" * 64,
        "\ud800",
        "\x00",
    ]
)
ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | WORDS
TYPES = ["text", "image", "image_url", "input_image", "media", "file", "input_file", "document"]
TYPES += ["text-plain", "video", "video_url", "audio", "image_urls", ""]
FIELDS = ["text", "url", "base64", "data", "file_data", "file_uri", "mime_type", "media_type"]
FIELDS += ["detail", "min_pixels", "max_pixels", "file_id", "extras", "source", "image_url"]
FIELDS += ["video_url", "file", "image", "video", "frames", "times", "step_seconds", "type", "fps"]
FIELDS += ["resized_height", "nframes", "video_metadata"]
OBJECTS = st.dictionaries(st.sampled_from(FIELDS), ODD | st.lists(ODD, max_size=2), max_size=4)
BLOCKS = st.builds(
    lambda kind, fields: {**fields, "type": kind},
    st.sampled_from(TYPES) | ODD,
    st.dictionaries(
        st.sampled_from(FIELDS), ODD | OBJECTS | st.lists(ODD | OBJECTS, max_size=2), max_size=4
    ),
)


@given(BLOCKS)
@fuzzing(300, 50_000)
def test_a_block_is_read_or_refused(block: dict[str, object]) -> None:
    media = Media(ImageStore(), max_uri=10_000)
    try:
        part = read_part(block, media, GRID, GRID)
    except ToolError as error:
        assert str(error) and len(str(error)) < 1000
    else:
        assert part["type"] in ("text", "image", "video")


@given(st.binary(max_size=60), st.data())
@fuzzing(200, 20_000)
def test_base64_keeps_every_byte(content: bytes, data: st.DataObject) -> None:
    encode = data.draw(st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]))
    digits = encode(content).decode()
    digits = data.draw(st.sampled_from([digits, digits.rstrip("=")]))
    at = data.draw(st.integers(0, len(digits)))
    digits = digits[:at] + data.draw(st.sampled_from(["", "\n", "\r\n", "\t"])) + digits[at:]
    assert decode_base64(digits) == content
    assert read_data_uri(f"data:image/png;base64,{digits}") == content


@given(st.text(max_size=40), st.text(max_size=40))
@fuzzing(200, 20_000)
def test_any_other_text_is_refused(head: str, rest: str) -> None:
    for decode, words in ((decode_base64, rest), (read_data_uri, f"data:{head},{rest}")):
        try:
            assert isinstance(decode(words), bytes)
        except ToolError as error:
            assert len(str(error)) < 1000
    assert is_data_uri(f"data:{head}")
