"""Render messages as the conversation that a policy reads in its protocol, and parse its replies.

Messages are untrusted. Their images and videos come as base64, as data URIs, or as `visreplay:` and
a reference into the image store; URLs and files are read only where the renderer's `Media` allows.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Any
from uuid import uuid4

from visreplay.agent.chat.media_parts import read_part
from visreplay.agent.messages import Message, Part, ToolCall, UnparsedCall, text, text_of, user
from visreplay.agent.protocols import ToolProtocol
from visreplay.agent.protocols.tool_schemas import Signature
from visreplay.tools import Media, ToolError

MAX_URI = 64 * 2**20
"""Characters of base64 that are read, unless a renderer is given another `Media`."""


class MessageError(ValueError):
    """A message that the policy cannot be shown."""


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """A reply of the policy, taken apart.

    Attributes:
        content: The text before the first call, or all of it.
        tool_calls: The calls that can be run, each with an id of its own.
        unparsed_call: All that was written from the first call on, where it cannot be read.
    """

    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    unparsed_call: UnparsedCall | None = None

    def message(self, token_ids: Sequence[int] = ()) -> Message:
        """The reply as an assistant message, with the tokens that it was generated as."""
        message: Message = {"role": "assistant", "content": [text(self.content)]}
        if self.tool_calls:
            message["tool_calls"] = list(self.tool_calls)
        if self.unparsed_call is not None:
            message["unparsed_calls"] = [self.unparsed_call]
        if token_ids:
            message["token_ids"] = list(token_ids)
        return message

    def matches(self, message: Message) -> bool:
        """Tell whether a message has the same text and calls; the ids of calls may differ."""
        ours = self.message()
        return (
            self.content == text_of(message)
            and _spelled_calls(ours) == _spelled_calls(message)
            and _unparsed_texts(ours) == _unparsed_texts(message)
        )


@dataclass(frozen=True)
class ChatRenderer:
    """Renders messages in one protocol, and parses replies in it.

    Attributes:
        protocol: How the policy calls tools and reads their results; it has the image store.
        tokenizer: The policy's tokenizer.
        media: What a message may refer to; its store is the protocol's. None reads only what is in
            the store, and what comes with the message, up to `MAX_URI` characters.

    Raises:
        ValueError: The media have another store.
    """

    protocol: ToolProtocol
    tokenizer: Any
    media: Media | None = None

    def __post_init__(self) -> None:
        """Check that images are put where the protocol finds them."""
        if self.media is not None and self.media.store is not self.protocol.store:
            raise ValueError("the media's store must be the protocol's: Media(protocol.store, ...)")

    @property
    def readable(self) -> Media:
        """The media that a message may refer to."""
        return self.media or Media(self.protocol.store, max_uri=MAX_URI)

    def parts(self, blocks: Iterable[Mapping[str, Any]]) -> list[Part]:
        """Read the untrusted blocks of a message (`media_parts`); images go into the store.

        Raises:
            MessageError: A block cannot be shown.
        """
        grids = self.protocol.grid, self.protocol.frame_grid
        try:
            return [read_part(block, self.readable, *grids) for block in blocks]
        except ToolError as error:
            raise MessageError(str(error)) from error

    def conversation(
        self, messages: Sequence[Message], tools: Sequence[Signature] = ()
    ) -> list[Message]:
        """Render a whole history as the policy reads it: system, user and assistant messages.

        Args:
            messages: The history; it ends with a message that the policy can answer.
            tools: The tools that the policy may call.

        Raises:
            MessageError: A message cannot be shown, or there is nothing to answer.
        """
        leading = list(takewhile(lambda message: message["role"] == "system", messages))
        system = self.protocol.offer(tools, "\n\n".join(map(_only_text, leading)))
        rendered: list[Message] = []
        if system:
            rendered.append({"role": "system", "content": [text(system)]})
        call_ids: list[str | None] = []
        for role, group in groupby(messages[len(leading) :], key=lambda message: message["role"]):
            if role == "assistant":
                turns = list(group)
                call_ids = [
                    call.get("id")
                    for turn in turns
                    for call in (*turn.get("tool_calls", ()), *turn.get("unparsed_calls", ()))
                ]
                rendered.append(self._assistant_turn(turns))
            elif role == "tool":
                rendered.append(self._tool_results(list(group), call_ids))
            else:
                rendered += [{"role": role, "content": message["content"]} for message in group]
        if not rendered or "assistant" in (rendered[0]["role"], rendered[-1]["role"]):
            raise MessageError(
                "the messages must begin and end with something that the policy can answer: a "
                "user's message, or the result of a tool"
            )
        return rendered

    def parse_reply(self, reply: str) -> ParsedReply:
        """Take a reply apart: its content, and its calls or the text that cannot be read as calls.

        Args:
            reply: The whole text that the policy wrote, special tokens left out.
        """
        if not self.protocol.named_calls:
            return ParsedReply(reply)
        turn = self.protocol.read(reply)
        content = reply[: turn.calls_at]
        if turn.calls:
            calls = (
                ToolCall(name=call["name"], arguments=call["arguments"], id=f"call_{uuid4().hex}")
                for call in turn.calls
            )
            return ParsedReply(content, tuple(calls))
        if turn.error is not None and content != reply:
            unparsed: UnparsedCall = {"text": reply[len(content) :], "error": turn.error}
            return ParsedReply(content, (), unparsed)
        return ParsedReply(reply)

    def first_call(self, reply: str) -> int:
        """Find where calls may begin in a reply that may be unfinished; its length if nowhere."""
        if not self.protocol.named_calls:
            return len(reply)
        return self.protocol.call_syntax.may_begin(reply)

    def _assistant_turn(self, messages: Sequence[Message]) -> Message:
        """One turn of the policy: the tokens that it generated, if they say the same.

        A message that was edited, or comes from elsewhere, is read as text.
        """
        token_ids = messages[0].get("token_ids") if len(messages) == 1 else None
        if token_ids:
            reply = self.tokenizer.decode(token_ids, skip_special_tokens=True)
            if self._says(messages[0], reply):
                return {
                    "role": "assistant",
                    "content": [text(reply)],
                    "token_ids": list(token_ids),
                }
        spelled = "\n".join(self._spelled(message) for message in messages)
        return {"role": "assistant", "content": [text(spelled)]}

    def _says(self, message: Message, reply: str) -> bool:
        """Tell whether a message is a reply: its calls parsed, or all of it as text."""
        calls = message.get("tool_calls") or message.get("unparsed_calls")
        whole = not calls and text_of(message) == reply
        return whole or self.parse_reply(reply).matches(message)

    def _spelled(self, message: Message) -> str:
        """The text of an assistant message, with its calls as the policy would write them."""
        calls = [
            self.protocol.written({"name": call["name"], "arguments": call["arguments"]})
            for call in message.get("tool_calls", ())
        ]
        return text_of(message) + "\n".join([*calls, *_unparsed_texts(message)])

    def _tool_results(self, messages: Sequence[Message], call_ids: Sequence[str | None]) -> Message:
        """The message that shows the results of tools, in the order in which they were called."""
        order = {call_id: number for number, call_id in enumerate(call_ids)}
        parts: list[Part] = []
        for message in sorted(
            messages, key=lambda message: order.get(message.get("tool_call_id"), len(order))
        ):
            if parts and self.protocol.recipe.texts.separator:
                parts.append(text(self.protocol.recipe.texts.separator))
            if message.get("is_error"):
                error = _only_text(message).removeprefix("Error: ")
                parts += self.protocol.error_parts(error)
            else:
                parts += self.protocol.framed(message["content"])
        return user(*parts)


def _only_text(message: Message) -> str:
    other = [part["type"] for part in message["content"] if part["type"] != "text"]
    if other:
        raise MessageError(
            f"a {message['role']} message of this kind has text alone, not {other[0]!r}"
        )
    return text_of(message)


def _spelled_calls(message: Message) -> list[str]:
    """Names and arguments of calls, whatever their ids."""
    return [
        json.dumps([call["name"], call["arguments"]], sort_keys=True)
        for call in message.get("tool_calls", ())
    ]


def _unparsed_texts(message: Message) -> list[str]:
    return [call["text"] for call in message.get("unparsed_calls", ())]
