"""Inspect's messages as ours, and back."""

import io
from base64 import b64encode
from pathlib import Path

import pytest
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentAudio,
    ContentImage,
    ContentReasoning,
    ContentText,
)
from inspect_ai.tool import ToolCall, ToolCallError, ToolFunction, ToolInfo
from PIL import Image

from visreplay.agent.chat.chat_policy import ChatPolicy
from visreplay.agent.chat.renderer import MAX_URI, ChatRenderer, MessageError
from visreplay.agent.inspect.messages import (
    Pictures,
    choice_of,
    from_inspect,
    reply_message,
    signature_of,
    step_messages,
)
from visreplay.agent.messages import Message, text, text_of
from visreplay.agent.state import Step
from visreplay.replay_core import ModelPair
from visreplay.tools import ImageStore, Media

BLUE = Image.new("RGB", (56, 56), "blue")
THOUGHT = "<think>green27 so green27</think>"
CALL = '<tool_call>{"name": "zoom", "arguments": {"bbox_2d": [2, 7, 3, 8]}}</tool_call>'


def data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode()


@pytest.fixture
def renderer(embedded_pair: ModelPair) -> ChatRenderer:
    store = ImageStore()
    media = Media(store, (Path("/"),), max_uri=MAX_URI)
    return ChatPolicy(embedded_pair, "none", "embedded", store, media=media).renderer


def converted(message: ChatMessage, renderer: ChatRenderer) -> Message:
    (ours,) = from_inspect([message], renderer)
    return ours


