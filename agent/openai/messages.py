"""OpenAI's messages as ours."""

import json
from collections.abc import Sequence

from visreplay.agent.chat.media_parts import fitted_image, sampled_video
from visreplay.agent.chat.renderer import ChatRenderer, MessageError
from visreplay.agent.messages import Message, Part, ToolCall, UnparsedCall, image, text
from visreplay.agent.openai import request_schema as wire
from visreplay.tools import ToolError
from visreplay.tools.media_budget import BusyMediaError


def from_openai(messages: Sequence[wire.RequestMessage], renderer: ChatRenderer) -> list[Message]:
    """Convert the messages of a request; their images go into the renderer's store.

    Raises:
        MessageError: The policy cannot be shown an image or a video.
    """
    return [_convert(message, renderer) for message in messages]


def _convert(message: wire.RequestMessage, renderer: ChatRenderer) -> Message:
    parts = _parts(message.content, renderer)
    match message:
        case wire.SystemMessage():
            return {"role": "system", "content": parts}
        case wire.UserMessage():
            return {"role": "user", "content": parts}
        case wire.ToolMessage():
            return {"role": "tool", "content": parts, "tool_call_id": message.tool_call_id}
        case wire.AssistantMessage():
            calls = [(call, _arguments(call)) for call in message.tool_calls or ()]
            return {
                "role": "assistant",
                "content": parts or _parts(message.refusal, renderer),
                "tool_calls": [
                    ToolCall(name=call.function.name, arguments=arguments, id=call.id)
                    for call, arguments in calls
                    if arguments is not None
                ],
                "unparsed_calls": [
                    UnparsedCall(
                        text=_spelled(call, renderer),
                        error="the arguments are no JSON object",
                        id=call.id,
                    )
                    for call, arguments in calls
                    if arguments is None
                ],
            }


def _parts(
    content: str | Sequence[wire.ContentPart | wire.RefusalPart] | None, renderer: ChatRenderer
) -> list[Part]:
    if not content:
        return []
    if isinstance(content, str):
        return [text(content)]
    try:
        return [_part(part, renderer) for part in content]
    except BusyMediaError:
        raise
    except ToolError as error:
        raise MessageError(str(error)) from error


def _part(part: wire.ContentPart | wire.RefusalPart, renderer: ChatRenderer) -> Part:
    match part:
        case wire.TextPart():
            return text(part.text)
        case wire.RefusalPart():
            return text(part.refusal)
        case wire.ImagePart():
            media, limits = renderer.readable, part.image_url.limits
            reference = media.reference(part.image_url.url)
            return image(fitted_image(reference, media, renderer.protocol.grid, **limits))
        case wire.VideoPart():
            grid = renderer.protocol.frame_grid
            return sampled_video(renderer.readable.video(part.video_url.url, grid=grid))


def _spelled(call: wire.Call, renderer: ChatRenderer) -> str:
    """The text of a call as the policy writes it, with arguments that are no JSON object."""
    name, arguments = json.dumps(call.function.name), call.function.arguments
    return renderer.protocol.tagged_call(f'{{"name": {name}, "arguments": {arguments}}}')


def _arguments(call: wire.Call) -> dict[str, object] | None:
    """The arguments of a call; None if their text is no JSON object. No text means none."""
    if not call.function.arguments.strip():
        return {}
    try:
        arguments = json.loads(call.function.arguments)
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) else None
