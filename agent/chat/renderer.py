"""From LangChain's messages to the conversation that a policy reads, and from its turns back.

All of a message is untrusted. Images and clips come as base64, as data URIs, or as `visreplay:` and
a reference into the image store; URLs and files are read only where the interpreter's `Media` may.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Any
from uuid import uuid4

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.messages.tool import invalid_tool_call, tool_call

from visreplay.agent.chat.media_parts import part_of
from visreplay.agent.messages import Message, Part, text, user
from visreplay.agent.protocols import ToolProtocol
from visreplay.agent.protocols.parsing import first_call
from visreplay.agent.protocols.tool_schemas import Signature
from visreplay.tools import Media, ToolError
from visreplay.tools.media import REFERENCE

MAX_URI = 64 * 2**20
"""Characters of base64 that are read, unless an interpreter is given another `Media`."""

TOKEN_IDS = "token_ids"
"""Where a message's `additional_kwargs` keep the tokens that the policy generated."""


class MessageError(ValueError):
    """A message that the policy cannot be shown."""


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """What the policy said in a turn, in LangChain's terms.

    Attributes:
        content: What it wrote before the first call, or all of it.
        tool_calls: The calls that can be run.
        invalid_tool_calls: At most one: all that was written from the first call on, and why it
            cannot be read.
    """

    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    invalid_tool_calls: tuple[InvalidToolCall, ...] = ()

    def says(self, message: AIMessage) -> bool:
        """Whether a message says the same."""
        return (
            self.content == message.text
            and _called(self.tool_calls) == _called(message.tool_calls)
            and [call["args"] for call in self.invalid_tool_calls]
            == [call["args"] for call in message.invalid_tool_calls]
        )


