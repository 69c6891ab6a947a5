"""Inspect's messages as ours, and ours as Inspect's."""

import io
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    Content,
    ContentImage,
    ContentReasoning,
    ContentText,
    ContentVideo,
)
from inspect_ai.tool import ToolCall as InspectCall
from inspect_ai.tool import ToolCallError, ToolChoice, ToolFunction, ToolInfo

from visreplay.agent.chat.renderer import ChatRenderer, MessageError, ParsedReply
from visreplay.agent.messages import Message, Part, ToolCall, UnparsedCall, text
from visreplay.agent.protocols.tool_schemas import Signature
from visreplay.agent.state import Step
from visreplay.tools import ImageStore
from visreplay.tools.data_uri import is_data_uri

UNPARSED = "unparsed"
"""The function of a call that cannot be read; its text is the argument of this name."""

_THOUGHT = ("<think>", "</think>")


def from_inspect(messages: Sequence[ChatMessage], renderer: ChatRenderer) -> list[Message]:
    """Convert Inspect's messages; their images go into the renderer's store.

    Raises:
        MessageError: The policy cannot be shown a message.
    """
    return [_convert(message, renderer) for message in messages]


def message_parts(message: ChatMessage, renderer: ChatRenderer) -> list[Part]:
    """A message's content as parts; its images go into the renderer's store.

    Raises:
        MessageError: It has something else than text, images and videos.
    """
    if isinstance(message.content, str):
        return [text(message.content)] if message.content else []
    return renderer.parts(_block(content, message.role) for content in message.content)


def signature_of(tool: ToolInfo) -> Signature:
    """The signature of a tool, as a policy reads it."""
    fields = {"name", "description", "parameters"}
    return {"type": "function", "function": tool.model_dump(include=fields, exclude_none=True)}


def choice_of(choice: ToolChoice) -> str:
    """The call that a turn has to begin with, as `offer_tools` takes it."""
    return choice.name if isinstance(choice, ToolFunction) else choice


def reply_message(reply: ParsedReply, model: str) -> ChatMessageAssistant:
    """A reply as Inspect's message. A call that cannot be read is one with a `parse_error`."""
    calls = [
        InspectCall(id=call["id"], function=call["name"], arguments=call["arguments"])
        for call in reply.tool_calls
    ]
    if (unread := reply.unparsed_call) is not None:
        arguments = {UNPARSED: unread["text"]}
        calls.append(InspectCall(_call_id(), UNPARSED, arguments, parse_error=unread["error"]))
    return ChatMessageAssistant(
        content=_with_thought(reply.content),
        tool_calls=calls or None,
        model=model,
        source="generate",
    )


def step_messages(
    step: Step, calls_at: int | None, model: str, pictures: "Pictures"
) -> list[ChatMessage]:
    """A step of an episode: the policy's turn, and the result of each of its calls.

    Args:
        step: The step; all of its calls were run.
        calls_at: Where the calls begin in its text; None if there are none.
        model: The model's name.
        pictures: The images that the calls made.
    """
    calls = [
        InspectCall(id=_call_id(), function=use["name"], arguments=use["arguments"])
        for use in step["tool_calls"]
    ]
    words = step["text"][: calls_at if calls else None]
    messages: list[ChatMessage] = [
        ChatMessageAssistant(
            content=_with_thought(words), tool_calls=calls or None, model=model, source="generate"
        )
    ]
    for call, use in zip(calls, step["tool_calls"], strict=True):
        result = ChatMessageTool(content="", tool_call_id=call.id, function=call.function)
        if use["observation"] is not None:
            images = map(pictures.content, use["observation"]["images"])
            result.content = [ContentText(text=use["observation"]["text"]), *images]
        elif use["error"] is not None:
            result.content = use["error"]
            result.error = ToolCallError("unknown", use["error"])
        messages.append(result)
    return messages


class Pictures:
    """The images of an episode as Inspect's content, each encoded once.

    Args:
        store: Has them.
        known: Those that have a name in Inspect already, by their references.
    """

    def __init__(self, store: ImageStore, known: Mapping[str, ContentImage]) -> None:
        self._store = store
        self._known = dict(known)

    def content(self, reference: str) -> ContentImage:
        """The image of a reference, as a PNG that is sent along unless it has a name."""
        if reference not in self._known:
            buffer = io.BytesIO()
            self._store.get(reference).save(buffer, "PNG")
            data = b64encode(buffer.getvalue()).decode()
            self._known[reference] = ContentImage(image=f"data:image/png;base64,{data}")
        return self._known[reference]


def local_name(name: str) -> str:
    """The name by which media are found wherever a folder is the root: a path becomes absolute."""
    return name if is_data_uri(name) or "://" in name else str(Path(name).absolute())


def _block(content: Content, role: str) -> dict[str, Any]:
    match content:
        case ContentText():
            return {"type": "text", "text": content.text}
        case ContentReasoning():
            words = (content.summary or "") if content.redacted else content.reasoning
            return {"type": "text", "text": words.join(_THOUGHT)}
        case ContentImage():
            url = local_name(content.image)
            return {"type": "image", "url": url, "detail": content.detail}
        case ContentVideo():
            return {"type": "video", "url": local_name(content.video)}
    raise MessageError(
        f"a {role} message has content of type {content.type!r}; a policy is shown text, images "
        "and videos"
    )


def _convert(message: ChatMessage, renderer: ChatRenderer) -> Message:
    parts = message_parts(message, renderer)
    match message:
        case ChatMessageAssistant():
            return _assistant(message, parts, renderer)
        case ChatMessageTool():
            result: Message = {"role": "tool", "content": parts}
            if message.tool_call_id is not None:
                result["tool_call_id"] = message.tool_call_id
            if message.error is not None:
                result |= {"content": [text(message.error.message)], "is_error": True}
            return result
    return {"role": message.role, "content": parts}


def _assistant(
    message: ChatMessageAssistant, parts: Sequence[Part], renderer: ChatRenderer
) -> Message:
    calls: list[ToolCall] = []
    unparsed: list[UnparsedCall] = []
    for call in message.tool_calls or ():
        if call.parse_error is None:
            calls.append(ToolCall(name=call.function, arguments=call.arguments, id=call.id))
            continue
        written = call.arguments.get(UNPARSED)
        if not isinstance(written, str):  # another model's
            body = {"name": call.function, "arguments": call.arguments}
            written = renderer.protocol.tagged_call(json.dumps(body))
        unparsed.append(UnparsedCall(text=written, error=call.parse_error, id=call.id))
    return {
        "role": "assistant",
        "content": list(parts),
        "tool_calls": calls,
        "unparsed_calls": unparsed,
    }


def _with_thought(words: str) -> str | list[Content]:
    """The text of a turn, a thought that it begins with apart."""
    before, after = _THOUGHT
    thought, closed, rest = words.removeprefix(before).partition(after)
    if not (words.startswith(before) and closed):
        return words
    content: list[Content] = [ContentReasoning(reasoning=thought)]
    return [*content, ContentText(text=rest)] if rest else content


def _call_id() -> str:
    return f"call_{uuid4().hex}"
