"""Who writes the turns of an episode: a replay-enabled model, or a script."""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

from visreplay.agent.encoding import ContextEncoder, without_special_tokens
from visreplay.agent.state import Message
from visreplay.agent.telemetry import replay_record, tell
from visreplay.replay_core import (
    Generation,
    ModelPair,
    ReplayConfig,
    ReplaySession,
    Segment,
    value_of,
)
from visreplay.tools import ImageStore

Replay = dict[str, Any] | None
"""Of `replay_record`."""


@dataclass(frozen=True, slots=True)
class PolicyTurn:
    """One turn that a policy wrote.

    Attributes:
        text: What it wrote, special tokens left out.
        message: The assistant message for the conversation, with the generated token ids.
        finish_reason: "stop", or "length" when the token limit cut it off.
        replay: What `replay_record` tells of the context that it read.
        seconds: Wall time of reading the new context and writing the turn.
        context_tokens: How many tokens it answers.
        known_tokens: How many of these had been read before.
    """

    text: str
    message: Message
    finish_reason: Literal["stop", "length"]
    replay: Replay
    seconds: float
    context_tokens: int = 0
    known_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Reading:
    """A session that has read a whole conversation.

    Attributes:
        keys: Of its messages.
        session: A fork of what is kept, so that other rollouts can go on from there as well.
        replay: The report on the last part that was read.
        known: How many tokens had been read before.
        began: When reading began, by `time.perf_counter`.
    """

    keys: tuple[str, ...]
    session: ReplaySession
    replay: Replay
    known: int
    began: float


class Policy(Protocol):
    """Anything that can write the next turn of a conversation."""

    def act(self, messages: Sequence[Message], *, seed: int = 0) -> PolicyTurn:
        """Write the next turn.

        Args:
            messages: The whole conversation so far, ending with a user turn.
            seed: Of sampling, for this turn alone.
        """
        ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a turn is decoded.

    Attributes:
        temperature: 0 decodes greedily.
        top_p: Nucleus sampling's mass.
        max_new_tokens: Limit of one turn.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 2048


