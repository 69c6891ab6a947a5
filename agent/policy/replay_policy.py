"""The policy of an episode: a model under replay writes the turns."""

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, Self

from visreplay.agent.messages import Message, text_of
from visreplay.agent.policy.encoder import ContextEncoder, check_text
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.policy.session_cache import Keys, Replay, SessionCache, keys_of
from visreplay.agent.policy.telemetry import replay_record, report, with_maps
from visreplay.agent.policy.writing import ModelWriter, Writer
from visreplay.replay_core import (
    Generation,
    ModelPair,
    ReplayConfig,
    ReplaySession,
    TokenLogprob,
)
from visreplay.replay_core.control_tokens import ControlTokens
from visreplay.replay_core.decoding import checkpoint_decoding
from visreplay.replay_core.generation import run_to_end
from visreplay.tools import ImageStore, TokenGrid


@dataclass(frozen=True, slots=True)
class PolicyTurn:
    """One turn of a policy.

    Attributes:
        text: The turn without special tokens.
        message: The assistant message for the conversation, with the generated token ids.
        finish_reason: "stop", or "length" when the token limit cut the turn off.
        replay: The `replay_record` of the context's last new part.
        seconds: Wall time of reading the new context and writing the turn.
        context_tokens: Number of tokens in the context.
        known_tokens: How many of these had been read before.
        logprobs: Log-probabilities of the generated tokens, where they were requested.
    """

    text: str
    message: Message
    finish_reason: Literal["stop", "length"]
    replay: Replay
    seconds: float
    context_tokens: int = 0
    known_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()

    @classmethod
    def from_tokens(
        cls,
        ids: Sequence[int],
        tokenizer: Any,
        finish_reason: Literal["stop", "length"],
        **more: Any,
    ) -> Self:
        """Make the turn of some generated tokens.

        Args:
            ids: The tokens, with the end-of-turn token if there is one.
            tokenizer: Decodes them.
            finish_reason: As in the attributes.
            **more: The other attributes; without them nothing was replayed or measured.
        """
        text = tokenizer.decode(ids, skip_special_tokens=True)
        message: Message = {
            "role": "assistant",
            "content": [{"type": "text", "text": text}],
            "token_ids": list(ids),
        }
        return cls(text, message, finish_reason, **{"replay": None, "seconds": 0.0, **more})


@dataclass(frozen=True, slots=True)
class Reading:
    """A session that has read a whole conversation.

    Attributes:
        keys: Keys of the conversation.
        session: A fork of the cached session, so that other rollouts can start from there as well.
        replay: The report on the last part that was read, now or before.
        tokens: Number of tokens in the conversation.
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
            seed: Seed of the sampler, for this turn alone.
        """
        ...


