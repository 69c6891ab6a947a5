"""A chat completion, built from the events of the engine: as a whole, or chunk by chunk."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from visreplay.agent.chat.renderer import ParsedReply
from visreplay.agent.chat.reply_text import ReplyStream
from visreplay.agent.chat.turn_memory import TurnMemory
from visreplay.agent.openai.response_schema import (
    CalledFunction,
    Choice,
    ChunkChoice,
    CompletionChunk,
    CompletionMessage,
    ContentToken,
    Delta,
    FinishReason,
    Json,
    Logprobs,
    PromptDetails,
    TokenProbability,
    ToolCall,
    ToolCallDelta,
    Usage,
    as_json,
)
from visreplay.agent.policy.replay_policy import PolicyTurn, Reading
from visreplay.agent.serving.decoding import EndEvent, Event, TokenEvent
from visreplay.replay_core import TokenLogprob

_LEAST_LOGPROB = -9999.0
"""OpenAI's number for a token that is not probable at all: JSON has no infinity, and no NaN."""


@dataclass
class _Reply:
    """One reply while it is written.

    Attributes:
        stream: Its text.
        tokens: How many tokens the stream has taken.
        unsent: Text that can be sent, but is in no chunk yet.
        logprobs: Those of its tokens, without the tokens that it had to begin with.
        sent_logprobs: How many of these are in chunks.
    """

    stream: ReplyStream
    tokens: int = 0
    unsent: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    sent_logprobs: int = 0

    def push(self, ids: Sequence[int]) -> None:
        """Take the next tokens."""
        self.tokens += len(ids)
        self.unsent += "".join(map(self.stream.push, ids))


