"""LangChain's messages as ours, and the tokens that come with them."""

import base64
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.tool import tool_call
from PIL import Image
from shared import png, write_clip

from visreplay.agent import Message, MessageError, get_protocol
from visreplay.agent.chat.renderer import ChatRenderer
from visreplay.agent.langchain.messages import from_langchain, image_block
from visreplay.agent.messages import text, user
from visreplay.agent.policy.encoder import token_grid
from visreplay.replay_core import ModelPair
from visreplay.tools import ImageStore
from visreplay.tools.image import png_base64

RED = png("red")


@pytest.fixture
def hermes(embedded_pair: ModelPair) -> ChatRenderer:
    protocol = get_protocol("hermes", token_grid(embedded_pair.processor), ImageStore())
    return ChatRenderer(protocol, embedded_pair.tokenizer)


def forms(kind: str, mime_type: str, data: str) -> list[dict[str, Any]]:
    """An image or a video in every form that LangChain's users write."""
    uri = f"data:{mime_type};base64,{data}"
    return [
        {"type": kind, "base64": data, "mime_type": mime_type},
        {"type": kind, "url": uri},
        {"type": f"{kind}_url", f"{kind}_url": {"url": uri}},
        {"type": kind, "source_type": "base64", "data": data, "mime_type": mime_type},
        {"type": kind, "source_type": "url", "url": uri},
        {"type": kind, "source": {"type": "base64", "media_type": mime_type, "data": data}},
        {"type": f"{kind}_url", f"{kind}_url": uri},
        {"type": "media", "mime_type": mime_type, "data": data},
        {"type": "media", "mime_type": mime_type, "file_uri": uri},
        {"type": "file", "mime_type": mime_type, "base64": data},
        {"type": "file", "mime_type": mime_type, "url": uri},
        {"type": "file", "source_type": "base64", "mime_type": mime_type, "data": data},
        {"type": "file", "file": {"file_data": uri, "filename": "a"}},
        {"type": f"input_{kind}", f"{kind}_url": uri},
        {"type": "document", "source": {"type": "base64", "media_type": mime_type, "data": data}},
        {"type": kind, kind: uri},
        {"type": "media", "mime_type": mime_type, "data": base64.b64decode(data)},
        {"type": "non_standard", "value": {"type": f"{kind}_url", f"{kind}_url": {"url": uri}}},
    ]


FORMS = range(len(forms("image", "", "")))


@pytest.mark.parametrize("form", FORMS)
def test_an_image_is_the_same_in_every_form(hermes: ChatRenderer, form: int) -> None:
    block = forms("image", "image/png", RED)[form]
    question, result = from_langchain(
        [
            HumanMessage([block, {"type": "text", "text": "What?"}]),
            ToolMessage([block, {"type": "text", "text": "closer"}], tool_call_id="1"),
        ],
        hermes,
    )
    picture, words = question["content"]
    assert picture["type"] == "image" and words == text("What?")
    assert hermes.protocol.store.get(picture["image"]).getpixel((0, 0)) == (255, 0, 0)
    assert result == {
        "role": "tool",
        "content": [picture, text("closer")],
        "tool_call_id": "1",
        "is_error": False,
    }
    again = from_langchain([HumanMessage([image_block(picture["image"])])], hermes)
    assert again == [user(picture)]


@pytest.mark.parametrize("form", FORMS)
def test_a_video_is_the_same_in_every_form(hermes: ChatRenderer, tmp_path: Path, form: int) -> None:
    path = write_clip(tmp_path / "a.mp4", [20] * 10 + [220] * 10)
    block = forms("video", "video/mp4", base64.b64encode(path.read_bytes()).decode())[form]
    (message,) = from_langchain([HumanMessage([block])], hermes)
    (video,) = message["content"]
    assert video["type"] == "video"
    assert video["times"] == [0.2, 0.7, 1.2, 1.7]
    frames = [image_block(frame)["url"] for frame in video["frames"]]
    listed: dict[str, Any] = {"type": "video", "frames": frames, "times": video["times"]}
    assert from_langchain([HumanMessage([listed])], hermes) == [message]


