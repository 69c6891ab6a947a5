"""Who writes the turns of an episode: a replay-enabled model, or a script."""

import json
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from visreplay.agent.encoding import ContextEncoder
from visreplay.agent.state import Message
from visreplay.agent.telemetry import replay_record
from visreplay.replay_core import Generation, ModelPair, ReplayConfig, ReplaySession, Segment
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
    """

    text: str
    message: Message
    finish_reason: Literal["stop", "length"]
    replay: Replay
    seconds: float


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
    process say, is read from its start and leads to the same turns, only slower.

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

    def act(self, messages: Sequence[Message], *, seed: int = 0) -> PolicyTurn:
        """Read what is new in the conversation and write the next turn."""
        began = time.perf_counter()
        keys = _keys(messages)
        session, replay = self._read(messages, keys)
        generated = session.generate(seed=seed, **self._decoding)
        return self._turn(keys, session, replay, generated, began)

    def act_together(self, messages: Sequence[Message], seeds: Sequence[int]) -> list[PolicyTurn]:
        """Write the next turn once for each seed, as a batch: what `act` would write one by one.

        The conversation is read and replayed once. The seconds of a turn are those of the batch.
        """
        began = time.perf_counter()
        keys = _keys(messages)
        session, replay = self._read(messages, keys)
        return [
            self._turn(keys, branch, replay, generated, began)
            for branch, generated in session.branch(seeds, **self._decoding)
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

    @property
    def _decoding(self) -> dict[str, Any]:
        return {**asdict(self.sampling), "stop_strings": self.stop_strings}

    def _turn(
        self,
        keys: tuple[str, ...],
        session: ReplaySession,
        replay: Replay,
        generated: Generation,
        began: float,
    ) -> PolicyTurn:
        """Keep the session for the next turn, and tell of this one."""
        message: Message = {
            "role": "assistant",
            "content": [{"type": "text", "text": generated.text}],
            "token_ids": list(generated.token_ids),
        }
        self._keep((*keys, *_keys([message])), session, replay)
        return PolicyTurn(
            text=generated.text,
            message=message,
            finish_reason=generated.finish_reason,
            replay=replay,
            seconds=time.perf_counter() - began,
        )

    def close(self) -> None:
        """Drop every session and its caches."""
        while self._sessions:
            self._sessions.popitem()[1][0].close()

    def _read(
        self, messages: Sequence[Message], keys: tuple[str, ...]
    ) -> tuple[ReplaySession, Replay]:
        """A session that has read the whole conversation, and the report on its last part.

        It is a fork of what is kept, so that other rollouts can go on from there as well.
        """
        end = len(messages)
        if not end or messages[-1]["role"] == "assistant":
            raise ValueError("the conversation must end with a turn that the policy can answer")
        beginnings = [known for known in self._sessions if keys[: len(known)] == known]
        known = max(beginnings, key=len, default=())
        if known:
            self._sessions.move_to_end(known)
            kept, replay = self._sessions[known]
            session = kept.fork()
        else:
            session = ReplaySession(self.pair, self.config)
        start = len(known)
        while start < end:
            stop = start
            while stop < end and messages[stop]["role"] != "assistant":
                stop += 1
            if stop > start:
                replay = self._append(session, self._encoder.encode(messages[:stop], start))
            if stop < end:
                session.extend_generated(self._written(messages[stop]))
            start = stop + 1
        self._keep(keys, session.fork(), replay)
        return session, replay

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
        ids: list[int] = self.pair.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _keep(self, keys: tuple[str, ...], session: ReplaySession, replay: Replay) -> None:
        self._sessions[keys] = session, replay
        self._sessions.move_to_end(keys)
        self._forget()

    def _forget(self) -> None:
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


def _keys(messages: Sequence[Message]) -> tuple[str, ...]:
    return tuple(json.dumps(message, sort_keys=True) for message in messages)