class CompletionBuilder:
    """Builds a chat completion from the events of its replies.

    Args:
        completion_id: The id of the completion.
        created: Seconds since 1970.
        model: The name of the model.
        streams: The text of each reply, to which nothing has been pushed.
        reading: The prefilled conversation that is answered.
        logprobs: Whether the completion has the log-probabilities of its content.
        memory: Keeps the tokens of the replies.
        conversation: The digest of the conversation, by which the memory finds them.
    """

    def __init__(
        self,
        completion_id: str,
        created: int,
        model: str,
        streams: Iterable[ReplyStream],
        reading: Reading,
        logprobs: bool,
        memory: TurnMemory,
        conversation: bytes,
    ) -> None:
        self._head: Json = {"id": completion_id, "created": created, "model": model}
        self._reading = reading
        self._with_logprobs = logprobs
        self._memory = memory
        self._conversation = conversation
        self._replies = [_Reply(stream) for stream in streams]
        self._ended: dict[int, tuple[PolicyTurn, ParsedReply]] = {}
        self._texts: dict[int, str] = {}  # of tokens
        for reply in self._replies:
            reply.push(reading.opened)

    def first_chunks(self) -> Iterator[CompletionChunk]:
        """Yield the chunks that come before any token."""
        for choice in range(len(self._replies)):
            yield self._chunk(choice, Delta(role="assistant", content=""))

    def chunks(self, event: Event) -> Iterator[CompletionChunk]:
        """Yield the chunks of an event: none where nothing can be sent yet."""
        reply = self._replies[event.choice]
        match event:
            case TokenEvent(choice, token_id, logprob):
                reply.push([token_id])
                if logprob is not None:
                    reply.logprobs.append(logprob)
                yield from self._content_chunk(choice, reply.stream.sent)
            case EndEvent(choice, turn):
                parsed = self.end(choice, turn)
                content = _content(parsed)
                reply.unsent += content[reply.stream.sent :]
                yield from self._content_chunk(choice, len(content))
                if parsed.tool_calls:
                    calls = [
                        ToolCallDelta(index=i, **dict(call))
                        for i, call in enumerate(_tool_calls(parsed))
                    ]
                    yield self._chunk(choice, Delta(tool_calls=calls))
                yield self._chunk(
                    choice, Delta(), finish_reason=_finish_reason(turn, parsed), replay=self._replay
                )

    def usage_chunk(self) -> CompletionChunk:
        """Return the chunk that has the usage and no choice."""
        return CompletionChunk(
            **self._head, object="chat.completion.chunk", choices=[], usage=self._usage
        )

    def end(self, choice: int, turn: PolicyTurn) -> ParsedReply:
        """Parse a turn at its end, and keep its tokens in the memory.

        Args:
            choice: The number of the reply.
            turn: The whole turn. Its tokens need not have come as events.
        """
        reply = self._replies[choice]
        if self._with_logprobs:
            reply.push(turn.message["token_ids"][reply.tokens :])
        parsed = reply.stream.finish(turn.text)
        self._ended[choice] = turn, parsed
        if reply.stream.cut(turn.text) == turn.text:
            message = ParsedReply(_content(parsed), parsed.tool_calls).message()
            self._memory.keep(self._conversation, message, turn.message["token_ids"])
        return parsed

    def pieces(self) -> Iterator[str]:
        """Yield the JSON of the completion (`Completion`), when all replies have ended.

        Each reply is a piece: with log-probabilities it may have megabytes, and others wait while
        a piece is made.
        """
        head = _spelled({**self._head, "object": "chat.completion"})
        yield f'{head[:-1]},"choices":['
        for choice, (turn, parsed) in sorted(self._ended.items()):
            tokens = self._tokens_in(choice, len(_content(parsed)))
            reply = Choice(
                index=choice,
                message=_message(parsed),
                finish_reason=_finish_reason(turn, parsed),
                logprobs=self._logprobs(turn.logprobs[:tokens]),
            )
            yield ("," if choice else "") + _spelled(as_json(reply))
        yield f"],{_spelled({'usage': as_json(self._usage), 'replay': self._replay})[1:]}"

    @property
    def _usage(self) -> Usage:
        turns = [turn for turn, _ in self._ended.values()]
        prompt = max((turn.context_tokens for turn in turns), default=0)
        generated = sum(len(turn.message["token_ids"]) for turn in turns)
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=generated,
            total_tokens=prompt + generated,
            prompt_tokens_details=PromptDetails(cached_tokens=self._reading.known),
        )

    @property
    def _replay(self) -> Json | None:
        """The report of the last replay (`telemetry.replay_record`); None if nothing was new."""
        replay = self._reading.replay if self._reading.tokens > self._reading.known else None
        return replay and {name: _finite(value) for name, value in replay.items()}

    def _content_chunk(self, choice: int, characters: int) -> Iterator[CompletionChunk]:
        """Yield the chunk of what is unsent, up to so many characters of the content."""
        reply = self._replies[choice]
        if not reply.unsent:
            return
        logprobs = None
        if self._with_logprobs:
            tokens = self._tokens_in(choice, characters)
            logprobs = self._logprobs(reply.logprobs[reply.sent_logprobs : tokens])
            reply.sent_logprobs = tokens
        yield self._chunk(choice, Delta(content=reply.unsent), logprobs)
        reply.unsent = ""

    def _chunk(
        self,
        choice: int,
        delta: Delta,
        logprobs: Logprobs | None = None,
        finish_reason: FinishReason | None = None,
        **last: Any,
    ) -> CompletionChunk:
        part = ChunkChoice(
            index=choice, delta=delta, finish_reason=finish_reason, logprobs=logprobs
        )
        return CompletionChunk(**self._head, object="chat.completion.chunk", choices=[part], **last)

    def _tokens_in(self, choice: int, characters: int) -> int:
        """Count the tokens that spell so many characters, without those it had to begin with."""
        tokens = self._replies[choice].stream.tokens_in(characters)
        return max(0, tokens - len(self._reading.opened))

    def _logprobs(self, entries: Sequence[TokenLogprob]) -> Logprobs | None:
        if not self._with_logprobs:
            return None
        return Logprobs(content=[self._content_token(entry) for entry in entries], refusal=None)

    def _content_token(self, entry: TokenLogprob) -> ContentToken:
        return ContentToken(
            **self._token(entry.token_id, entry.logprob),
            top_logprobs=[
                TokenProbability(**self._token(token_id, logprob))
                for token_id, logprob in entry.top
            ],
        )

    def _token(self, token_id: int, logprob: float) -> Json:
        token = self._texts.get(token_id)
        if token is None:
            token = self._replies[0].stream.renderer.tokenizer.decode([token_id])
            self._texts[token_id] = token
        return {
            "token": token,
            "logprob": logprob if logprob > _LEAST_LOGPROB else _LEAST_LOGPROB,  # NaN as well
            "bytes": None if "\ufffd" in token else list(token.encode()),
        }


def _spelled(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    """Replace NaN, which half precision may give, and infinity: JSON has neither."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _message(parsed: ParsedReply) -> CompletionMessage:
    fields: Json = {"role": "assistant", "content": _content(parsed), "refusal": None}
    if parsed.tool_calls:
        fields |= {"content": _content(parsed) or None, "tool_calls": _tool_calls(parsed)}
    return CompletionMessage(**fields)


def _content(parsed: ParsedReply) -> str:
    """The text of a reply, and a call that cannot be parsed: it has no other place."""
    return parsed.content + (parsed.unparsed_call["text"] if parsed.unparsed_call else "")


def _tool_calls(parsed: ParsedReply) -> list[ToolCall]:
    calls = []
    for call in parsed.tool_calls:
        # JSON may spell half of a surrogate pair, which no response can hold.
        name = call["name"].encode("utf-8", "replace").decode()
        function = CalledFunction(name=name, arguments=json.dumps(call["arguments"]))
        calls.append(ToolCall(id=call["id"], type="function", function=function))
    return calls


def _finish_reason(turn: PolicyTurn, parsed: ParsedReply) -> FinishReason:
    return "tool_calls" if parsed.tool_calls else turn.finish_reason