class ReplayPolicy:
    """The pair's policy, with the base's activations replayed as context arrives.

    It is handed the whole conversation at each turn, and goes on from the session that has read
    the longest beginning of it: only what is new is encoded, refreshed on the base, replayed and
    prefilled. So the steps of an episode, and several rollouts of one question, share what they
    have in common. A conversation it has never seen, one resumed from a checkpoint of another
    process say, is read from its start and leads to the same turns, only slower. It may be used
    from several threads.

    In a run of LangGraph, what replay did goes out on the `custom` stream before the first token
    of each turn (`telemetry.tell`).

    Args:
        pair: Policy and base.
        config: How to replay.
        store: Resolves image references.
        sampling: How to decode.
        stop_strings: End a turn (kept in the text), besides the model's own end tokens.
        max_sessions: Points of conversations whose caches are kept; the least recently used go
            first. Points of one conversation share their memory.
    """

    def __init__(
        self,
        pair: ModelPair,
        config: ReplayConfig,
        store: ImageStore,
        *,
        sampling: Sampling = Sampling(),
        stop_strings: tuple[str, ...] = (),
        max_sessions: int = 4,
    ) -> None:
        self.pair = pair
        self.config = config
        self.sampling = sampling
        self.stop_strings = stop_strings
        self.max_sessions = max_sessions
        self._store = store
        self._encoder = ContextEncoder(pair.processor, store, pair.policy)
        self._sessions: OrderedDict[tuple[str, ...], tuple[ReplaySession, Replay]]
        self._sessions = OrderedDict()
        # Held for what is kept and for the processor, never while a model runs: sessions that are
        # worked on belong to one call alone.
        self._lock = threading.Lock()

    def act(self, messages: Sequence[Message], *, seed: int = 0) -> PolicyTurn:
        """Read what is new in the conversation and write the next turn."""
        return value_of(self.stream(messages, seed=seed))

    def stream(
        self,
        messages: Sequence[Message],
        *,
        seed: int | None = 0,
        sampling: Sampling | None = None,
        stop_strings: Sequence[str] = (),
        opening: str = "",
    ) -> Generator[int, None, PolicyTurn]:
        """Write the next turn, and give every token of it as soon as it is drawn.

        Args:
            messages: As in `act`.
            seed: As in `act`; None takes torch's global generator.
            sampling: How to decode this turn, if not as the others.
            stop_strings: More texts that end it.
            opening: Words that the policy has to begin with.

        Returns:
            What `act` returns, as the value of the generator.
        """
        reading = self._read(messages)
        tokenizer = self.pair.tokenizer
        opened: list[int] = []
        if opening:
            opened = tokenizer.encode(opening, add_special_tokens=False)
            reading.session.extend_generated(opened)
            yield from opened
        generated = yield from reading.session.stream(
            seed=seed, **self._decoding(sampling, stop_strings)
        )
        if opened:
            ids = (*opened, *generated.token_ids)
            text = tokenizer.decode(ids, skip_special_tokens=True)
            generated = replace(generated, token_ids=ids, text=text)
        return self._turn(reading, reading.session, generated)

    def act_together(self, messages: Sequence[Message], seeds: Sequence[int]) -> list[PolicyTurn]:
        """Write the next turn once for each seed, as a batch: what `act` would write one by one.

        The conversation is read and replayed once. The seconds of a turn are those of the batch.
        """
        reading = self._read(messages)
        return [
            self._turn(reading, branch, generated)
            for branch, generated in reading.session.branch(seeds, **self._decoding())
        ]

    @contextmanager
    def remembering(self, points: int) -> Iterator[None]:
        """Keep at least so many points of conversations meanwhile.

        Each branch of a batch has memory of its own, and is not to be read again from the start.
        """
        before, self.max_sessions = self.max_sessions, max(self.max_sessions, points)
        try:
            yield
        finally:
            self.max_sessions = before
            self._forget()

    def _decoding(
        self, sampling: Sampling | None = None, stop_strings: Sequence[str] = ()
    ) -> dict[str, Any]:
        stops = (*self.stop_strings, *stop_strings)
        return {**asdict(sampling or self.sampling), "stop_strings": stops}

    def _turn(self, reading: _Reading, session: ReplaySession, generated: Generation) -> PolicyTurn:
        """Keep the session for the next turn, and tell of this one."""
        message: Message = {
            "role": "assistant",
            "content": [{"type": "text", "text": generated.text}],
            "token_ids": list(generated.token_ids),
        }
        self._keep((*reading.keys, *_keys([message])), session, reading.replay)
        return PolicyTurn(
            text=generated.text,
            message=message,
            finish_reason=generated.finish_reason,
            replay=reading.replay,
            seconds=time.perf_counter() - reading.began,
            context_tokens=session.length - len(generated.token_ids),
            known_tokens=reading.known,
        )

    def close(self) -> None:
        """Drop every session and its caches."""
        with self._lock:
            while self._sessions:
                self._sessions.popitem()[1][0].close()

    def _read(self, messages: Sequence[Message]) -> _Reading:
        began = time.perf_counter()
        keys = _keys(messages)
        end = len(messages)
        if not end or messages[-1]["role"] == "assistant":
            raise ValueError("the conversation must end with a turn that the policy can answer")
        turns = [n for n in range(1, end) if _wrote(messages[n - 1]) != _wrote(messages[n])]
        start, session, replay = self._longest_known([keys[:n] for n in (*turns, end)])
        known = session.length
        while start < end:
            stop = start
            while stop < end and messages[stop]["role"] != "assistant":
                stop += 1
            if stop > start:
                with self._lock:
                    segment = self._encoder.encode(messages[:stop], start)
                replay = self._append(session, segment)
            if stop < end:
                session.extend_generated(self._written(messages[stop]))
            start = stop + 1
        self._keep(keys, session.fork(), replay)
        tell(sum(map(_wrote, messages)), session.length, known, replay)
        return _Reading(keys, session, replay, known, began)

    def _longest_known(
        self, beginnings: Sequence[tuple[str, ...]]
    ) -> tuple[int, ReplaySession, Replay]:
        """The longest beginning that is kept: its messages, a fork of its session, its report.

        Args:
            beginnings: Of the conversation, up to each change between the policy and the others:
                a session that has read up to there stands before the policy's turn or behind it.
        """
        with self._lock:
            for known in reversed(beginnings):
                if known in self._sessions:
                    self._sessions.move_to_end(known)
                    session, replay = self._sessions[known]
                    return len(known), session.fork(), replay
        return 0, ReplaySession(self.pair, self.config), None

    def _append(self, session: ReplaySession, segment: Segment) -> Replay:
        report = session.append(segment)
        new = session.blocks[len(session.blocks) - len(segment.blocks) :]
        return replay_record(report, segment, new, self.pair.policy, self._store)

    def _written(self, message: Message) -> list[int]:
        """The tokens of an assistant's turn: those that were generated, or else its text's.

        The end of the turn, where it is not among them, comes with what follows (`encoding`).
        """
        if "token_ids" in message:
            return message["token_ids"]
        text = "".join(part["text"] for part in message["content"] if part["type"] == "text")
        text = without_special_tokens(text, self.pair.tokenizer)
        ids: list[int] = self.pair.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _keep(self, keys: tuple[str, ...], session: ReplaySession, replay: Replay) -> None:
        with self._lock:
            self._sessions[keys] = session, replay
            self._sessions.move_to_end(keys)
        self._forget()

    def _forget(self) -> None:
        with self._lock:
            while len(self._sessions) > self.max_sessions:
                self._sessions.popitem(last=False)[1][0].close()


class ScriptedPolicy:
    """Plays given turns in order: for tests and demonstrations of everything but the model.

    Args:
        turns: What to write, one text a turn.

    Raises:
        IndexError: From `act`, when the script is over.
    """

    def __init__(self, turns: Iterable[str]) -> None:
        self.turns = list(turns)

    def act(self, messages: Sequence[Message], *, seed: int = 0) -> PolicyTurn:
        """The turn whose number is that of assistant messages so far."""
        number = sum(message["role"] == "assistant" for message in messages)
        if number >= len(self.turns):
            raise IndexError(f"turn {number} was asked for; the script has {len(self.turns)}")
        text = self.turns[number]
        message: Message = {"role": "assistant", "content": [{"type": "text", "text": text}]}
        return PolicyTurn(text, message, "stop", None, 0.0)


def _wrote(message: Message) -> bool:
    """Whether the policy wrote it."""
    return message["role"] == "assistant"


def _keys(messages: Sequence[Message]) -> tuple[str, ...]:
    return tuple(json.dumps(message, sort_keys=True) for message in messages)
