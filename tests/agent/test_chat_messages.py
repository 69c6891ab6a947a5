"""LangChain's messages as the policy reads them, and its turns as LangChain has them."""

import json

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import tool_call
from shared import png

from visreplay.agent import MessageError, protocol_named
from visreplay.agent.chat_messages import Interpreter, image_block
from visreplay.agent.encoding import token_grid
from visreplay.agent.protocols.signatures import signature
from visreplay.replay_core import ModelPair
from visreplay.tools import ImageStore

RED, BLUE = png("red"), png("blue")


@pytest.fixture
def hermes(embedded_pair: ModelPair) -> Interpreter:
    protocol = protocol_named("hermes", token_grid(embedded_pair.processor), ImageStore())
    return Interpreter(protocol, embedded_pair.tokenizer)


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
def test_an_image_is_the_same_in_every_form(hermes: Interpreter, form: int) -> None:
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
        ({"type": "image", "url": "file:///etc/passwd"}, "is not fetched"),
        ({"type": "image", "url": "/etc/passwd"}, "is not fetched"),
        ({"type": "image", "url": "data:image/png,abc"}, "is not fetched"),
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
    ],
)
def test_what_cannot_be_shown_is_refused(
    hermes: Interpreter, block: dict[str, object], error: str
) -> None:
    with pytest.raises(MessageError, match=error):
        hermes.conversation([HumanMessage([block])])
    with pytest.raises(MessageError, match=error):
        hermes.conversation([HumanMessage("?"), ToolMessage([block], tool_call_id="1")])


def test_tools_are_introduced_after_the_system_messages(hermes: Interpreter) -> None:
    tool = signature("add", "Add numbers.", {"a": {"type": "number"}})
    system, asked = hermes.conversation(
        [SystemMessage("Be brief."), SystemMessage("Be right."), HumanMessage("1 + 2?")], [tool]
    )
    assert system["role"] == "system"
    assert text_of(system).startswith("Be brief.\n\nBe right.\n\n# Tools")
    assert f"<tools>\n{json.dumps(tool)}\n</tools>" in text_of(system)
    assert text_of(asked) == "1 + 2?"


def test_several_calls_of_a_turn_and_their_results_in_order(hermes: Interpreter) -> None:
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
def test_a_call_that_cannot_be_read_is_invalid(hermes: Interpreter, call: str) -> None:
    said = hermes.said("Now." + call)
    assert (said.content, said.tool_calls) == ("Now.", ())
    (invalid,) = said.invalid_tool_calls
    assert invalid["args"] == call
    assert invalid["error"]
    message = AIMessage(said.content, invalid_tool_calls=list(said.invalid_tool_calls))
    _, turn, _ = hermes.conversation([HumanMessage("?"), message, HumanMessage("Again.")])
    assert text_of(turn) == "Now." + call


def test_a_thought_about_a_call_is_none(hermes: Interpreter) -> None:
    thought = '<think>Should I <tool_call>{"name"?</think>No.'
    assert hermes.said(thought).content == thought


def test_tokens_go_back_only_if_they_say_what_the_message_says(hermes: Interpreter) -> None:
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


def test_turns_in_a_row_are_one(hermes: Interpreter) -> None:
    _, turn, _ = hermes.conversation(
        [HumanMessage("?"), AIMessage("One."), AIMessage("Two."), HumanMessage("?")]
    )
    assert text_of(turn) == "One.\nTwo."
