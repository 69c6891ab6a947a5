"""How a turn is read: a thought, then calls or an answer."""

from dataclasses import replace
from typing import ClassVar

from visreplay.agent.protocols.call_syntax import TOOL_CALL, CallSyntax
from visreplay.agent.protocols.calls import FoundCalls
from visreplay.agent.protocols.parsing import split_thought
from visreplay.agent.protocols.recipe import Recipe
from visreplay.agent.protocols.tool_schemas import Signature
from visreplay.agent.protocols.turns import MAX_TURN_CHARACTERS, NOTHING_TO_CALL, ParsedTurn
from visreplay.agent.protocols.unread_calls import unread_call
from visreplay.tools import ToolError


class TurnReader:
    """Reads the turns of a policy: the half of a `ToolProtocol` that the policy writes."""

    recipe: Recipe

    call_syntax: ClassVar[CallSyntax] = TOOL_CALL
    """How calls are written."""
    own_tools: ClassVar[tuple[Signature, ...]] = ()
    """Signatures of the tools that the protocol runs, where calls are JSON with the tool's name."""

    def read(self, written: str) -> ParsedTurn:
        """Parse a turn. Never raises: whatever is wrong with it is its `error`.

        Where the policy is offered no tools, anything that looks like a call is such an error.
        """
        if len(written) > MAX_TURN_CHARACTERS:
            return ParsedTurn(
                "",
                error=f"The turn has {len(written)} characters; the limit is "
                f"{MAX_TURN_CHARACTERS}. Write less.",
                calls_at=self.call_syntax.may_begin(written),
            )
        turn = self._parse(written)
        if self.recipe.tools or not (turn.calls or turn.error):
            return turn
        return ParsedTurn(turn.thought, error=NOTHING_TO_CALL, calls_at=turn.calls_at)

    def _parse(self, written: str) -> ParsedTurn:
        """Parse a turn as where tools are offered."""
        thought, rest = split_thought(written)
        closed = written.rfind("</think>")
        unclosed = not rest and written.rfind("<think>") > closed
        if unclosed:
            # The model waits for what the turn ends with, though it did not close the thought.
            end = self._last_part(written)
            thought, rest = split_thought(f"{written[:end]}</think>{written[end:]}")
        calls = self._find(rest)
        begin = len(written) - len(rest)
        try:
            turn = self._read(thought, rest, calls)
        except ToolError as error:
            return ParsedTurn(thought, error=str(error), calls_at=begin + calls.start)
        if turn.calls:
            if thought is turn.thought and not unclosed and "</think>" not in written:
                turn = replace(turn, thought=rest[: calls.start].strip())
            return replace(turn, calls_at=begin + calls.start)
        if turn.answer is None and len(rest) < len(written):
            # Nothing that looks like a call is left out in silence.
            unread = [each.start for each in self._find(written).attempts]
        else:
            unread = []
        if unread:
            return ParsedTurn(
                thought,
                error="The call is in the thought, so it was not run: close the thought with "
                "</think>, and write the call after it.",
                calls_at=next((at for at in unread if unclosed and at > closed), None),
            )
        return turn

    def _find(self, written: str) -> FoundCalls:
        return self.call_syntax.find(written, tolerant=self.recipe.tolerant_json)

    def _last_part(self, written: str) -> int:
        """Find the calls or the answer that a turn ends with; the turn's end if there are none."""
        if written.rstrip().endswith("</answer>") and "<answer>" in written:
            return written.rfind("<answer>")
        closing = self._find(written).closing
        return len(written) if closing is None else closing

    def _read(self, thought: str, rest: str, calls: FoundCalls) -> ParsedTurn:
        """Parse the text after the thought: by default, the last tag is a call or an answer.

        Args:
            thought: The thought.
            rest: The text.
            calls: What looks like a call in it.

        Raises:
            ToolError: A call cannot be parsed.
        """
        answer = rest.rfind("<answer>")
        if calls.after(answer):
            return ParsedTurn(thought, calls.chosen(self.recipe.calls))
        return (
            ParsedTurn.tagged(thought, rest) if answer >= 0 else self._read_untagged(thought, rest)
        )

    def _free(self, thought: str, rest: str) -> ParsedTurn:
        """Take the whole text as the answer, unless it calls a tool in a form that is not read.

        Raises:
            ToolError: It does.
        """
        if name := unread_call(rest, self.own_tools):
            syntax = self.call_syntax
            raise ToolError(
                f"This looks like a call of {name}, but a {syntax.what} is written "
                f"<{syntax.tag}>{syntax.form}</{syntax.tag}>."
            )
        return ParsedTurn.free(thought, rest)

    def _read_untagged(self, thought: str, rest: str) -> ParsedTurn:
        return ParsedTurn(thought)
