"""The tools that a turn is offered, and the call that it is made to begin with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from visreplay.agent.protocols import ToolProtocol
from visreplay.agent.protocols.tool_schemas import Signature

ToolChoice = str | bool | dict[str, Any] | None
"""A `tool_choice` in any form that clients of LangChain, OpenAI and smolagents send."""


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """Tools for one turn.

    Attributes:
        tools: The signatures that the policy reads.
        opening: The text that the turn has to begin with; "" leaves it to the policy.
        calls: Whether calls are parsed. Where calls are forbidden, they are text.
    """

    tools: tuple[Signature, ...] = ()
    opening: str = ""
    calls: bool = True


def offer_tools(
    protocol: ToolProtocol, tools: Sequence[Signature], choice: ToolChoice = None
) -> ToolOffer:
    """Offer tools in a protocol.

    Args:
        protocol: The policy's protocol.
        tools: The signatures of the tools.
        choice: The call that the turn has to begin with, if any.

    Raises:
        ValueError: The protocol calls no tools by name, or the choice is none of the tools.
    """
    if tools and not protocol.named_calls:
        raise ValueError(
            f"the {protocol.name} protocol calls no tools but its own: choose another protocol"
        )
    forced = parse_choice(choice, tools)
    if forced == "none":
        return ToolOffer(calls=False)
    if forced == "auto":
        return ToolOffer(tuple(tools))
    names = _names(tools) if forced == "any" else [forced]
    return ToolOffer(tuple(tools), protocol.call_opening(names))


def parse_choice(choice: ToolChoice, tools: Sequence[Signature]) -> str:
    """Read a `tool_choice`: "auto", "none", "any", or the name of one of the tools.

    Raises:
        ValueError: It is none of these.
    """
    names = _names(tools)
    if isinstance(choice, dict):
        function = choice.get("function", choice)
        choice = str(function.get("name")) if isinstance(function, dict) else str(function)
    if choice is None or choice is False or choice == "auto":
        return "auto"
    if choice == "none":
        return "none"
    if choice in (True, "any", "required") and names:
        return "any"
    if choice not in names:
        raise ValueError(f"tool_choice is {choice!r}; the tools are {', '.join(names) or 'none'}")
    return str(choice)


def _names(tools: Sequence[Signature]) -> list[str]:
    return [tool["function"]["name"] for tool in tools]
