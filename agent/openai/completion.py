"""What clients of OpenAI's chat completions get: answers whole and in chunks, in their form."""

import json
import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

from visreplay.agent.chat.renderer import ParsedReply
from visreplay.agent.chat.reply_text import ReplyStream
from visreplay.agent.chat.turn_memory import TurnMemory
from visreplay.agent.policy.replay_policy import PolicyTurn, Reading
from visreplay.agent.serving.engine import EndEvent, Event, TokenEvent
from visreplay.replay_core import TokenLogprob

Json = dict[str, Any]


class CompletionBuilder:
    """A chat completion while it is written.

    Args:
        name: Of the completion.
        created: When, in seconds since 1970.
        model: Its name.
        text: What clients are shown of a turn.
        reading: What is answered.
        choices: How many turns.
        logprobs: Whether to tell how probable the tokens of the content were.
        memory: Remembers the turns.
        conversation: What is answered, as the memory has it.
    """

    def __init__(
        self,
        name: str,
        created: int,
        model: str,
        text: ReplyStream,
        reading: Reading,
        choices: int,
        logprobs: bool,
        memory: TurnMemory,
        conversation: bytes,
    ) -> None:
        self._head = {"id": name, "created": created, "model": model}
        self._text = text
        self._reading = reading
        self._logprobs = logprobs
        self._memory = memory
        self._conversation = conversation
        self._ids = [list(reading.opened) for _ in range(choices)]
        self._sent = [0] * choices
        self._written: list[list[TokenLogprob]] = [[] for _ in range(choices)]
        self._told = [0] * choices
        self._ended: dict[int, tuple[PolicyTurn, ParsedReply]] = {}

    def first_chunks(self) -> Iterator[Json]:
        """The chunks before there is a token."""
        for choice in range(len(self._ids)):
            yield self._chunk(choice, {"role": "assistant", "content": ""})

    def chunks(self, event: Event) -> Iterator[Json]:
        """The chunks that follow from an event: none where nothing can be sent yet."""
        match event:
            case TokenEvent(choice, token_id, logprob):
                self._ids[choice].append(token_id)
                if logprob is not None:
                    self._written[choice].append(logprob)
                yield from self._grown(choice, self._text.sendable(self._ids[choice]))
            case EndEvent(choice, turn):
                said = self.end(choice, turn)
                yield from self._grown(choice, _content(said))
                if said.tool_calls:
                    calls = [{"index": i, **call} for i, call in enumerate(_calls(said))]
                    yield self._chunk(choice, {"tool_calls": calls})
                end = self._chunk(choice, {}, finish=_finish(turn, said))
                yield {**end, "replay": self.replay}

    def usage_chunk(self) -> Json:
        """The chunk that tells the usage, if it is asked for."""
        return {**self._chunk(), "choices": [], "usage": self.usage}

    def end(self, choice: int, turn: PolicyTurn) -> ParsedReply:
        """Take a turn that is written to its end; returns what it says."""
        said = self._text.parse(turn.text)
        self._ended[choice] = turn, said
        if self._text.cut(turn.text) == turn.text:
            message = ParsedReply(_content(said), said.tool_calls).message()
            self._memory.keep(self._conversation, message, turn.message["token_ids"])
        return said

    def whole(self) -> Json:
        """The completion, when all turns are written."""
        choices = []
        for choice, (turn, said) in sorted(self._ended.items()):
            message: Json = {"role": "assistant", "content": _content(said), "refusal": None}
            if said.tool_calls:
                message |= {"content": _content(said) or None, "tool_calls": _calls(said)}
            choices.append(
                {
                    "index": choice,
                    "message": message,
                    "finish_reason": _finish(turn, said),
                    "logprobs": self._probable(
                        turn.logprobs[: self._spelling(turn.message["token_ids"], _content(said))]
                    ),
                }
            )
        return {
            **self._head,
            "object": "chat.completion",
            "choices": choices,
            "usage": self.usage,
            "replay": self.replay,
        }

    @property
    def usage(self) -> Json:
        """How many tokens were read and written."""
        turns = [turn for turn, _ in self._ended.values()]
        prompt = max((turn.context_tokens for turn in turns), default=0)
        written = sum(len(turn.message["token_ids"]) for turn in turns)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": self._reading.known},
        }

    @property
    def replay(self) -> Json | None:
        """What replay did on what is new (`telemetry.replay_record`); None if nothing is."""
        replay = self._reading.replay if self._reading.tokens > self._reading.known else None
        return replay and {name: _finite(value) for name, value in replay.items()}

    def _grown(self, choice: int, content: str) -> Iterator[Json]:
        """The chunk that brings what is sent of a turn up to some content."""
        if len(content) <= self._sent[choice]:
            return
        chunk = self._chunk(choice, {"content": content[self._sent[choice] :]})
        self._sent[choice] = len(content)
        if self._logprobs:
            count = self._spelling(self._ids[choice], content)
            new = self._written[choice][self._told[choice] : count]
            chunk["choices"][0]["logprobs"] = self._probable(new)
            self._told[choice] = count
        yield chunk

    def _chunk(self, choice: int = 0, delta: Json | None = None, finish: str | None = None) -> Json:
        told = {"index": choice, "delta": delta or {}, "finish_reason": finish, "logprobs": None}
        return {**self._head, "object": "chat.completion.chunk", "choices": [told]}

    def _spelling(self, ids: Sequence[int], content: str) -> int:
        """How many tokens, behind those that a turn had to begin with, spell its content."""
        decode = self._text.renderer.tokenizer.decode
        count = bisect_left(
            range(len(ids)),
            len(content),
            key=lambda n: len(decode(ids[:n], skip_special_tokens=True)),
        )
        return max(0, count - len(self._reading.opened))

    def _probable(self, entries: Sequence[TokenLogprob]) -> Json | None:
        if not self._logprobs:
            return None
        return {"content": [self._entry(each) for each in entries], "refusal": None}

    def _entry(self, entry: TokenLogprob) -> Json:
        top = [self._token(token_id, logprob) for token_id, logprob in entry.top]
        return {**self._token(entry.token_id, entry.logprob), "top_logprobs": top}

    def _token(self, token_id: int, logprob: float) -> Json:
        token = self._text.renderer.tokenizer.decode([token_id])
        # A token may be a part of a character; then it has no text of its own.
        data = None if "\ufffd" in token else list(token.encode())
        likely = logprob if logprob > -9999.0 else -9999.0  # also where it is no number
        return {"token": token, "logprob": likely, "bytes": data}


def _finite(value: Any) -> Any:
    """What JSON has for a number: no NaN, which half precision may give, and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _content(said: ParsedReply) -> str:
    """The words of a turn; a call that cannot be read is among them: it has no other place."""
    return said.content + (said.unparsed_call["text"] if said.unparsed_call else "")


def _calls(said: ParsedReply) -> list[Json]:
    return [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
        }
        for call in said.tool_calls
    ]


def _finish(turn: PolicyTurn, said: ParsedReply) -> str:
    return "tool_calls" if said.tool_calls else turn.finish_reason
