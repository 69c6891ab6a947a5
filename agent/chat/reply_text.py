"""A turn that is being written for a chat client: what is forced, sendable and finally said."""

from collections.abc import Sequence
from dataclasses import dataclass

from visreplay.agent.chat.renderer import ChatRenderer, ParsedReply

CALL_END = "</tool_call>"
_CALL_BEGIN = "<tool_call>"


@dataclass(frozen=True)
class ReplyStream:
    """What clients are shown of a turn.

    Attributes:
        renderer: Parses replies in the policy's protocol.
        stops: Texts that end the turn, and are left out of it.
        calls: Whether calls are told apart from words; it is all words to who offers no tools.
    """

    renderer: ChatRenderer
    stops: Sequence[str] = ()
    calls: bool = True

    def sendable(self, ids: Sequence[int]) -> str:
        """What can be sent of a turn that is being written: no later token takes it back."""
        written = self.renderer.tokenizer.decode(ids, skip_special_tokens=True)
        words = self.renderer.first_call(written) if self.calls else len(written)
        ready = self.cut(written[:words])
        if ready != written:
            return ready
        # A character may be in the middle of its bytes, a tag or a stop string of its letters.
        ready = ready.rstrip("\ufffd")
        named = self.calls and self.renderer.protocol.named_calls
        marks = [_CALL_BEGIN, *self.stops] if named else self.stops
        begun = [n for mark in marks for n in range(1, len(mark)) if ready.endswith(mark[:n])]
        return ready[: len(ready) - max(begun, default=0)]

    def parse(self, written: str) -> ParsedReply:
        """Take a whole turn apart."""
        written = self.cut(written)
        return self.renderer.parse_reply(written) if self.calls else ParsedReply(written)

    def cut(self, written: str) -> str:
        """What stands before the first stop string."""
        found = (at for stop in self.stops if (at := written.find(stop)) >= 0)
        return written[: min(found, default=len(written))]
