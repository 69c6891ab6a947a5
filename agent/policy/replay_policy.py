"""Who writes the turns of an episode: a replay-enabled model, or a script."""

import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from visreplay.agent.messages import Message
from visreplay.agent.policy.encoder import ContextEncoder, without_special_tokens
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.policy.session_cache import Keys, Replay, SessionCache, keys_of
from visreplay.agent.policy.telemetry import replay_record, tell
from visreplay.replay_core import (
    ContextError,
    Generation,
    ModelPair,
    ReplayConfig,
    ReplaySession,
    TokenLogprob,
    run_to_end,
)
from visreplay.tools import ImageStore

CHARACTERS_PER_TOKEN = 16
"""Characters a token, of which no text but a row of spaces has as many."""


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
        logprobs: Of what was generated, where they were asked for.
    """

    text: str
    message: Message
    finish_reason: Literal["stop", "length"]
    replay: Replay
    seconds: float
    context_tokens: int = 0
    known_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """A session that has read a whole conversation.

    Attributes:
        keys: Of the conversation.
        session: A fork of what is kept, so that other rollouts can go on from there as well.
        replay: The report on the last part that was read, now or before.
        tokens: How many it has.
        known: How many of these had been read before.
        opened: Tokens that the turn has to begin with; the session has read them as well.
        began: When reading began, by `time.perf_counter`.
    """

    keys: Keys
    session: ReplaySession
    replay: Replay
    tokens: int
    known: int
    opened: tuple[int, ...]
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
        sessions: Where sessions that have read something are kept; policies may share one.
        max_context: Tokens of a conversation at most; None leaves it to the model.
        maps: Whether pictures of entropies and replayed tokens are put in the store.
    """

    def __init__(
        self,
        pair: ModelPair,
        config: ReplayConfig,
        store: ImageStore,
        *,
        sampling: Sampling = Sampling(),
        stop_strings: tuple[str, ...] = (),
        sessions: SessionCache | None = None,
        max_context: int | None = None,
        maps: bool = True,
    ) -> None:
        self.pair = pair
        self.config = config
        self.sampling = sampling
        self.stop_strings = stop_strings
        self.sessions = SessionCache() if sessions is None else sessions
        self.max_context = max_context
        self._store = store
        self._maps = maps
        # What other models have read, or this one replayed otherwise, is something else.
        self._own = f"{id(pair)} {config}"

    def act(self, messages: Sequence[Message], *, seed: int = 0) -> PolicyTurn:
        """Read what is new in the conversation and write the next turn."""
        return run_to_end(self.stream(messages, seed=seed))

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
        reading = run_to_end(self.read(messages, opening))
        yield from reading.opened
        generated = yield from reading.session.stream(
            seed=seed, **self.decoding(sampling, stop_strings)
        )
        return self.turn(reading, reading.session, generated)

    def act_together(self, messages: Sequence[Message], seeds: Sequence[int]) -> list[PolicyTurn]:
        """Write the next turn once for each seed, as a batch: what `act` would write one by one.

        The conversation is read and replayed once. The seconds of a turn are those of the batch.
        """
        reading = run_to_end(self.read(messages))
        return [
            self.turn(reading, branch, generated)
            for branch, generated in reading.session.branch(seeds, **self.decoding())
        ]

    def read(
        self,
        messages: Sequence[Message],
        opening: str = "",
    ) -> Generator[None, None, Reading]:
        """Read what is new in a conversation; the generator pauses after every piece of it.

        `stream` reads and writes. This is for who does the writing in another way, and tells of it
        by `turn`. Each piece may be read in a thread of its own.

        Args:
            messages: As in `act`.
            opening: As in `stream`.

        Returns:
            What has been read, as the value of the generator.

        Raises:
            ValueError: The conversation does not end with a turn that the policy can answer.
            ContextError: It is too long.
        """
        began = time.perf_counter()
        adapter, maps = self.pair.policy, self._store if self._maps else None
        encoder = ContextEncoder(self.pair.processor, self._store, adapter, self.pair.lock)
        keys = (self._own, *keys_of(messages))
        self._check_text(messages)
        end = len(messages)
        if not end or messages[-1]["role"] == "assistant":
            raise ValueError("the conversation must end with a turn that the policy can answer")
        turns = [n for n in range(1, end) if _wrote(messages[n - 1]) != _wrote(messages[n])]
        # A session that is kept stands before a turn of the policy's or behind it.
        best = self.sessions.longest([keys[: n + 1] for n in (*turns, end)])
        start = len(best.messages) - 1 if best else 0
        session = best.session.fork() if best else ReplaySession(self.pair, self.config)
        replay = best.replay if best else None
        known = session.length
        while start < end:
            stop = start
            while stop < end and messages[stop]["role"] != "assistant":
                stop += 1
            if stop > start:
                room = self._room(session.length)
                segment = yield from encoder.encoding(messages[:stop], start, room)
                report = yield from session.appending(segment)
                blocks = session.blocks[len(session.blocks) - len(segment.blocks) :]
                replay = replay_record(report, segment, blocks, adapter, maps)
            if stop < end:
                session.extend_generated(self._written(messages[stop]))
            start = stop + 1
        self.sessions.keep(keys, session.fork(), replay)
        tokens = session.length
        tell(sum(map(_wrote, messages)), tokens, known, replay)
        opened: list[int] = []
        if opening:
            opened = self.pair.tokenizer.encode(opening, add_special_tokens=False)
            session.extend_generated(opened)
        return Reading(keys, session, replay, tokens, known, tuple(opened), began)

    def _room(self, tokens: int) -> int | None:
        """How many more tokens a conversation of so many may have."""
        return None if self.max_context is None else self.max_context - tokens

    def _check_text(self, messages: Sequence[Message]) -> None:
        """Refuse what is too long by far before it is made tokens, which takes its time."""
        parts = [part for message in messages for part in message["content"]]
        letters = sum(len(part["text"]) for part in parts if part["type"] == "text")
        if self.max_context is not None and letters > CHARACTERS_PER_TOKEN * self.max_context:
            raise ContextError(
                f"the conversation has {letters} characters; its {self.max_context} tokens may "
                f"have {CHARACTERS_PER_TOKEN} each: send less text"
            )

    def decoding(
        self, sampling: Sampling | None = None, stop_strings: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Options of `ReplaySession.generate` for a turn.

        Args:
            sampling: As in `stream`.
            stop_strings: As in `stream`.
        """
        stops = (*self.stop_strings, *stop_strings)
        return {**asdict(sampling or self.sampling), "stop_strings": stops}

    def turn(self, reading: Reading, session: ReplaySession, generated: Generation) -> PolicyTurn:
        """Keep the session for the next turn, and tell of this one.

        Args:
            reading: The conversation that is answered.
            session: Has read it, and has what was generated.
            generated: Without what the turn had to begin with.
        """
        ids, text = generated.token_ids, generated.text
        if reading.opened:
            ids = (*reading.opened, *ids)
            text = self.pair.tokenizer.decode(ids, skip_special_tokens=True)
        message: Message = {
            "role": "assistant",
            "content": [{"type": "text", "text": text}],
            "token_ids": list(ids),
        }
        self.sessions.keep((*reading.keys, *keys_of([message])), session, reading.replay)
        return PolicyTurn(
            text=text,
            message=message,
            finish_reason=generated.finish_reason,
            replay=reading.replay,
            seconds=time.perf_counter() - reading.began,
            context_tokens=reading.tokens,
            known_tokens=reading.known,
            logprobs=generated.logprobs,
        )

    def close(self) -> None:
        """Drop every session and its caches."""
        self.sessions.clear()

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
