"""LangChain's messages as the policy reads them, and its turns as LangChain has them."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import tool_call
from PIL import Image
from shared import png, write_clip, write_picture
from web import Server, only_here, sends

from visreplay.agent import MessageError, get_protocol
from visreplay.agent.chat import renderer as chat_messages
from visreplay.agent.chat.renderer import ChatRenderer, image_block
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


def text_of(message: object) -> str:
    return "".join(part.get("text", "#") for part in message["content"])  # type: ignore[index]


def forms(data: str) -> list[dict[str, object]]:
    """An image in every form that LangChain's users write."""
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
    red, blue = forms(RED)[form], forms(BLUE)[form]
    call = tool_call(name="zoom", args={}, id="1")
    asked, _, result = hermes.conversation(
        [
            HumanMessage([red, {"type": "text", "text": "What?"}]),
            AIMessage("", tool_calls=[call]),
            ToolMessage([blue, {"type": "text", "text": "closer"}], tool_call_id="1"),
        ]
    )
    assert asked["content"][0]["image"] != result["content"][1]["image"]  # type: ignore[typeddict-item]
    reference = asked["content"][0]["image"]  # type: ignore[typeddict-item]
    assert hermes.dialect.store.get(reference).getpixel((0, 0)) == (255, 0, 0)
    assert text_of(asked) == "#What?"
    assert text_of(result) == "<tool_response>\n#closer\n</tool_response>"
    (again,) = hermes.conversation([HumanMessage([image_block(reference)])])
    assert again["content"][0] == asked["content"][0]


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
        ({"type": "image_url"}, "cannot be"),
        ({"type": "image_url", "image_url": "data:image/png;base64," + RED}, "cannot be"),
        ({"type": "audio", "base64": "aGVsbG8="}, "'audio' cannot be shown"),
        ({"type": "text", "text": 7}, "cannot be"),
        ({"type": "video", "frames": [], "times": []}, "0 frames"),
        ({"type": "video", "frames": ["visreplay:0"], "times": [0.0]}, "no image"),
        ({"type": "video", "frames": ["x"], "times": ["now"]}, "are seconds"),
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
        ({"type": "video", "frames": 7, "times": []}, "neither base64 nor a URL"),
        ({"type": "video_url", "video_url": {"url": "http://127.0.0.1/a.mp4"}}, "is not fetched"),
        ({"type": "video_url", "video_url": {"url": "/etc/passwd"}}, "no files may be read"),
        ({"type": "video_url", "video_url": {"url": 7}}, "neither base64 nor a URL"),
        ({"type": "video_url", "video_url": "data:video/mp4;base64,AAAA"}, "'video_url' cannot be"),
        ({"type": "video_url"}, "'video_url' cannot be"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    hermes: ChatRenderer, block: dict[str, object], error: str
) -> None:
    with pytest.raises(MessageError, match=error):
        hermes.conversation([HumanMessage([block])])
    with pytest.raises(MessageError, match=error):
        hermes.conversation([HumanMessage("?"), ToolMessage([block], tool_call_id="1")])


def clip_forms(data: str) -> list[dict[str, object]]:
    """A clip in every form."""
    uri = f"data:video/mp4;base64,{data}"
    return [
        {"type": "video", "base64": data, "mime_type": "video/mp4"},
        {"type": "video", "url": uri},
        {"type": "video", "source_type": "base64", "data": data, "mime_type": "video/mp4"},
        {"type": "video", "source_type": "url", "url": uri},
        {"type": "video_url", "video_url": {"url": uri}},
    ]


@pytest.mark.parametrize("form", range(5))
def test_a_clip_is_the_same_in_every_form(hermes: ChatRenderer, tmp_path: Path, form: int) -> None:
    path = write_clip(tmp_path / "a.mp4", [20] * 10 + [220] * 10)
    block = clip_forms(base64.b64encode(path.read_bytes()).decode())[form]
    asked, _, result = hermes.conversation(
        [
            HumanMessage([block, {"type": "text", "text": "What?"}]),
            AIMessage("", tool_calls=[tool_call(name="zoom", args={}, id="1")]),
            ToolMessage([block], tool_call_id="1"),
        ]
    )
    clip: Any = asked["content"][0]
    assert clip["type"] == "video"
    assert clip["times"] == [0.2, 0.7, 1.2, 1.7]
    sizes = {hermes.dialect.store.get(frame).size for frame in clip["frames"]}
    assert sizes == {hermes.dialect.frame_grid.fit((64, 48))} != {(64, 48)}
    shades = [hermes.dialect.store.get(frame).getpixel((0, 0)) for frame in clip["frames"]]
    assert [shade[0] > 128 for shade in shades] == [False, False, True, True]  # type: ignore[index]
    assert clip in result["content"]
    frames = ["visreplay:" + frame for frame in clip["frames"]]
    shown = {"type": "video", "frames": frames, "times": clip["times"]}
    (again,) = hermes.conversation([HumanMessage([shown])])
    assert again["content"] == [clip]


