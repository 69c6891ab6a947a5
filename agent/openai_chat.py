"""What clients of OpenAI's chat completions get: answers whole and in chunks, in their form."""

import hashlib
import json
import math
import threading
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from visreplay.agent.chat_messages import TOKEN_IDS, Said
from visreplay.agent.chat_turns import TurnText
from visreplay.agent.engine import Ended, Event, Wrote
from visreplay.agent.policy import PolicyTurn, Reading
from visreplay.replay_core import TokenLogprob

Json = dict[str, Any]


class TurnMemory:
    """The tokens of turns, by the conversation that they answered and what was said in them.

    OpenAI's messages have no place for tokens. With these, what a client sends back goes into the
    context as it was generated, and the session that has read it is found. Whether tokens say what
    the message says is checked where they are used (`Interpreter`).

    Args:
        max_tokens: Of all turns together; those that were not used for longest go first.
    """

    def __init__(self, max_tokens: int = 1_000_000) -> None:
        self.max_tokens = max_tokens
        self._turns: OrderedDict[bytes, array[int]] = OrderedDict()
        self._tokens = 0
        self._lock = threading.Lock()

    def keep(self, conversation: bytes, said: AIMessage, ids: Sequence[int]) -> None:
        """Remember a turn.

        Args:
            conversation: What it answered, as `recall` gives it.
            said: What it says.
            ids: Its tokens.
        """
        key = _after(conversation, said)
        with self._lock:
            self._tokens += len(ids) - len(self._turns.pop(key, ()))
            self._turns[key] = array("q", ids)
            while self._tokens > self.max_tokens:
                self._tokens -= len(self._turns.popitem(last=False)[1])

    def recall(self, asked: Any, messages: Iterable[BaseMessage]) -> bytes:
        """Give messages of the policy's the tokens that they were generated as, where known.

        Args:
            asked: What else the policy's words depend on: model, settings, tools.
            messages: The conversation.

        Returns:
            A digest of the whole conversation.
        """
        conversation = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()
        for message in messages:
            conversation = _after(conversation, message)
            if isinstance(message, AIMessage):
                with self._lock:
                    ids = self._turns.get(conversation)
                    if ids is not None:
                        self._turns.move_to_end(conversation)
                        message.additional_kwargs[TOKEN_IDS] = ids.tolist()
        return conversation


class Answer:
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
        text: TurnText,
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
        self._ended: dict[int, tuple[PolicyTurn, Said]] = {}

    def first_chunks(self) -> Iterator[Json]:
        """The chunks before there is a token."""
        for choice in range(len(self._ids)):
            yield self._chunk(choice, {"role": "assistant", "content": ""})

    def chunks(self, event: Event) -> Iterator[Json]:
        """The chunks that follow from an event: none where nothing can be sent yet."""
        match event:
            case Wrote(choice, token_id, logprob):
                self._ids[choice].append(token_id)
                if logprob is not None:
                    self._written[choice].append(logprob)
                yield from self._grown(choice, self._text.sendable(self._ids[choice]))
            case Ended(choice, turn):
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

    def end(self, choice: int, turn: PolicyTurn) -> Said:
        """Take a turn that is written to its end; returns what it says."""
        said = self._text.said(turn.text)
        self._ended[choice] = turn, said
        if self._text.cut(turn.text) == turn.text:
            content = _content(said)
            message = AIMessage(content, tool_calls=list(said.tool_calls))
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
        decode = self._text.interpreter.tokenizer.decode
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
        token = self._text.interpreter.tokenizer.decode([token_id])
        # A token may be a part of a character; then it has no text of its own.
        data = None if "\ufffd" in token else list(token.encode())
        likely = logprob if logprob > -9999.0 else -9999.0  # also where it is no number
        return {"token": token, "logprob": likely, "bytes": data}


def _finite(value: Any) -> Any:
    """What JSON has for a number: no NaN, which half precision may give, and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _content(said: Said) -> str:
    """The words of a turn; a call that cannot be read is among them: it has no other place."""
    return said.content + "".join(call["args"] or "" for call in said.invalid_tool_calls)


def _calls(said: Said) -> list[Json]:
    return [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["args"])},
        }
        for call in said.tool_calls
    ]


def _finish(turn: PolicyTurn, said: Said) -> str:
    return "tool_calls" if said.tool_calls else turn.finish_reason


def _after(conversation: bytes, message: BaseMessage) -> bytes:
    """The digest of a conversation that goes on with a message."""
    told: list[Any] = [message.type, message.content]
    match message:
        case AIMessage():  # whatever form its text has, and the ids of its calls
            calls = [[call["name"], call["args"]] for call in message.tool_calls]
            told = [message.type, message.text, calls]
        case ToolMessage():
            told.append(message.tool_call_id)
    spelled = json.dumps(told, sort_keys=True).encode()
    return hashlib.sha256(conversation + spelled).digest()
