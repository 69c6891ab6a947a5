"""A turn that is being written for a chat client: what is forced, sendable and finally said."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from visreplay.agent.chat_messages import Interpreter, Said
from visreplay.agent.protocols.signatures import Signature

CALL_END = "</tool_call>"
_CALL_BEGIN = "<tool_call>"

ToolChoice = str | bool | dict[str, Any] | None
"""What LangChain's and OpenAI's clients say: which call is forced, if any."""


@dataclass(frozen=True)
class TurnText:
    """What clients are shown of a turn.

    Attributes:
        interpreter: Reads the policy's dialect.
        stops: Texts that end the turn, and are left out of it.
        calls: Whether calls are told apart from words; it is all words to who offers no tools.
    """

    interpreter: Interpreter
    stops: Sequence[str] = ()
    calls: bool = True

    def sendable(self, ids: Sequence[int]) -> str:
        """What can be sent of a turn that is being written: no later token takes it back."""
        written = self.interpreter.tokenizer.decode(ids, skip_special_tokens=True)
        words = self.interpreter.first_call(written) if self.calls else len(written)
        ready = self.cut(written[:words])
        if ready != written:
            return ready
        # A character may be in the middle of its bytes, a tag or a stop string of its letters.
        ready = ready.rstrip("\ufffd")
        named = self.calls and self.interpreter.dialect.named_calls
        marks = [_CALL_BEGIN, *self.stops] if named else self.stops
        begun = [n for mark in marks for n in range(1, len(mark)) if ready.endswith(mark[:n])]
        return ready[: len(ready) - max(begun, default=0)]

    def said(self, written: str) -> Said:
        """What a whole turn says."""
        written = self.cut(written)
        return self.interpreter.said(written) if self.calls else Said(written)

    def cut(self, written: str) -> str:
        """What stands before the first stop string."""
        found = (at for stop in self.stops if (at := written.find(stop)) >= 0)
        return written[: min(found, default=len(written))]


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
    interpreter: Interpreter, tools: Sequence[Signature], choice: ToolChoice
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