@pytest.mark.parametrize("form", ["data URI", "path", "relative path", "URL of a file"])
def test_an_image_is_the_same_in_every_form(
    renderer: ChatRenderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    path = tmp_path / "blue.png"
    BLUE.save(path)
    monkeypatch.chdir(tmp_path)
    names = {
        "data URI": data_uri(BLUE),
        "path": str(path),
        "relative path": "blue.png",
        "URL of a file": path.as_uri(),
    }
    content = [ContentImage(image=names[form]), ContentText(text="What is it?")]
    message = converted(ChatMessageUser(content=content), renderer)
    picture, words = message["content"]
    assert picture == {"type": "image", "image": renderer.protocol.store.put(BLUE)}
    assert words == text("What is it?")


@pytest.mark.parametrize("name", ["missing.png", "https://example.com/blue.png", "data:image/png,"])
def test_an_image_that_is_not_there_is_named(renderer: ChatRenderer, name: str) -> None:
    with pytest.raises(MessageError, match=r"missing\.png|is a URL|data"):
        converted(ChatMessageUser(content=[ContentImage(image=name)]), renderer)


def test_what_a_policy_cannot_be_shown_is_refused_by_its_type(renderer: ChatRenderer) -> None:
    message = ChatMessageUser(content=[ContentAudio(audio="a.wav", format="wav")])
    with pytest.raises(MessageError, match="'audio'; a policy is shown text, images and videos"):
        converted(message, renderer)


def test_roles_and_text(renderer: ChatRenderer) -> None:
    messages = [ChatMessageSystem(content="Be brief."), ChatMessageUser(content="Hello")]
    assert from_inspect(messages, renderer) == [
        {"role": "system", "content": [text("Be brief.")]},
        {"role": "user", "content": [text("Hello")]},
    ]


def test_a_result_and_an_error_of_a_tool(renderer: ChatRenderer) -> None:
    result = ChatMessageTool(content=[ContentImage(image=data_uri(BLUE))], tool_call_id="a")
    error = ChatMessageTool(content="", tool_call_id="b", error=ToolCallError("unknown", "No box."))
    shown, refused = from_inspect([result, error], renderer)
    assert shown["tool_call_id"] == "a" and shown["content"][0]["type"] == "image"
    assert refused["is_error"] and text_of(refused) == "No box."


def test_a_reply_goes_out_and_comes_back_word_for_word(renderer: ChatRenderer) -> None:
    reply = renderer.parse_reply(THOUGHT + CALL)
    message = reply_message(reply, "embedded")
    (call,) = message.tool_calls or []
    assert isinstance(message.content, list)
    assert message.content == [ContentReasoning(reasoning="green27 so green27")]
    assert (call.function, call.arguments) == ("zoom", {"bbox_2d": [2, 7, 3, 8]})
    back = converted(message, renderer)
    assert reply.matches(back)
    assert text_of(back) == THOUGHT


def test_the_answer_stands_apart_from_the_thought(renderer: ChatRenderer) -> None:
    reply = renderer.parse_reply(f"{THOUGHT}<answer>L</answer>")
    message = reply_message(reply, "embedded")
    assert message.text == "<answer>L</answer>"
    assert text_of(converted(message, renderer)) == f"{THOUGHT}<answer>L</answer>"


@pytest.mark.parametrize("words", ["<think>never closed", "no <think>thought</think>", ""])
def test_text_without_a_thought_at_its_beginning_is_text(
    renderer: ChatRenderer, words: str
) -> None:
    assert reply_message(renderer.parse_reply(words), "embedded").content == words


def test_a_call_that_cannot_be_read_keeps_its_text(renderer: ChatRenderer) -> None:
    reply = renderer.parse_reply(THOUGHT + "<tool_call>{zoom}</tool_call>")
    assert reply.unparsed_call is not None
    message = reply_message(reply, "embedded")
    (call,) = message.tool_calls or []
    assert call.parse_error == reply.unparsed_call["error"]
    assert reply.matches(converted(message, renderer))


def test_a_call_of_another_model_that_cannot_be_read_is_spelled(renderer: ChatRenderer) -> None:
    call = ToolCall("1", "zoom", {"box": 1}, parse_error="no JSON")
    message = converted(ChatMessageAssistant(content="", tool_calls=[call]), renderer)
    (unread,) = message["unparsed_calls"]
    assert unread["text"] == '<tool_call>{"name": "zoom", "arguments": {"box": 1}}</tool_call>'
    assert message["tool_calls"] == []


def test_tools_and_choices() -> None:
    tool = ToolInfo(name="zoom", description="Enlarge a region.")
    function = signature_of(tool)["function"]
    assert (function["name"], function["description"]) == ("zoom", "Enlarge a region.")
    assert function["parameters"]["type"] == "object"
    assert [choice_of("auto"), choice_of(ToolFunction(name="zoom"))] == ["auto", "zoom"]


def test_a_step_is_a_turn_and_a_message_for_each_call() -> None:
    store = ImageStore()
    reference = store.put(BLUE)
    step: Step = {
        "index": 0,
        "text": f"{THOUGHT}{CALL}{CALL}",
        "thought": "green27 so green27",
        "tool_calls": [
            {
                "name": "zoom",
                "arguments": {"bbox_2d": [2, 7, 3, 8]},
                "observation": {"text": "box [0, 0, 9, 9] px", "images": [reference]},
                "error": None,
            },
            {"name": "zoom", "arguments": {}, "observation": None, "error": "bbox_2d is missing"},
        ],
        "error": None,
        "replay": None,
        "seconds": 0.1,
    }
    known = {reference: ContentImage(image="blue.png")}
    turn, crop, refused = step_messages(step, len(THOUGHT), "embedded", Pictures(store, known))
    assert isinstance(turn, ChatMessageAssistant) and isinstance(crop, ChatMessageTool)
    assert turn.content == [ContentReasoning(reasoning="green27 so green27")]
    assert crop.tool_call_id == (turn.tool_calls or [])[0].id
    assert crop.content == [ContentText(text="box [0, 0, 9, 9] px"), known[reference]]
    assert isinstance(refused, ChatMessageTool) and refused.error is not None
    assert refused.error.message == "bbox_2d is missing"


def test_a_picture_of_an_episode_is_sent_along_without_loss() -> None:
    store = ImageStore()
    content = Pictures(store, {}).content(store.put(BLUE))
    assert Media(store, max_uri=MAX_URI).reference(content.image) == store.put(BLUE)
