"""What is sent of a reply while it is written, and what it is in the end."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from visreplay.agent import get_protocol
from visreplay.agent.chat.renderer import ChatRenderer
from visreplay.agent.chat.reply_text import ReplyStream
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.protocols.call_syntax import BEGUN_OBJECT
from visreplay.replay_core import ModelPair
from visreplay.tools import ImageStore

OBJECT = '{"name": "zoom", "arguments": {}}'
CALL = f"<tool_call>{OBJECT}</tool_call>"
PIECES = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<", "<th", "ink>", "</", "<tool_"]
PIECES += ["call>", "END", "E", "ND", " ", "\n", "a", "你", "�", CALL]
PIECES += ["{", "}", '"name"', ": 1, ", '"arguments":', OBJECT, f"{OBJECT}</tool_call>"]
STOPS = [(), ("END",), ("END", "N", "</think>")]


@pytest.fixture(scope="module")
def renderer(embedded_pair: ModelPair) -> ChatRenderer:
    protocol = get_protocol("hermes", token_grid(embedded_pair.processor), ImageStore())
    return ChatRenderer(protocol, embedded_pair.tokenizer)


def tokens(renderer: ChatRenderer, pieces: list[str]) -> list[int]:
    """Each piece is tokens of its own: a tag may be one, or several."""
    encode = renderer.tokenizer.encode
    return [token for piece in pieces for token in encode(piece, add_special_tokens=False)]


def text_of(renderer: ChatRenderer, ids: list[int]) -> str:
    text: str = renderer.tokenizer.decode(ids, skip_special_tokens=True)
    return text


@given(st.lists(st.sampled_from(PIECES), max_size=30), st.sampled_from(STOPS), st.booleans())
@example(["<think>", CALL, "</think>", "a", CALL], (), True)
@example([" ", "<th", "ink>", CALL, "</", "think>", CALL], (), True)
@example(["a", "<think>", CALL, "</think>"], (), True)
@example(["<think>", "a", CALL], (), True)
@example(["<think>", CALL, "a", "</think>", "a", OBJECT], (), True)
@example(["a", OBJECT, "a"], (), True)
@example(["{", " ", '"name"', ": 1, ", "}", "a"], (), True)
@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_sent_is_never_taken_back(
    renderer: ChatRenderer, pieces: list[str], stops: tuple[str, ...], calls: bool
) -> None:
    stream = ReplyStream(renderer, stops, calls=calls)
    ids: list[int] = []
    sent = ""
    for token in tokens(renderer, pieces):
        if any(stop in text_of(renderer, ids) for stop in stops):
            break  # the policy writes no further
        ids.append(token)
        sent += stream.push(token)
        assert stream.sent == len(sent)
        # Only that is kept back which may be the beginning of something.
        text = text_of(renderer, ids)
        open_text = stream.cut(text[: renderer.first_call(text)] if calls else text)
        assert open_text.startswith(sent)
        kept = open_text[len(sent) :]
        if open_text == text:
            marks = ("<tool_call>", "</think>", *stops)
            begun = any(mark.startswith(kept.rstrip("�")) for mark in marks)
            assert begun or (calls and BEGUN_OBJECT.fullmatch(kept))
        else:
            assert not kept
    content = stream.finish(text_of(renderer, ids)).content
    assert content.startswith(sent)
    count = stream.tokens_in(len(content))
    assert text_of(renderer, ids[:count]).startswith(content)
    assert len(text_of(renderer, ids[: max(count - 1, 0)])) <= len(content)


@pytest.mark.parametrize(
    ("pieces", "sent", "names"),
    [
        (["<think>", "a", CALL], "<think>a", ["zoom"]),
        (["<think>", "a", CALL, "</think>", "b"], f"<think>a{CALL}</think>b", []),
        (["a ", OBJECT], "a ", ["zoom"]),
        (["a ", "<tool_call>", " is a tag. ", CALL], "a ", ["zoom"]),
        (["a ", '{"name": "Bob"}'], "a ", []),
        (["a ", "{b}", " c"], "a {b} c", []),
    ],
)
def test_what_is_kept_back_until_it_is_known(
    renderer: ChatRenderer, pieces: list[str], sent: str, names: list[str]
) -> None:
    stream = ReplyStream(renderer)
    ids = tokens(renderer, pieces)
    assert "".join(map(stream.push, ids)) == sent
    reply = stream.finish(text_of(renderer, ids))
    assert [call["name"] for call in reply.tool_calls] == names
    assert names or reply.content == "".join(pieces)


def test_the_cost_of_a_token_does_not_grow(
    renderer: ChatRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is decoded and searched at once stays short."""
    searched: list[int] = []
    first_call = ChatRenderer.first_call

    def counted(self: ChatRenderer, text: str) -> int:
        searched.append(len(text))
        return first_call(self, text)

    monkeypatch.setattr(ChatRenderer, "first_call", counted)
    for begun in ("<think>", "<think> <tool_call>", "a", " "):
        stream = ReplyStream(renderer, ("END",))
        for token in tokens(renderer, [begun, *(["<tool_cal", "a", "你", " ", "EN"] * 100)]):
            stream.push(token)
    assert len(searched) > 900 and max(searched) < 40


def test_a_protocol_without_named_calls_has_text_alone(embedded_pair: ModelPair) -> None:
    protocol = get_protocol("video-r1", token_grid(embedded_pair.processor), ImageStore())
    renderer = ChatRenderer(protocol, embedded_pair.tokenizer)
    stream = ReplyStream(renderer)
    ids = tokens(renderer, ["a", CALL])
    assert "".join(map(stream.push, ids)) == "a" + CALL
    assert stream.finish("a" + CALL).content == "a" + CALL
