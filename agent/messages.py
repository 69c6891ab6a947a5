"""A conversation: the one type that every framework's messages are converted to.

Plain JSON values throughout, so that any LangGraph checkpointer can store them. A `ChatRenderer`
turns tool calls and tool messages into the words of the policy's protocol; what the policy reads
is the same type, with the roles system, user and assistant alone.
"""

from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypedDict


class TextPart(TypedDict):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImagePart(TypedDict):
    """An image, by its reference in the store."""

    type: Literal["image"]
    image: str


class VideoPart(TypedDict):
    """The frames of a video, by their references in the store, with their times in seconds.

    Attributes:
        frames: References of the frames.
        times: Their times from the start of the video.
        step_seconds: Seconds between two steps in time (of two frames each) that positions follow;
            absent, they follow the times.
    """

    type: Literal["video"]
    frames: list[str]
    times: list[float]
    step_seconds: NotRequired[float]


Part = TextPart | ImagePart | VideoPart


class ToolCall(TypedDict):
    """A call as the model wrote it: untrusted until a tool has checked its arguments.

    Attributes:
        name: The name of the tool.
        arguments: Its arguments.
        id: What the tool's message refers to, in conversations that have tool messages.
    """

    name: str
    arguments: dict[str, Any]
    id: NotRequired[str]


class UnparsedCall(TypedDict):
    """A call that cannot be read.

    Attributes:
        text: All that the model wrote from the first call on.
        error: Why it cannot be read.
        id: As in `ToolCall`.
    """

    text: str
    error: str
    id: NotRequired[str]


class Message(TypedDict):
    """A message of a conversation.

    Attributes:
        role: The author. What a tool gave has the role "tool".
        content: What it says and shows. In an assistant message, the text before the first call.
        token_ids: The tokens of an assistant message as the policy generated them. They go back
            into the context, since encoding the text again may give others.
        tool_calls: The calls of an assistant message.
        unparsed_calls: Those of its calls that cannot be read.
        tool_call_id: The `id` of the call that a tool message answers.
        is_error: Whether a tool message says what was wrong with the call.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: list[Part]
    token_ids: NotRequired[list[int]]
    tool_calls: NotRequired[list[ToolCall]]
    unparsed_calls: NotRequired[list[UnparsedCall]]
    tool_call_id: NotRequired[str]
    is_error: NotRequired[bool]


def append_messages(messages: Sequence[Message], update: Sequence[Message]) -> list[Message]:
    """Add messages at the end of a conversation, which only grows."""
    return [*messages, *update]


def text(value: str) -> TextPart:
    """A text part."""
    return {"type": "text", "text": value}


def image(reference: str) -> ImagePart:
    """An image part."""
    return {"type": "image", "image": reference}


def user(*parts: Part) -> Message:
    """A user message."""
    return {"role": "user", "content": list(parts)}


def text_of(message: Message) -> str:
    """All text of a message, in one piece."""
    return "".join(part["text"] for part in message["content"] if part["type"] == "text")