def test_files_and_urls_are_read_where_the_media_may(
    hermes: ChatRenderer, tmp_path: Path, server: Server
) -> None:
    path = write_picture(tmp_path / "a.png", "red")
    clip = write_clip(tmp_path / "a.mp4", [20] * 10)
    server.answers |= {"/a.png": sends(path.read_bytes()), "/a.mp4": sends(clip.read_bytes())}
    store = hermes.dialect.store
    media = Media(store, (tmp_path,), fetch=Fetcher(allowed=only_here))
    reading = replace(hermes, media=media)
    urls = [server.url, f"file://{tmp_path}"]
    (asked,) = reading.conversation(
        [
            HumanMessage(
                [{"type": "image_url", "image_url": {"url": url + "/a.png"}} for url in urls]
                + [{"type": "video_url", "video_url": {"url": url + "/a.mp4"}} for url in urls]
            )
        ]
    )
    first, second, third, fourth = asked["content"]
    assert first == second == {"type": "image", "image": store.put(Image.open(path))}
    assert third == fourth
    assert third["type"] == "video"
    assert len(third["frames"]) == 2
    for block in ({"type": "image", "base64": RED}, {"type": "video", "base64": "AAAA"}):
        with pytest.raises(MessageError, match="at most 0 are read"):  # as this media has it
            reading.conversation([HumanMessage([block])])
    for url in (server.url + "/missing", "http://127.0.0.2/", "file:///etc/passwd"):
        with pytest.raises(MessageError):
            reading.conversation([HumanMessage([{"type": "image", "url": url}])])


def test_no_more_base64_is_read_than_stated(
    hermes: ChatRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_messages, "MAX_URI", len(RED))
    assert hermes.conversation([HumanMessage([{"type": "image", "base64": RED}])])
    with pytest.raises(MessageError, match=f"at most {len(RED)} are read"):
        hermes.conversation([HumanMessage([{"type": "image", "base64": RED + "\n"}])])
    with pytest.raises(MessageError, match=f"at most {len(RED)} are read"):
        hermes.conversation([HumanMessage([{"type": "video", "url": "data:;base64," + RED}])])


def test_images_are_put_where_the_dialect_finds_them(hermes: ChatRenderer) -> None:
    with pytest.raises(ValueError, match="must be the dialect's"):
        replace(hermes, media=Media(ImageStore()))


def test_tools_are_introduced_after_the_system_messages(hermes: ChatRenderer) -> None:
    tool = signature("add", "Add numbers.", {"a": {"type": "number"}})
    system, asked = hermes.conversation(
        [SystemMessage("Be brief."), SystemMessage("Be right."), HumanMessage("1 + 2?")], [tool]
    )
    assert system["role"] == "system"
    assert text_of(system).startswith("Be brief.\n\nBe right.\n\n# Tools")
    assert f"<tools>\n{json.dumps(tool)}\n</tools>" in text_of(system)
    assert text_of(asked) == "1 + 2?"


def test_several_calls_of_a_turn_and_their_results_in_order(hermes: ChatRenderer) -> None:
    said = hermes.said(
        'Both.<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "sub", "arguments": {"b": [2]}}\n</tool_call>'
    )
    assert said.content == "Both."
    assert [(call["name"], call["args"]) for call in said.tool_calls] == [
        ("add", {"a": 1}),
        ("sub", {"b": [2]}),
    ]
    first, second = said.tool_calls
    assert first["id"] != second["id"]
    _, turn, results = hermes.conversation(
        [
            HumanMessage("?"),
            AIMessage(said.content, tool_calls=list(said.tool_calls)),
            ToolMessage("Error: no", tool_call_id=second["id"] or "", status="error"),
            ToolMessage("3", tool_call_id=first["id"] or ""),
        ]
    )
    assert hermes.said(text_of(turn)).says(AIMessage("Both.", tool_calls=list(said.tool_calls)))
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
def test_a_call_that_cannot_be_read_is_invalid(hermes: ChatRenderer, call: str) -> None:
    said = hermes.said("Now." + call)
    assert (said.content, said.tool_calls) == ("Now.", ())
    (invalid,) = said.invalid_tool_calls
    assert invalid["args"] == call
    assert invalid["error"]
    message = AIMessage(said.content, invalid_tool_calls=list(said.invalid_tool_calls))
    _, turn, _ = hermes.conversation([HumanMessage("?"), message, HumanMessage("Again.")])
    assert text_of(turn) == "Now." + call


def test_a_thought_about_a_call_is_none(hermes: ChatRenderer) -> None:
    thought = '<think>Should I <tool_call>{"name"?</think>No.'
    assert hermes.said(thought).content == thought


def test_tokens_go_back_only_if_they_say_what_the_message_says(hermes: ChatRenderer) -> None:
    ids = hermes.tokenizer.encode("Hello", add_special_tokens=False)
    end = hermes.tokenizer.eos_token_id

    def turn(content: str, token_ids: object) -> dict[str, object]:
        message = AIMessage(content, additional_kwargs={"token_ids": token_ids})
        _, read, _ = hermes.conversation([HumanMessage("?"), message, HumanMessage("?")])
        assert text_of(read) == content
        return dict(read)

    assert turn("Hello", ids)["token_ids"] == ids
    assert turn("Hello", [*ids, end])["token_ids"] == [*ids, end]
    picture = hermes.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    for wrong in ([*ids, picture], [end, *ids], [10**9], [-1], [], ["a"], [True], None, "Hello"):
        assert "token_ids" not in turn("Hello", wrong)
    assert "token_ids" not in turn("Hallo", ids)


def test_turns_in_a_row_are_one(hermes: ChatRenderer) -> None:
    _, turn, _ = hermes.conversation(
        [HumanMessage("?"), AIMessage("One."), AIMessage("Two."), HumanMessage("?")]
    )
    assert text_of(turn) == "One.\nTwo."
