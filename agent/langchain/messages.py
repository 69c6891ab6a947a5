"""LangChain's messages as ours, and replies as LangChain's."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard
from uuid import uuid4

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.tool import invalid_tool_call, tool_call

from visreplay.agent.chat.chat_policy import ChatReply
from visreplay.agent.chat.renderer import ChatRenderer, MessageError
from visreplay.agent.messages import Message, Part, ToolCall, UnparsedCall, text
from visreplay.agent.protocols.calls import arguments_object
from visreplay.replay_core.control_tokens import special_token_ids
from visreplay.tools.media import REFERENCE

Blocks = list[str | dict[str, Any]]

TOKEN_IDS = "token_ids"
"""The key of a message's `additional_kwargs` that has the tokens that the policy generated."""


def from_langchain(
    messages: Sequence[BaseMessage],
    renderer: ChatRenderer,
    generated: Sequence[Sequence[int] | None] | None = None,
) -> list[Message]:
    """Convert LangChain's messages; their images go into the renderer's store.

    Anyone may have written the tokens that come with a message. They are taken only if they are
    words and perhaps the end of the turn: special tokens could add messages that no one sees.

    Args:
        messages: The history.
        renderer: Reads the blocks; it has the tokenizer.
        generated: The tokens of each assistant message, in place of those that come with it, from
            a source that the caller trusts. They may have special tokens. None leaves a message
            the tokens that come with it.

    Raises:
        MessageError: A message has a type or a block that the policy cannot be shown.
        ValueError: `generated` has not one entry for each assistant message.
    """
    converted = [_convert(message, renderer) for message in messages]
    if generated is not None:
        turns = [message for message in converted if message["role"] == "assistant"]
        for turn, token_ids in zip(turns, generated, strict=True):
            if token_ids is not None:
                turn["token_ids"] = list(token_ids)
    return converted


def message_parts(message: BaseMessage, renderer: ChatRenderer) -> list[Part]:
    """A message's content as parts; its images go into the renderer's store.

    Raises:
        MessageError: A block cannot be shown.
    """
    content = message.content
    items = [content] if isinstance(content, str) else content
    return renderer.parts(_typed(item, message) for item in items if item != "")


def content_blocks(parts: Sequence[Part]) -> Blocks:
    """Convert parts to LangChain's content blocks, with images by reference."""
    return [_block(part) for part in parts]


def image_block(reference: str) -> dict[str, str]:
    """The content block of an image in the store: messages, and so checkpoints, hold no pixels."""
    return {"type": "image", "url": REFERENCE + reference}


def reply_fields(reply: ChatReply, model_name: str) -> dict[str, Any]:
    """The fields of an `AIMessage` (or an `AIMessageChunk`) that has a reply.

    What a stop string cut off is in the tokens, but not in the content: the message alone is then
    read as text.
    """
    turn = reply.turn
    return {
        "content": reply.parsed.content,
        "tool_calls": [
            tool_call(name=call["name"], args=call["arguments"], id=call.get("id"))
            for call in reply.parsed.tool_calls
        ],
        "invalid_tool_calls": _invalid_calls(reply.parsed.unparsed_call),
        "additional_kwargs": {TOKEN_IDS: reply.token_ids},
        "response_metadata": {
            "model_name": model_name,
            "finish_reason": reply.finish_reason,
            "turn_finish_reason": turn.finish_reason,  # "stop" or "length", with calls too
            "replay": turn.replay,
        },
        "usage_metadata": {
            "input_tokens": turn.context_tokens,
            "output_tokens": len(reply.token_ids),
            "total_tokens": turn.context_tokens + len(reply.token_ids),
            "input_token_details": {"cache_read": turn.known_tokens},
        },
    }


def _typed(item: object, message: BaseMessage) -> Mapping[str, Any]:
    """A piece of a message's content as a block that has a type."""
    match item:
        case {"type": "non_standard", "value": Mapping() as value}:
            return value
        case Mapping() if "type" in item:
            return item
    # Others are text, or Bedrock's, which LangChain knows. Of some that have a type it changes the
    # type of the file, or moves fields.
    try:
        (block,) = HumanMessage([item]).content_blocks  # type: ignore[list-item]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MessageError(
            f"a block of a {message.type} message cannot be read: {error}"
        ) from error
    return block["value"] if block["type"] == "non_standard" else block


def _convert(message: BaseMessage, renderer: ChatRenderer) -> Message:
    match message:
        case AIMessage():
            return _assistant(message, renderer)
        case ToolMessage():
            return {
                "role": "tool",
                "content": message_parts(message, renderer),
                "tool_call_id": message.tool_call_id,
                "is_error": message.status == "error",
            }
        case HumanMessage():
            return {"role": "user", "content": message_parts(message, renderer)}
        case SystemMessage():
            return {"role": "system", "content": message_parts(message, renderer)}
    raise MessageError(f"a message of type {message.type!r} cannot be shown to the policy")


def _assistant(message: AIMessage, renderer: ChatRenderer) -> Message:
    calls = [
        ToolCall(name=call["name"], arguments=call["args"], id=call["id"] or "")
        for call in message.tool_calls
    ]
    unparsed: list[UnparsedCall] = []
    for call in message.invalid_tool_calls:
        name, written = call["name"], call["args"] or ""
        arguments = arguments_object(written) if name else None
        if name and arguments is not None:
            calls.append(ToolCall(name=name, arguments=arguments, id=call["id"] or ""))
            continue
        if name:  # of another provider: the arguments alone
            body = f'{{"name": {json.dumps(name)}, "arguments": {written}}}'
            written = renderer.protocol.tagged_call(body)
        unparsed.append(UnparsedCall(text=written, error=call["error"] or ""))
    converted: Message = {
        "role": "assistant",
        "content": [text(message.text)],
        "tool_calls": calls,
        "unparsed_calls": unparsed,
    }
    token_ids = message.additional_kwargs.get(TOKEN_IDS)
    if _are_words(token_ids, renderer.tokenizer):
        converted["token_ids"] = token_ids
    return converted


def _are_words(token_ids: object, tokenizer: Any) -> TypeGuard[list[int]]:
    """Tell whether something is a list of tokens of text, with or without the end of a turn."""
    if not isinstance(token_ids, list) or not all(type(token) is int for token in token_ids):
        return False
    special = special_token_ids(tokenizer)
    words = token_ids[:-1] if token_ids[-1:] == [tokenizer.eos_token_id] else token_ids
    return all(0 <= token < len(tokenizer) and token not in special for token in words)


def _block(part: Part) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part["type"] == "image":
        return dict(image_block(part["image"]))
    frames = [image_block(frame)["url"] for frame in part["frames"]]
    return {**part, "frames": frames}


def _invalid_calls(call: UnparsedCall | None) -> list[InvalidToolCall]:
    if call is None:
        return []
    # With its tags: LangChain would take JSON alone for a call when it adds up chunks.
    call_id = f"call_{uuid4().hex}"
    return [invalid_tool_call(name=None, args=call["text"], id=call_id, error=call["error"])]
