"""Messages as the policy reads them in its protocol, and replies taken apart."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from shared import png, write_clip, write_picture
from web import Server, only_here, sends

from visreplay.agent import Message, MessageError, get_protocol
from visreplay.agent.chat import renderer as chat_renderer
from visreplay.agent.chat.renderer import ChatRenderer
from visreplay.agent.messages import Part, ToolCall, image, text, text_of, user
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.protocols.tool_schemas import signature
from visreplay.replay_core import ModelPair
from visreplay.tools import ImageStore, Media
from visreplay.tools.fetch import Fetcher

RED, BLUE = png("red"), png("blue")


@pytest.fixture
def hermes(embedded_pair: ModelPair) -> ChatRenderer:
    protocol = get_protocol("hermes", token_grid(embedded_pair.processor), ImageStore())
    return ChatRenderer(protocol, embedded_pair.tokenizer)


def assistant(words: str, *calls: ToolCall, **fields: Any) -> Message:
    message = {"role": "assistant", "content": [text(words)], "tool_calls": list(calls)}
    return message | fields  # type: ignore[return-value]


def result(call_id: str, *parts: Part, is_error: bool = False) -> Message:
    return {"role": "tool", "content": [*parts], "tool_call_id": call_id, "is_error": is_error}


def system(words: str) -> Message:
    return {"role": "system", "content": [text(words)]}


ZOOM = ToolCall(name="zoom", arguments={}, id="1")


def forms(data: str) -> list[dict[str, object]]:
    """An image in every form of a block."""
    uri = f"data:image/png;base64,{data}"
    return [
        {"type": "image", "base64": data, "mime_type": "image/png"},
        {"type": "image", "url": uri},
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "image", "source_type": "base64", "data": data, "mime_type": "image/png"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
    ]


@pytest.mark.parametrize("form", range(5))
def test_an_image_is_the_same_in_every_form(hermes: ChatRenderer, form: int) -> None:
    red, blue = hermes.parts([forms(RED)[form], forms(BLUE)[form]])
    assert red["type"] == "image" and red != blue
    assert hermes.protocol.store.get(red["image"]).getpixel((0, 0)) == (255, 0, 0)
    assert hermes.parts([{"type": "image", "url": "visreplay:" + red["image"]}]) == [red]


@pytest.mark.parametrize(
    ("block", "error"),
    [
        ({"type": "image", "url": "https://example.org/a.png"}, "is not fetched"),
        ({"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}, "is not fetched"),
        ({"type": "image", "url": "file:///etc/passwd"}, "no files may be read"),
        ({"type": "image", "url": "/etc/passwd"}, "no files may be read"),
        ({"type": "image", "url": "data:image/png,abc"}, "no base64 data URI"),
        ({"type": "image", "url": "visreplay:" + 64 * "0"}, "no image"),
        ({"type": "image", "url": "visreplay:../../etc/passwd"}, "no image"),
        ({"type": "image", "base64": "?"}, "cannot be decoded"),
        ({"type": "image", "base64": "aGVsbG8="}, "not an image"),
        ({"type": "image", "base64": 7}, "neither base64 nor a URL"),
        ({"type": "image", "file_id": "f"}, "neither base64 nor a URL"),
        ({"type": "image", "source": 7}, "neither base64 nor a URL"),
        ({"type": "image_url"}, "cannot be"),
        ({"type": "image_url", "image_url": "data:image/png;base64,?"}, "cannot be decoded"),
        ({"type": "audio", "base64": "aGVsbG8="}, "'audio' cannot be shown"),
        ({"type": "text", "text": 7}, "cannot be"),
        ({"image": RED}, "None cannot be shown"),
        ({"type": "video", "frames": [], "times": []}, "0 frames"),
        ({"type": "video", "frames": ["visreplay:0"], "times": [0.0]}, "no image"),
        ({"type": "video", "frames": ["x"], "times": ["now"]}, "are seconds"),
        ({"type": "video", "frames": ["x"], "times": [10**400]}, "are seconds"),
        ({"type": "video", "frames": ["x"], "times": [0.0], "step_seconds": -1}, "0 or more"),
        ({"type": "video", "frames": [7], "times": [0.0]}, "neither base64 nor a URL"),
        ({"type": "video", "frames": ["/etc/passwd"], "times": [0.0]}, "no files may be read"),
        ({"type": "video", "frames": ["http://127.0.0.1/"], "times": [0.0]}, "is not fetched"),
        ({"type": "video", "url": "https://example.org/a.mp4"}, "is not fetched"),
        ({"type": "video", "url": "file:///etc/passwd"}, "no files may be read"),
        ({"type": "video", "url": "visreplay:" + 64 * "0"}, "no video"),
        ({"type": "video", "url": "data:video/mp4,abc"}, "no base64 data URI"),
        ({"type": "video", "base64": "?"}, "cannot be decoded"),
        ({"type": "video", "base64": "aGVsbG8="}, "not a video"),
        ({"type": "video", "base64": RED}, "not a video"),
        ({"type": "video", "file_id": "f"}, "neither base64 nor a URL"),
        ({"type": "video", "frames": 7, "times": []}, "no setting 'frames' here: two frames"),
        ({"type": "video_url", "video_url": {"url": "http://127.0.0.1/a.mp4"}}, "is not fetched"),
        ({"type": "video_url", "video_url": {"url": "/etc/passwd"}}, "no files may be read"),
        ({"type": "video_url", "video_url": {"url": 7}}, "neither base64 nor a URL"),
        ({"type": "video_url", "video_url": "data:video/mp4;base64,AAAA"}, "not a video"),
        ({"type": "video_url"}, "'video_url' cannot be"),
    ],
)
def test_a_block_that_cannot_be_shown_is_refused(
    hermes: ChatRenderer, block: dict[str, object], error: str
) -> None:
    with pytest.raises(MessageError, match=error):
        hermes.parts([block])


def video_forms(data: str) -> list[dict[str, object]]:
    """A video in every form of a block."""
    uri = f"data:video/mp4;base64,{data}"
    return [
        {"type": "video", "base64": data, "mime_type": "video/mp4"},
        {"type": "video", "url": uri},
        {"type": "video", "source_type": "base64", "data": data, "mime_type": "video/mp4"},
        {"type": "video", "source_type": "url", "url": uri},
        {"type": "video_url", "video_url": {"url": uri}},
    ]


@pytest.mark.parametrize("form", range(5))
def test_a_video_is_the_same_in_every_form(hermes: ChatRenderer, tmp_path: Path, form: int) -> None:
    path = write_clip(tmp_path / "a.mp4", [20] * 10 + [220] * 10)
    block = video_forms(base64.b64encode(path.read_bytes()).decode())[form]
    (video,) = hermes.parts([block])
    assert video["type"] == "video"
    assert video["times"] == [0.2, 0.7, 1.2, 1.7]
    store = hermes.protocol.store
    sizes = {store.get(frame).size for frame in video["frames"]}
    assert sizes == {hermes.protocol.frame_grid.fit((64, 48))} != {(64, 48)}
    shades = [store.get(frame).getpixel((0, 0)) for frame in video["frames"]]
    assert [shade[0] > 128 for shade in shades] == [False, False, True, True]  # type: ignore[index]
    frames = ["visreplay:" + frame for frame in video["frames"]]
    listed = {"type": "video", "frames": frames, "times": video["times"]}
    assert hermes.parts([listed]) == [video]
    _, _, results = hermes.conversation([user(video), assistant("", ZOOM), result("1", video)])
    assert video in results["content"]


def test_files_and_urls_are_read_where_the_media_may(
    hermes: ChatRenderer, tmp_path: Path, server: Server
) -> None:
    path = write_picture(tmp_path / "a.png", "red")
    clip = write_clip(tmp_path / "a.mp4", [20] * 10)
    server.answers |= {"/a.png": sends(path.read_bytes()), "/a.mp4": sends(clip.read_bytes())}
    store = hermes.protocol.store
    media = Media(store, (tmp_path,), fetch=Fetcher(allowed=only_here))
    reading = replace(hermes, media=media)
    urls = [server.url, f"file://{tmp_path}"]
    first, second, third, fourth = reading.parts(
        [{"type": "image_url", "image_url": {"url": url + "/a.png"}} for url in urls]
        + [{"type": "video_url", "video_url": {"url": url + "/a.mp4"}} for url in urls]
    )
    assert first == second == {"type": "image", "image": store.put(Image.open(path))}
    assert third == fourth
    assert third["type"] == "video"
    assert len(third["frames"]) == 2
    for block in ({"type": "image", "base64": RED}, {"type": "video", "base64": "AAAA"}):
        with pytest.raises(MessageError, match="at most 0 are read"):  # the limit of this media
            reading.parts([block])
    for url in (server.url + "/missing", "http://127.0.0.2/", "file:///etc/passwd"):
        with pytest.raises(MessageError):
            reading.parts([{"type": "image", "url": url}])


def test_no_more_base64_is_read_than_stated(
    hermes: ChatRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_renderer, "MAX_URI", len(RED))
    assert hermes.parts([{"type": "image", "base64": RED}])
    with pytest.raises(MessageError, match=f"at most {len(RED)} are read"):
        hermes.parts([{"type": "image", "base64": RED + "\n"}])
    with pytest.raises(MessageError, match=f"at most {len(RED)} are read"):
        hermes.parts([{"type": "video", "url": "data:;base64," + RED}])


def test_images_are_put_where_the_protocol_finds_them(hermes: ChatRenderer) -> None:
    with pytest.raises(ValueError, match="must be the protocol's"):
        replace(hermes, media=Media(ImageStore()))


def test_results_stand_in_the_frame_of_the_protocol(hermes: ChatRenderer) -> None:
    red, blue = image("a" * 64), image("b" * 64)
    question, _, results = hermes.conversation(
        [
            user(red, text("What?")),
            assistant("", ZOOM),
            result("1", blue, text("closer")),
        ]
    )
    assert question == user(red, text("What?"))
    assert results == user(
        text("<tool_response>\n"), blue, text("closer"), text("\n</tool_response>")
    )


def test_tools_are_introduced_after_the_system_messages(hermes: ChatRenderer) -> None:
    tool = signature("add", "Add numbers.", {"a": {"type": "number"}})
    introduction, question = hermes.conversation(
        [system("Be brief."), system("Be right."), user(text("1 + 2?"))], [tool]
    )
    assert introduction["role"] == "system"
    assert text_of(introduction).startswith("Be brief.\n\nBe right.\n\n# Tools")
    assert f"<tools>\n{json.dumps(tool)}\n</tools>" in text_of(introduction)
    assert text_of(question) == "1 + 2?"


def test_images_have_no_place_in_instructions_and_errors(hermes: ChatRenderer) -> None:
    picture = image("a" * 64)
    leading: Message = {"role": "system", "content": [picture]}
    with pytest.raises(MessageError, match="a system message of this kind has text alone"):
        hermes.conversation([leading, user(text("?"))])
    with pytest.raises(MessageError, match="a tool message of this kind has text alone"):
        hermes.conversation(
            [user(text("?")), assistant("", ZOOM), result("1", picture, is_error=True)]
        )


def test_several_calls_of_a_turn_and_their_results_in_order(hermes: ChatRenderer) -> None:
    reply = hermes.parse_reply(
        'Both.<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "sub", "arguments": {"b": [2]}}\n</tool_call>'
    )
    assert reply.content == "Both."
    assert [(call["name"], call["arguments"]) for call in reply.tool_calls] == [
        ("add", {"a": 1}),
        ("sub", {"b": [2]}),
    ]
    first, second = (call["id"] for call in reply.tool_calls)
    assert first != second
    _, turn, results = hermes.conversation(
        [
            user(text("?")),
            reply.message(),
            result(second, text("Error: no"), is_error=True),
            result(first, text("3")),
        ]
    )
    assert hermes.parse_reply(text_of(turn)).matches(reply.message())
    assert text_of(results) == (
        "<tool_response>\n3\n</tool_response>\n<tool_response>\nError: no\n</tool_response>"
    )


@pytest.mark.parametrize(
    "call",
    [
        '<tool_call>{"name": "add"',
        '<tool_call>{"name": "add"}</tool_call>',
        '<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
        "<tool_call></tool_call>",
    ],
)
def test_a_call_that_cannot_be_read_keeps_its_text(hermes: ChatRenderer, call: str) -> None:
    reply = hermes.parse_reply("Now." + call)
    assert (reply.content, reply.tool_calls) == ("Now.", ())
    assert reply.unparsed_call is not None
    assert reply.unparsed_call["text"] == call
    assert reply.unparsed_call["error"]
    _, turn, _ = hermes.conversation([user(text("?")), reply.message(), user(text("Again."))])
    assert text_of(turn) == "Now." + call


def test_what_stands_before_a_call_is_content(hermes: ChatRenderer) -> None:
    call = '{"name": "add", "arguments": ""}'
    for written, content in (
        (f"The <tool_call> tag. <tool_call>{call}</tool_call>", "The <tool_call> tag. "),
        (f"So: {call}", "So: "),
        (f"<think>Yes. <tool_call>{call}", "<think>Yes. "),
    ):
        reply = hermes.parse_reply(written)
        assert (reply.content, reply.tool_calls[0]["arguments"]) == (content, {})
        _, turn, _ = hermes.conversation([user(text("?")), reply.message(), user(text("?"))])
        assert hermes.parse_reply(text_of(turn)).matches(reply.message())
        assert '{"name": "add", "arguments": {}}' in text_of(turn)


def test_a_call_in_a_thought_that_went_on_is_told(hermes: ChatRenderer) -> None:
    reply = hermes.parse_reply('<think>By <tool_call>{"name": "add", "arguments": {}}, or')
    assert (reply.content, reply.tool_calls) == ("<think>By ", ())
    assert reply.unparsed_call is not None and "in the thought" in reply.unparsed_call["error"]


def test_a_thought_about_a_call_is_none(hermes: ChatRenderer) -> None:
    thought = '<think>Should I <tool_call>{"name"?</think>No.'
    assert hermes.parse_reply(thought).content == thought


def test_tokens_go_back_only_if_they_say_what_the_message_says(hermes: ChatRenderer) -> None:
    ids = hermes.tokenizer.encode("Hello", add_special_tokens=False)
    end = hermes.tokenizer.eos_token_id

    def turn(message: Message) -> Message:
        _, rendered, _ = hermes.conversation([user(text("?")), message, user(text("?"))])
        return rendered

    assert turn(assistant("Hello", token_ids=ids))["token_ids"] == ids
    assert turn(assistant("Hello", token_ids=[*ids, end]))["token_ids"] == [*ids, end]
    picture = hermes.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert turn(assistant("Hello", token_ids=[picture, *ids]))["token_ids"] == [picture, *ids]
    for edited in (
        assistant("Hello", token_ids=[]),
        assistant("Hallo", token_ids=ids),
        assistant("Hello", ZOOM, token_ids=ids),
        assistant("Hello", token_ids=ids, unparsed_calls=[{"text": "<tool_call>", "error": ""}]),
    ):
        assert "token_ids" not in turn(edited)


def test_turns_in_a_row_are_one(hermes: ChatRenderer) -> None:
    _, turn, _ = hermes.conversation(
        [user(text("?")), assistant("One."), assistant("Two."), user(text("?"))]
    )
    assert text_of(turn) == "One.\nTwo."


@pytest.mark.parametrize("messages", [[], [user(text("?")), assistant("Yes.")], [assistant("?")]])
def test_there_must_be_something_to_answer(hermes: ChatRenderer, messages: list[Message]) -> None:
    with pytest.raises(MessageError, match="must begin and end"):
        hermes.conversation(messages)