class ReplayPolicy:
    """The pair's policy, with the base's activations replayed as context arrives.

    It takes the whole conversation at each turn, and continues from the cached session that has
    read the longest beginning of it: only the new part is encoded, read by the base, replayed and
    prefilled. So the steps of an episode, and several rollouts of one question, share their common
    beginning. A conversation that is new to it, for example one resumed from a checkpoint of
    another process, is read from its start and leads to the same turns, only slower. It may be
    used from several threads.

    In a run of LangGraph, a report on replay goes out on the `custom` stream before the first token
    of each turn (`telemetry.report`).

    Args:
        pair: Policy and base.
        replay: How to replay.
        store: Resolves image references.
        sampling: How to decode.
        recipe_sampling: How to decode where `sampling` says nothing: the settings of the protocol's
            recipe. Those of the checkpoint's `generation_config.json` come after them.
        stop_strings: Texts that end a turn (and stay in it), besides the model's own end tokens.
        sessions: The cache of sessions; policies may share one.
        max_context: Largest number of tokens in a conversation; None leaves it to the model.
        maps: Whether pictures of entropies and replayed tokens are put in the store.
        grid: The pixel budget of any image; None takes the processor's.
        writer: What writes the turns; None takes the pair's own model.
    """

    def __init__(
        self,
        pair: ModelPair,
        replay: ReplayConfig,
        store: ImageStore,
        *,
        sampling: Sampling = Sampling(),
        recipe_sampling: Sampling = Sampling(),
        stop_strings: tuple[str, ...] = (),
        sessions: SessionCache | None = None,
        max_context: int | None = None,
        maps: bool = True,
        grid: TokenGrid | None = None,
        writer: Writer | None = None,
    ) -> None:
        self.pair = pair
        self.replay = replay
        self.sampling = sampling
        self.stop_strings = stop_strings
        self.sessions = SessionCache() if sessions is None else sessions
        self.max_context = max_context
        self.writer: Writer = ModelWriter() if writer is None else writer
        self._recipe_sampling = recipe_sampling
        answers = pair.swapped().policy if replay.swap_roles else pair.policy
        self._checkpoint = Sampling(**checkpoint_decoding(answers.model.generation_config))
        self._store = store
        self._maps = maps
        self._grid = grid
        # Sessions of other models, settings of replay or sizes of images are not interchangeable.
        self._own = f"{id(pair)} {replay} {grid}"

    def act(self, messages: Sequence[Message], *, seed: int = 0) -> PolicyTurn:
        """Read the new part of the conversation and write the next turn."""
        return run_to_end(self.stream(messages, seed=seed))

    def stream(
        self,
        messages: Sequence[Message],
        *,
        seed: int | None = 0,
        sampling: Sampling = Sampling(),
        stop_strings: Sequence[str] = (),
        opening: str = "",
    ) -> Generator[int, None, PolicyTurn]:
        """Write the next turn, and yield every token of it as soon as it is drawn.

        Args:
            messages: As in `act`.
            seed: As in `act`; None takes torch's global generator.
            sampling: How to decode this turn, where it differs from the others.
            stop_strings: More texts that end the turn.
            opening: Text that the turn has to begin with.

        Returns:
            What `act` returns, as the value of the generator.
        """
        reading = run_to_end(self.read(messages, opening))
        yield from reading.opened
        options = self.decoding(sampling, stop_strings)
        writing = self.writer.stream(reading.session, seed=seed, **options)
        while True:
            try:
                token_id, _ = next(writing)
            except StopIteration as end:
                return self.turn(reading, *end.value)
            yield token_id

    def act_together(
        self, conversations: Sequence[tuple[Sequence[Message], int]]
    ) -> list[PolicyTurn]:
        """Write the next turns of several conversations as a batch: the turns of `act`.

        Conversations that are the same word for word are read and replayed once. The seconds of a
        turn last until the whole batch is written.

        Args:
            conversations: The messages and the seed of each, as in `act`.
        """
        read = dict[Keys, Reading]()
        readings, wishes = [], []
        for messages, seed in conversations:
            keys = keys_of(messages)
            if keys not in read:
                read[keys] = run_to_end(self.read(messages))
            readings.append(read[keys])
            wishes.append((read[keys].session, {"seed": seed, **self.decoding()}))
        ended = run_to_end(self.writer.together(wishes))
        return [self.turn(reading, *each) for reading, each in zip(readings, ended, strict=True)]

    def read(
        self,
        messages: Sequence[Message],
        opening: str = "",
    ) -> Generator[None, None, Reading]:
        """Read the new part of a conversation; the generator pauses after every piece of it.

        `stream` reads and writes. This is for callers that do the writing in another way, and then
        call `turn`. Each piece may be read in another thread.

        Args:
            messages: As in `act`.
            opening: As in `stream`.

        Returns:
            The session that has read all, as the value of the generator.

        Raises:
            ValueError: The conversation does not end with a turn that the policy can answer.
            ContextError: The conversation is too long.
        """
        began = time.perf_counter()
        adapter, maps = self.pair.policy, self._store if self._maps else None
        encoder = ContextEncoder(
            self.pair.processor, self._store, adapter, self.pair.lock, self._grid
        )
        keys = (self._own, *keys_of(messages))
        check_text(messages, self.max_context)
        end = len(messages)
        if not end or messages[-1]["role"] == "assistant":
            raise ValueError("the conversation must end with a turn that the policy can answer")
        turns = [n for n in range(1, end) if _wrote(messages[n - 1]) != _wrote(messages[n])]
        # A cached session has read up to the beginning or the end of a turn of the policy.
        best = self.sessions.longest([keys[: n + 1] for n in (*turns, end)])
        start = len(best.messages) - 1 if best else 0
        session = best.session.fork() if best else ReplaySession(self.pair, self.replay)
        replay = best.replay if best else None
        if replay and maps:
            first = len(session.blocks) - len(replay["blocks"])
            replay = with_maps(replay, session.blocks[first:], maps)
        known = session.length
        while start < end:
            stop = start
            while stop < end and messages[stop]["role"] != "assistant":
                stop += 1
            if stop > start:
                room = self._room(session.length)
                segment = yield from encoder.encoding(messages[:stop], start, room)
                appended = yield from session.appending(segment)
                blocks = session.blocks[len(session.blocks) - len(segment.blocks) :]
                replay = replay_record(appended, segment, blocks, adapter, maps)
            if stop < end:
                session.extend_generated(self._written(messages[stop]))
            start = stop + 1
        self.sessions.keep(keys, session.fork(), replay)
        tokens = session.length
        report(sum(map(_wrote, messages)), tokens, known, replay)
        opened: list[int] = []
        if opening:
            opened = self._tokens(opening)
            session.extend_generated(opened)
        return Reading(keys, session, replay, tokens, known, tuple(opened), began)

    def _room(self, tokens: int) -> int | None:
        """Count the tokens that a conversation of `tokens` may still add."""
        return None if self.max_context is None else self.max_context - tokens

    def resolved(self, sampling: Sampling = Sampling()) -> Sampling:
        """Fill in the settings of a turn: the policy's own, the recipe's, the checkpoint's.

        Args:
            sampling: As in `stream`.
        """
        return sampling.filled(self.sampling).resolved(self._recipe_sampling, self._checkpoint)

    def decoding(
        self, sampling: Sampling = Sampling(), stop_strings: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Build the options of `ReplaySession.generate` for a turn.

        Args:
            sampling: As in `stream`.
            stop_strings: As in `stream`.
        """
        stops = (*self.stop_strings, *stop_strings)
        return {**asdict(self.resolved(sampling)), "stop_strings": stops}

    def turn(self, reading: Reading, session: ReplaySession, generated: Generation) -> PolicyTurn:
        """Make the turn of a generation, and keep the session for the next one.

        Args:
            reading: The conversation that the turn answers.
            session: The session that has read the conversation and generated the turn.
            generated: The generation, without the opening.
        """
        turn = PolicyTurn.from_tokens(
            (*reading.opened, *generated.token_ids),
            self.pair.tokenizer,
            generated.finish_reason,
            replay=reading.replay,
            seconds=time.perf_counter() - reading.began,
            context_tokens=reading.tokens,
            known_tokens=reading.known,
            logprobs=generated.logprobs,
        )
        self.sessions.keep((*reading.keys, *keys_of([turn.message])), session, reading.replay)
        return turn

    def close(self) -> None:
        """Drop every session and its KV cache."""
        self.writer.forget(self.sessions.clear())

    def _written(self, message: Message) -> list[int]:
        """Find the tokens of an assistant's turn: the generated ones, else those of its text.

        The end of the turn, if it is not among them, comes with the next part (`encoding`).
        """
        if "token_ids" in message:
            return message["token_ids"]
        return self._tokens(text_of(message))

    def _tokens(self, text: str) -> list[int]:
        (text,) = ControlTokens.of(self.pair.processor).broken_in([text])
        ids: list[int] = self.pair.tokenizer.encode(text, add_special_tokens=False)
        return ids


def _wrote(message: Message) -> bool:
    """Tell whether the policy wrote a message."""
    return message["role"] == "assistant"
