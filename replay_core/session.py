"""A session: one conversation with a policy under replay."""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from hashlib import sha256
from pathlib import Path
from typing import Self, Unpack
from uuid import uuid4

import torch
from PIL import Image
from torch import Tensor

from visreplay.replay_core.batch import Batch, Continuation
from visreplay.replay_core.config import ReplayConfig, Teacher
from visreplay.replay_core.context import Context
from visreplay.replay_core.decoding import Decoding
from visreplay.replay_core.errors import ConfigError, ContextError, SessionClosedError
from visreplay.replay_core.families.adapter import Visitor
from visreplay.replay_core.generation import Generation, TokenWriter, eos_ids, run_to_end
from visreplay.replay_core.model_run import without_autograd
from visreplay.replay_core.pair import ModelPair
from visreplay.replay_core.reports import BlockRecord, ReplayReport
from visreplay.replay_core.segment import Segment


class ReplaySession:
    """A context that grows, and the policy's answers to it.

    Appended tokens pass the base once (its first layers only), are replayed, and pass the policy
    once; earlier positions are never touched again. What the policy generates is decoded without
    replay and stays in the context as it is (but see `Alignment.REFERENCE`). The result equals a
    recomputation from scratch.

    Every method either does all of its work or, if it raises, leaves the session as it was. The
    models are never changed. Forks may run in different threads; one session may not.

    Examples:
        >>> from PIL import Image
        >>> from visreplay.replay_core import ReplaySession, load_pair
        >>> pair = load_pair("embedded", device="cpu")
        >>> with ReplaySession(pair, "token") as session:
        ...     report = session.append("What is here?", images=[Image.new("RGB", (224, 224))])
        ...     first = session.generate(max_new_tokens=8)
        ...     _ = session.append("And in the corner?")
        ...     second = session.generate(max_new_tokens=8)
        >>> report.new_visual_tokens, report.kl_after < report.kl_before
        (64, True)
    """

    def __init__(self, pair: ModelPair, replay: ReplayConfig | str = "token") -> None:
        """Start with an empty context.

        Args:
            pair: The models.
            replay: How to replay, as in `ModelPair.replay_config`.

        Raises:
            ConfigError: the method needs a base model that the pair lacks, or more layers than a
                model has.
        """
        config = pair.replay_config(replay)
        if config.swap_roles:
            pair = pair.swapped()
        config.check_depths(
            pair.policy.depth,
            pair.base.depth if pair.base else None,
            pair.sketch.depth if pair.sketch and config.teacher is Teacher.BASE else None,
        )
        self.pair = pair
        self.config = config
        self._root = uuid4().hex
        self._context: Context | None = Context(pair, config)

    @property
    def length(self) -> int:
        """Number of tokens in the context."""
        return len(self._open().ids)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens of the context."""
        return tuple(self._open().ids)

    @property
    def blocks(self) -> tuple[BlockRecord, ...]:
        """The record of replay on every visual block of the context."""
        return tuple(self._open().records)

    @property
    def memory(self) -> dict[int, int]:
        """Bytes that the caches take, storage by storage (its identity).

        Forks share storages: the memory of several sessions is that of all different ones.
        """
        return self._open().memory

    @property
    def lineage(self) -> str:
        """Name of what keys and values depend on beside tokens and visual blocks.

        Where two sessions of one lineage begin with the same tokens and blocks, their keys and
        values there are the same: a cache of an engine may use those of one for the other. Forks
        have the lineage of their origin, as long as every turn that they generate differently also
        reads differently, and earlier positions stay as they are.
        """
        context = self._open()
        ends = eos_ids(self.pair.policy.model, self.pair.tokenizer)
        # The tokens do not tell whether the end of a turn was generated or appended.
        told = [
            end
            for end in context.turn_ends
            if self.config.rewrites_generated or context.ids[end - 1] not in ends
        ]
        return sha256(repr((self._root, told)).encode()).hexdigest()

    @property
    def next_logits(self) -> Tensor:
        """Logits `(V,)` of the next token, in float32."""
        with self._work() as context:
            if not context.ids:
                raise ContextError("there is no next token in an empty context: append first")
            return context.next_logits()

    def append(
        self,
        turn: Segment | str,
        images: Sequence[Image.Image | str | Path] = (),
        *,
        watch: Visitor | None = None,
    ) -> ReplayReport:
        """Append a user turn, or any tokens, and replay on the new ones.

        Visual blocks are taken one by one, each with all earlier ones frozen: one append of two
        images equals two appends of one.

        Args:
            turn: The text of a user turn, which is encoded as in `ModelPair.user_turn`; or a
                segment of tokens, which is appended as it is.
            images: The images of the user turn: images of PIL, or paths of image files.
            watch: A visitor that reads the output of every layer of the policy, after replay, for
                each stretch of text and each visual block in turn; its `rows` count from their
                beginning.

        Raises:
            ContextError: an image that cannot be read, images beside a segment, ids outside the
                vocabulary, or more positions than the model has.
        """
        return run_to_end(self.appending(turn, images, watch=watch))

    def appending(
        self,
        turn: Segment | str,
        images: Sequence[Image.Image | str | Path] = (),
        *,
        watch: Visitor | None = None,
    ) -> Generator[None, None, ReplayReport]:
        """Append tokens as `append` does, and pause after each stretch of text and each block.

        The session has them once the generator has come to its end; a generator that is dropped
        before leaves the session as it was. Each step may run in a thread of its own.

        Args:
            turn: As in `append`.
            images: As in `append`.
            watch: As in `append`.

        Returns:
            The report of `append`, as the value of the generator, without the seconds of pauses.
        """
        context = self._open().prefix()
        if isinstance(turn, str):
            turn = self.pair.user_turn(turn, images, context_ids=context.ids)
        elif images:
            raise ContextError("images belong to a text, but a segment holds its own: give a text")
        context.check_room(turn.token_ids, turn.blocks)
        records = []
        seconds = 0.0
        for ids_T, block in turn.pieces():
            start = time.perf_counter()
            with without_autograd():
                record = context.append(ids_T, block, watch)
            if record is not None:
                records.append(record)
            seconds += time.perf_counter() - start
            yield
        self._context = context
        return ReplayReport.of(self.config.method, records, seconds)

    def generate(self, *, max_new_tokens: int, **decoding: Unpack[Decoding]) -> Generation:
        """Let the policy write; the new tokens stay in the context.

        Args:
            max_new_tokens: Number of tokens to write at most.
            **decoding: As in `Decoding`.

        Raises:
            ConfigError: a setting of decoding is out of range.
            ContextError: the context is empty.
        """
        return run_to_end(self.stream(max_new_tokens=max_new_tokens, **decoding))

    def stream(
        self, *, max_new_tokens: int, **decoding: Unpack[Decoding]
    ) -> Generator[int, None, Generation]:
        """Let the policy write as in `generate`, and yield every token as soon as it is drawn.

        The session has the new tokens once the stream has come to its end; a stream that is
        dropped before leaves it as it was. Each step may run in a thread of its own.

        Args:
            max_new_tokens: As in `generate`.
            **decoding: As in `generate`.

        Returns:
            The generation, as the value of the generator.
        """
        writer = self.writer(max_new_tokens=max_new_tokens, **decoding)
        context = self._open().prefix()
        while not writer.finished:
            # Between two tokens the caller's own modes hold.
            with without_autograd():
                context.ids.append(writer.write(context.next_logits()))
            yield writer.ids[-1]
        self._context = context
        return writer.generation(self.pair.tokenizer)

    def sample_many(
        self,
        seeds: Sequence[int | None],
        *,
        max_new_tokens: int,
        **decoding: Unpack[Decoding],
    ) -> list[tuple[Self, Generation]]:
        """Sample several continuations as a batch: rollouts of one question.

        The context is prefilled and replayed once. Each continuation is what `generate` would
        write with its seed, and comes with a session of its own; this session stays as it is.

        Args:
            seeds: The seed of each continuation.
            max_new_tokens: As in `generate`.
            **decoding: As in `Decoding`, without a seed; the temperature is 1 by default.

        Raises:
            ConfigError: As in `generate`.
            ContextError: As in `generate`.
        """
        batch = Batch()
        continuations = []
        for seed in seeds:
            settings: Decoding = {"temperature": 1.0, **decoding, "seed": seed}
            continuations.append(self.join(batch, max_new_tokens=max_new_tokens, **settings))
        while batch.step():
            pass
        tokenizer = self.pair.tokenizer
        return [(self.continued(each), each.generation(tokenizer)) for each in continuations]

    def join(
        self,
        batch: Batch,
        *,
        max_new_tokens: int,
        logprobs: int | None = None,
        **decoding: Unpack[Decoding],
    ) -> Continuation:
        """Let the policy write in a batch with others; the session itself stays as it is.

        The first token is drawn at once, the others by `Batch.step`.

        Args:
            batch: Continuations of the same policy.
            max_new_tokens: As in `generate`.
            logprobs: Keep each token's log-probability, and those of so many most probable tokens;
                None keeps none.
            **decoding: As in `generate`.

        Raises:
            ConfigError: As in `generate`.
            ContextError: the context is empty, or the batch is of another policy.
        """
        writer = self.writer(max_new_tokens=max_new_tokens, logprobs=logprobs, **decoding)
        with self._work() as context:
            continuation = Continuation(context, writer)
        batch.add(continuation)
        return continuation

    def continued(self, continuation: Continuation) -> Self:
        """Fork the session, with the tokens of a continuation that has joined a batch from here.

        Raises:
            ContextError: the continuation is not finished.
        """
        twin = copy(self)
        twin._context = continuation.context
        return twin

    def writer(
        self, *, max_new_tokens: int, logprobs: int | None = None, **decoding: Unpack[Decoding]
    ) -> TokenWriter:
        """Begin a continuation that something else than this session's model will write.

        Args:
            max_new_tokens: As in `generate`.
            logprobs: As in `join`.
            **decoding: As in `generate`.

        Raises:
            ConfigError: As in `generate`.
            ContextError: As in `generate`.
        """
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {max_new_tokens}, but must be at least 1")
        context = self._open()
        if not context.ids:
            raise ContextError("there is nothing to continue: append a segment first")
        limit = min(max_new_tokens, context.room)
        model, tokenizer = self.pair.policy.model, self.pair.tokenizer
        return TokenWriter.of(model, tokenizer, context.ids, limit, logprobs, **decoding)

    def extend_generated(self, ids: Sequence[int]) -> None:
        """Append tokens as if `generate` had written them now: to resume, or to force words.

        Raises:
            ContextError: ids outside the vocabulary, or more positions than the model has.
        """
        self._open().check_room(torch.tensor(ids, dtype=torch.long))
        with self._work() as context:
            context.ids.extend(int(token) for token in ids)

    def export(self, start: int = 0, stop: int | None = None) -> tuple[Tensor, Tensor]:
        """Copy what the policy keeps of some tokens, for an engine that decodes in its place.

        Args:
            start: Index of the first token.
            stop: Index behind the last one; None takes all.

        Returns:
            Keys, after the rotary embedding, and values, each `(L, T, H, D)`: layers, tokens,
            heads of keys and values, and the size of a head.

        Raises:
            ContextError: the context has no such tokens.
        """
        stop = self.length if stop is None else stop
        if not 0 <= start < stop <= self.length:
            raise ContextError(
                f"tokens {start} to {stop - 1} cannot be exported of a context of {self.length}"
            )
        with self._work() as context:
            context.catch_up(context.policy_run)
            return context.policy_run.cache.stretch(start, stop)

    def crop(self, length: int) -> None:
        """Go back to the first `length` tokens.

        Raises:
            ContextError: `length` is out of range, or inside a visual block.
        """
        self._context = self._open().prefix(length)
        self._root = uuid4().hex

    def fork(self) -> Self:
        """Make a second session in the same state, which goes its own way from here."""
        twin = copy(self)
        twin._context = self._open().prefix()
        return twin

    def close(self) -> None:
        """Free the caches. The models belong to the pair and stay. May be called again."""
        self._context = None

    def __enter__(self) -> Self:
        """Return the session itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()

    def _open(self) -> Context:
        if self._context is None:
            raise SessionClosedError("this session is closed: start a new one")
        return self._context

    @contextmanager
    def _work(self) -> Iterator[Context]:
        """Yield a fork of the context to work on, which is kept only if nothing is raised."""
        context = self._open().prefix()
        with without_autograd():
            yield context
        self._context = context
