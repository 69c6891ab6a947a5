"""Which tools a turn is offered, and which call is forced."""

from collections.abc import Sequence
from typing import Any

from visreplay.agent.chat.renderer import ChatRenderer
from visreplay.agent.protocols.tool_schemas import Signature

ToolChoice = str | bool | dict[str, Any] | None
"""What LangChain's and OpenAI's clients say: which call is forced, if any."""


def choice_of(choice: ToolChoice, tools: Sequence[Signature]) -> str:
    """Which call is forced: "auto", "none", "any", or the name of one of the tools.

    Raises:
        ValueError: If it is none of these.
    """
    names = _names(tools)
    if isinstance(choice, dict):
        choice = choice.get("function", choice).get("name")
    if choice is None or choice is False or choice == "auto":
        return "auto"
    if choice == "none":
        return "none"
    if choice in (True, "any", "required") and names:
        return "any"
    if choice not in names:
        raise ValueError(f"tool_choice is {choice!r}; the tools are {', '.join(names) or 'none'}")
    return str(choice)


def offered(
    interpreter: ChatRenderer, tools: Sequence[Signature], choice: ToolChoice
) -> tuple[Sequence[Signature], str]:
    """The tools that the policy is shown, and the words that its turn has to begin with.

    Raises:
        ValueError: If the choice is none of the tools, or cannot be forced in the dialect.
    """
    forced = choice_of(choice, tools)
    if forced == "none":
        return (), ""
    if forced == "auto":
        return tools, ""
    names = _names(tools) if forced == "any" else [forced]
    return tools, interpreter.dialect.call_opening(names)


def _names(tools: Sequence[Signature]) -> list[str]:
    return [tool["function"]["name"] for tool in tools]