@pytest.mark.parametrize(
    ("block", "error"),
    [
        ({"type": "image", "url": "https://example.org/a.png"}, "is not fetched"),
        ({"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}, "is not fetched"),
        ({"type": "image", "url": "/etc/passwd"}, "no files may be read"),
        ({"type": "image", "file_id": "f"}, "neither base64 nor a URL"),
        ({"type": "image_url"}, "cannot be"),
        ({"type": "file", "mime_type": "application/pdf", "base64": RED}, "'application/pdf'"),
        ({"type": "file", "file": {"file_id": "f"}}, "nothing says what it is"),
        (
            {"type": "image", "base64": RED, "mime_type": "image/png", "max_pixels": 0},
            "max_pixels is 0",
        ),
        ({"type": "audio", "base64": "aGVsbG8="}, "'audio' cannot be shown"),
        ({"type": "text", "text": 7}, "cannot be"),
        ({"type": "video_url", "video_url": {"url": 7}}, "neither base64 nor a URL"),
        ({"type": "video_url"}, "'video_url' cannot be"),
    ],
)
def test_a_block_that_cannot_be_shown_is_refused(
    hermes: ChatRenderer, block: dict[str, object], error: str
) -> None:
    for message in (HumanMessage([block]), ToolMessage([block], tool_call_id="1")):
        with pytest.raises(MessageError, match=error):
            from_langchain([message], hermes)


def test_blocks_without_a_type(hermes: ChatRenderer) -> None:
    bedrock = {"image": {"format": "png", "source": {"bytes": base64.b64decode(RED)}}}
    (message,) = from_langchain([HumanMessage([bedrock, {"text": "What?"}, "", "Now"])], hermes)
    picture, *words = message["content"]
    assert picture["type"] == "image"
    assert words == [text("What?"), text("Now")]
    with pytest.raises(MessageError, match="cannot be"):
        from_langchain([HumanMessage([{"image_url": {"url": "data:,"}}])], hermes)


def test_limits_of_an_image_are_held(hermes: ChatRenderer) -> None:
    """LangChain itself would move them to another place."""
    name = hermes.protocol.store.put(Image.new("RGB", (224, 224)))
    for of, url in (("uri", data_uri(name, hermes)), ("store", f"visreplay:{name}")):
        block = {"type": "image_url", "image_url": {"url": url, "max_pixels": 30_000}}
        (message,) = from_langchain([HumanMessage([block])], hermes)
        (part,) = message["content"]
        assert part["type"] == "image"
        assert hermes.protocol.store.get(part["image"]).size == (168, 168), of


def data_uri(reference: str, renderer: ChatRenderer) -> str:
    return f"data:image/png;base64,{png_base64(renderer.protocol.store.get(reference))}"


def test_a_message_of_another_kind_is_refused(hermes: ChatRenderer) -> None:
    with pytest.raises(MessageError, match="a message of type 'remove' cannot be shown"):
        from_langchain([RemoveMessage(id="1")], hermes)


def test_roles_calls_and_errors(hermes: ChatRenderer) -> None:
    call = tool_call(name="add", args={"a": 1}, id="1")
    raw = {"name": None, "args": "<tool_call>{", "id": "2", "error": "no JSON"}
    messages: list[BaseMessage] = [
        SystemMessage("Be brief."),
        AIMessage("Now.", tool_calls=[call], invalid_tool_calls=[raw]),
        ToolMessage("wrong", tool_call_id="1", status="error"),
    ]
    assert from_langchain(messages, hermes) == [
        {"role": "system", "content": [text("Be brief.")]},
        {
            "role": "assistant",
            "content": [text("Now.")],
            "tool_calls": [{"name": "add", "arguments": {"a": 1}, "id": "1"}],
            "unparsed_calls": [{"text": "<tool_call>{", "error": "no JSON"}],
        },
        {"role": "tool", "content": [text("wrong")], "tool_call_id": "1", "is_error": True},
    ]


def test_a_call_of_another_provider_keeps_its_name(hermes: ChatRenderer) -> None:
    """LangChain has the arguments as text alone where they are no JSON object."""
    calls = [
        {"name": "look", "args": arguments, "id": str(number), "error": ""}
        for number, arguments in enumerate(("", None, '"{}"', "{broken"))
    ]
    message = AIMessage("", invalid_tool_calls=calls)
    (converted,) = from_langchain([message], hermes)
    assert converted["tool_calls"] == [
        {"name": "look", "arguments": {}, "id": str(number)} for number in range(3)
    ]
    (unparsed,) = converted["unparsed_calls"]
    assert unparsed["text"] == ('<tool_call>\n{"name": "look", "arguments": {broken}\n</tool_call>')


def test_tokens_of_text_alone_are_taken_from_a_message(hermes: ChatRenderer) -> None:
    def convert(token_ids: object) -> Message:
        message = AIMessage("Hello", additional_kwargs={"token_ids": token_ids})
        (converted,) = from_langchain([message], hermes)
        return converted

    end = hermes.tokenizer.eos_token_id
    assert convert([1, 2])["token_ids"] == [1, 2]
    assert convert([1, 2, end])["token_ids"] == [1, 2, end]
    for wrong in (["a"], [True], None, "Hello", {"a": 1}, [[1]], [1.0]):
        assert "token_ids" not in convert(wrong)
    special = hermes.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|image_pad|>"])
    for forged in (*([1, token] for token in special), [end, 1], [10**9], [-1]):
        assert "token_ids" not in convert(forged)


def test_tokens_from_a_trusted_source_may_be_special(hermes: ChatRenderer) -> None:
    start = hermes.tokenizer.convert_tokens_to_ids("<|im_start|>")
    ids = [start, *hermes.tokenizer.encode("Hello", add_special_tokens=False)]
    history = [HumanMessage("?"), AIMessage("Hello"), HumanMessage("?")]
    converted = from_langchain(history, hermes, generated=[ids])
    _, turn, _ = hermes.conversation(converted)
    assert turn["token_ids"] == ids
    edited = from_langchain([HumanMessage("?"), AIMessage("Hallo")], hermes, generated=[ids])
    _, turn, _ = hermes.conversation([*edited, user(text("?"))])
    assert turn == {"role": "assistant", "content": [text("Hallo")]}
    untold = AIMessage("Hello", additional_kwargs={"token_ids": ids[1:]})
    (_, kept) = from_langchain([HumanMessage("?"), untold], hermes, generated=[None])
    assert kept["token_ids"] == ids[1:]
    with pytest.raises(ValueError, match="argument 2 is longer"):
        from_langchain(history, hermes, generated=[ids, ids])
