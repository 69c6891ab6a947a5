"""A conversation: the one type that every door converts to and the policy reads."""

from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict


class TextPart(TypedDict):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImagePart(TypedDict):
    """An image, by its reference in the store."""

    type: Literal["image"]
    image: str


class VideoPart(TypedDict):
    """Frames that the model sees as one clip, by their references, with their times in seconds."""

    type: Literal["video"]
    frames: list[str]
    times: list[float]


Part = TextPart | ImagePart | VideoPart


class Message(TypedDict):
    """A turn of the conversation.

    An assistant message keeps the token ids that the policy generated: they are what goes back
    into the context, since re-tokenising the text may give others.
    """

    role: Literal["system", "user", "assistant"]
    content: list[Part]
    token_ids: NotRequired[list[int]]


def append_messages(messages: Sequence[Message], update: Sequence[Message]) -> list[Message]:
    """Reducer: the conversation only grows."""
    return [*messages, *update]


def text(value: str) -> TextPart:
    """A text part."""
    return {"type": "text", "text": value}


def image(reference: str) -> ImagePart:
    """An image part."""
    return {"type": "image", "image": reference}


def user(*parts: Part) -> Message:
    """A user turn."""
    return {"role": "user", "content": list(parts)}