@dataclass(frozen=True)
class ChatRenderer:
    """Reads LangChain's messages and the policy's turns in one dialect.

    Attributes:
        dialect: How the policy calls tools and is shown what they gave; it has the image store.
        tokenizer: The policy's.
        media: What a message may name; its store is the dialect's. None reads only what is in the
            store, and what comes with the message, up to `MAX_URI`.

    Raises:
        ValueError: If the store is another one.
    """

    dialect: ToolProtocol
    tokenizer: Any
    media: Media | None = None

    def __post_init__(self) -> None:
        """Check that images are put where the dialect finds them."""
        if self.media is not None and self.media.store is not self.dialect.store:
            raise ValueError("the media's store must be the dialect's: Media(dialect.store, ...)")

    def conversation(
        self, messages: Sequence[BaseMessage], tools: Sequence[Signature] = ()
    ) -> list[Message]:
        """The whole history as the policy reads it.

        Args:
            messages: The history; it ends with a turn that the policy can answer.
            tools: What it may call.

        Raises:
            MessageError: What is wrong with a message.
        """
        leading = list(takewhile(lambda message: isinstance(message, SystemMessage), messages))
        system = self.dialect.offer(tools, "\n\n".join(map(_only_text, leading)))
        read: list[Message] = []
        if system:
            read.append({"role": "system", "content": [text(system)]})
        order: list[str | None] = []
        for kind, group in groupby(messages[len(leading) :], key=_kind):
            if kind is AIMessage:
                turns = [message for message in group if isinstance(message, AIMessage)]
                order = [call["id"] for turn in turns for call in turn.tool_calls]
                read.append(self._turn(turns))
            elif kind is ToolMessage:
                results = [message for message in group if isinstance(message, ToolMessage)]
                read.append(self._results(results, order))
            else:
                for message in group:
                    role = "user" if kind is HumanMessage else "system"
                    read.append({"role": role, "content": self.parts(message)})  # type: ignore[typeddict-item]
        if not read or read[0]["role"] == "assistant" or read[-1]["role"] == "assistant":
            raise MessageError(
                "the messages must begin and end with something that the policy can answer: a "
                "human's message, or what a tool gave"
            )
        return read

    @property
    def protocol(self) -> ToolProtocol:
        """The protocol in which tools are called."""
        return self.dialect

    def parse_reply(self, written: str) -> ParsedReply:
        """Parse a whole reply."""
        return self.said(written)

    def said(self, written: str) -> ParsedReply:
        """What the policy said in a turn."""
        start = self.first_call(written)
        if start == len(written):
            return ParsedReply(written)
        turn = self.dialect.read(written)
        if turn.calls:
            calls = [
                tool_call(name=call["name"], args=call["arguments"], id=_new_id())
                for call in turn.calls
            ]
            return ParsedReply(written[:start], tuple(calls))
        if turn.error is not None:
            # With its tags: LangChain would take JSON alone for a call when it adds up chunks.
            raw = invalid_tool_call(name=None, args=written[start:], id=_new_id(), error=turn.error)
            return ParsedReply(written[:start], (), (raw,))
        return ParsedReply(written)

    def first_call(self, written: str) -> int:
        """Where calls begin in a turn, of which there may be only the beginning so far."""
        return first_call(written) if self.dialect.named_calls else len(written)

    def _turn(self, messages: Sequence[AIMessage]) -> Message:
        """One turn of the policy's: the tokens that it generated, if they say the same.

        A message that was edited, or comes from elsewhere, is read as text.
        """
        ids = self._generated(messages[0]) if len(messages) == 1 else None
        if ids is not None:
            written = self.tokenizer.decode(ids, skip_special_tokens=True)
            if self.said(written).says(messages[0]):
                return {"role": "assistant", "content": [text(written)], "token_ids": ids}
        spelled = "\n".join(self._spelled(message) for message in messages)
        return {"role": "assistant", "content": [text(spelled)]}

    def _generated(self, message: AIMessage) -> list[int] | None:
        """The message's tokens; None if they are not such as the policy generates for a text."""
        ids = message.additional_kwargs.get(TOKEN_IDS)
        if not isinstance(ids, list) or not ids or not all(type(token) is int for token in ids):
            return None
        special = set(self.tokenizer.all_special_ids)
        body = ids[:-1] if ids[-1] == self.tokenizer.eos_token_id else ids
        known = all(0 <= token < len(self.tokenizer) and token not in special for token in body)
        return list(ids) if known else None

    def _spelled(self, message: AIMessage) -> str:
        calls = [
            self.dialect.written({"name": call["name"], "arguments": call["args"]})
            for call in message.tool_calls
        ]
        raw = [call["args"] or "" for call in message.invalid_tool_calls]
        return message.text + "\n".join([*calls, *raw])

    def _results(self, messages: Sequence[ToolMessage], order: Sequence[str | None]) -> Message:
        """The turn that shows what tools gave, in the order in which they were called."""
        places = {call: place for place, call in enumerate(order)}
        parts: list[Part] = []
        for message in sorted(messages, key=lambda m: places.get(m.tool_call_id, len(places))):
            if parts and self.dialect.separator:
                parts.append(text(self.dialect.separator))
            if message.status == "error":
                parts += self.dialect.error_parts(_only_text(message).removeprefix("Error: "))
            else:
                parts += self.dialect.framed(self.parts(message))
        return user(*parts)

    def parts(self, message: BaseMessage) -> list[Part]:
        """A message's content, its images put in the store.

        Raises:
            MessageError: What is wrong with it.
        """
        media = self.media or Media(self.dialect.store, max_uri=MAX_URI)
        try:
            return [part_of(block, media, self.dialect.frame_grid) for block in _blocks(message)]
        except ToolError as error:
            raise MessageError(str(error)) from error


def image_block(reference: str) -> dict[str, str]:
    """The content block of an image in the store: messages, and so checkpoints, hold no pixels."""
    return {"type": "image", "url": REFERENCE + reference}


def _blocks(message: BaseMessage) -> list[Mapping[str, Any]]:
    """A message's content in LangChain's standard blocks, whichever provider's form it has."""
    try:
        return list(message.content_blocks)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MessageError(
            f"a block of a {message.type} message cannot be read: {error}"
        ) from error


def _only_text(message: BaseMessage) -> str:
    other = [block.get("type") for block in _blocks(message) if block.get("type") != "text"]
    if other:
        raise MessageError(
            f"a {message.type} message of this kind has text alone, not {other[0]!r}"
        )
    return message.text


def _kind(message: BaseMessage) -> type[BaseMessage]:
    for kind in (AIMessage, ToolMessage, HumanMessage, SystemMessage):
        if isinstance(message, kind):
            return kind
    raise MessageError(f"a message of type {message.type!r} cannot be shown to the policy")


def _called(calls: Sequence[ToolCall]) -> list[str]:
    """Names and arguments, whatever their ids."""
    return [json.dumps([call["name"], call["args"]], sort_keys=True) for call in calls]


def _new_id() -> str:
    return f"call_{uuid4().hex}"
