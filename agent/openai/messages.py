"""OpenAI's messages as LangChain has them, which `Interpreter` reads."""

import json
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
)

from visreplay.agent.openai import request_schema as wire


def as_messages(turns: list[wire.RequestMessage]) -> list[BaseMessage]:
    """The conversation in LangChain's messages."""
    return [_as_message(turn) for turn in turns]


def _as_message(turn: wire.RequestMessage) -> BaseMessage:
    content = _content(turn.content)
    match turn:
        case wire.SystemMessage():
            return SystemMessage(content)
        case wire.UserMessage():
            return HumanMessage(content)
        case wire.ToolMessage():
            return ToolMessage(content, tool_call_id=turn.tool_call_id)
        case wire.AssistantMessage():
            calls = [_as_call(call) for call in turn.tool_calls or ()]
            return AIMessage(
                content,
                tool_calls=[call for call in calls if call["type"] == "tool_call"],
                invalid_tool_calls=[call for call in calls if call["type"] == "invalid_tool_call"],
            )


def _content(content: str | list[Any] | None) -> Any:
    if content is None or isinstance(content, str):
        return content or ""
    return [part.model_dump(exclude_none=True) for part in content]


def _as_call(call: wire.Call) -> ToolCall | InvalidToolCall:
    try:
        arguments = json.loads(call.function.arguments)
    except (ValueError, RecursionError):
        arguments = None
    if isinstance(arguments, dict):
        return ToolCall(name=call.function.name, args=arguments, id=call.id, type="tool_call")
    return InvalidToolCall(
        name=call.function.name,
        args=call.function.arguments,
        id=call.id,
        error="the arguments are no JSON object",
        type="invalid_tool_call",
    )
