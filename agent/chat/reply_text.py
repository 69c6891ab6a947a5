"""The reply of a chat turn while it is written."""

from collections.abc import Sequence

from visreplay.agent.chat.renderer import ChatRenderer, ParsedReply
from visreplay.agent.chat.text_stream import TextStream
from visreplay.agent.protocols.call_syntax import BEGUN_OBJECT

CALL_END = "</tool_call>"
_CALL_BEGIN = "<tool_call>"
_THOUGHT_BEGIN = "<think>"
_THOUGHT_END = "</think>"


class ReplyStream:
    """Turn the tokens of one reply into text for a client, and parse the reply at its end.

    Stop strings and tool calls are kept back, and so is what may be the beginning of one. Only the
    text that is kept back is searched, so each token costs the same. A call in a thought is kept
    back until the thought is closed: if it never is, the call counts.

    Args:
        renderer: Parses replies of the policy's protocol.
        stops: Texts that end the reply, and are left out of it.
        calls: Whether tool calls are parsed; for a client that offers no tools, they are text.

    Attributes:
        sent: How many characters of the reply `push` has returned.

    Examples:
        >>> from visreplay import ReplayChatModel
        >>> renderer = ReplayChatModel.from_pretrained("embedded").renderer
        >>> stream = ReplyStream(renderer, stops=["4"])
        >>> token_ids = renderer.tokenizer.encode("red54")
        >>> "".join(map(stream.push, token_ids))
        'red5'
        >>> stream.finish("red54").content
        'red5'
    """

    def __init__(
        self, renderer: ChatRenderer, stops: Sequence[str] = (), calls: bool = True
    ) -> None:
        self.renderer = renderer
        self.stops = tuple(stops)
        self.sent = 0
        self._calls = calls and renderer.protocol.named_calls
        self._text = TextStream(renderer.tokenizer)
        self._marks = [*self.stops, *([_CALL_BEGIN, _THOUGHT_END] if self._calls else [])]
        self._kept = ""  # text that is not sent yet
        self._before = ""  # stands for the text that is
        self._considered = False  # whether the kept text begins with a call in an open thought
        self._closed = False  # by a stop string or a call

    def push(self, token_id: int) -> str:
        """Take the next token.

        Returns:
            The text that can be sent now: no later token takes it back.
        """
        new = self._text.push(token_id)
        if self._closed or not new:
            return ""
        self._kept += new
        if self._considered and _THOUGHT_END not in self._kept[1 - len(_THOUGHT_END) - len(new) :]:
            return ""
        call = self._first_call()
        found = call < len(self._kept)
        ready = self.cut(self._kept[:call])
        stopped = len(ready) < call
        if not found and not stopped:
            ready = ready[: len(ready) - self._begun_mark()]
        self._before = _gist(self._before + ready) if self._calls else ""
        self._considered = found and not stopped and self._before == _THOUGHT_BEGIN
        self._closed = stopped or (found and not self._considered)
        self._kept = "" if self._closed else self._kept[len(ready) :]
        self.sent += len(ready)
        return ready

    def finish(self, text: str) -> ParsedReply:
        """Parse the whole reply.

        Args:
            text: All of its tokens, decoded.
        """
        self._text.finish()
        text = self.cut(text)
        return self.renderer.parse_reply(text) if self._calls else ParsedReply(text)

    def tokens_in(self, characters: int) -> int:
        """Count the first tokens that spell so many characters of the reply."""
        return self._text.tokens_in(characters)

    def cut(self, text: str) -> str:
        """Return the text before the first stop string."""
        starts = (start for stop in self.stops if (start := text.find(stop)) >= 0)
        return text[: min(starts, default=len(text))]

    def _first_call(self) -> int:
        """Find where the first call begins in the text that is kept."""
        if not self._calls:
            return len(self._kept)
        return self.renderer.first_call(self._before + self._kept) - len(self._before)

    def _begun_mark(self) -> int:
        """Count the last characters that may be the beginning of a call or a stop string."""
        lengths = [
            length
            for mark in self._marks
            for length in range(1, min(len(mark) - 1, len(self._kept)) + 1)
            if self._kept.endswith(mark[:length])
        ]
        if self._calls and (begun := BEGUN_OBJECT.search(self._kept)):
            lengths.append(len(begun[0]))
        return max(lengths, default=0)


def _gist(text: str) -> str:
    """Shorten the beginning of a reply to what decides where its first call may begin.

    That is whether it is in the middle of a thought, where a call counts only if the thought is
    never closed.
    """
    text = text.lstrip()
    if _THOUGHT_BEGIN.startswith(text):
        return text
    thinking = text.startswith(_THOUGHT_BEGIN) and _THOUGHT_END not in text
    return _THOUGHT_BEGIN if thinking else "."
