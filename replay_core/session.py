"""One conversation with a policy under replay: append, generate, crop, fork."""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from visreplay.replay_core.batch import Batch, Continuation
from visreplay.replay_core.config import Method, ReplayConfig, Teacher
from visreplay.replay_core.context import Context, without_autograd
from visreplay.replay_core.errors import ConfigError, ContextError, SessionClosedError
from visreplay.replay_core.families.adapter import Visitor
from visreplay.replay_core.generation import (
    Generation,
    Sampler,
    StopRule,
    TokenWriter,
    eos_ids,
    run_to_end,
)
from visreplay.replay_core.pair import ModelPair
from visreplay.replay_core.reports import BlockRecord, ReplayReport
from visreplay.replay_core.segment import Segment, VisualBlock


class ReplaySession:
    """A context that grows, and the policy's answers to it.

    Appended tokens are seen once by the base (its first layers only), replayed, and seen once by
    the policy; earlier positions are never touched again. What the policy generates is decoded
    plainly and stays in the context. The result equals a recomputation from scratch.

    Every method either does all of its work or, if it raises, leaves the session as it was. The
    models are never changed. Forks may run in different threads; one session may not.

    Example:
        >>> with ReplaySession(pair, ReplayConfig(replay_layers=16)) as session:
        ...     batch = pair.processor(text=prompt, images=[image], return_tensors="pt")
        ...     report = session.append(Segment.from_processor(batch, pair.policy))
        ...     answer = session.generate(max_new_tokens=256)
    """

    def __init__(self, pair: ModelPair, config: ReplayConfig) -> None:
        """Start with an empty context.

        Raises:
            ConfigError: the method needs a base model that the pair lacks, or more layers than a
                model has.
        """
        if config.swap_roles:
            pair = pair.swapped()
        if config.method is not Method.NONE:
            if pair.base is None and config.teacher is Teacher.BASE:
                raise ConfigError(
                    f"method {str(config.method)!r} needs a base model, but the pair has none: "
                    "load it with a base, or use method 'none'"
                )
            for name, model in (("policy", pair.policy), ("base", pair.base)):
                if model is not None and config.depth > model.depth:
                    setting = f"{config.method}".replace("token", "replay") + "_layers"
                    raise ConfigError(
                        f"{setting} is {config.depth}, but the {name} has {model.depth} decoder "
                        f"layers: choose {setting}={model.depth} or less"
                    )
            sketch = pair.sketch if config.teacher is Teacher.BASE else None
            if sketch is not None and config.depth > sketch.depth:
                raise ConfigError(
                    f"the pair's sketch was fitted for {sketch.depth} layers, but "
                    f"{config.method} replay looks at {config.depth}: fit it for as many"
                )
        self.pair = pair
        self.config = config
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
        """What replay saw and did on every visual block of the context."""
        return tuple(self._open().records)

    @property
    def memory(self) -> dict[int, int]:
        """Bytes that the caches take, storage by storage (its identity).

        Forks share storages: the memory of several sessions is that of all different ones.
        """
        return self._open().memory

    @property
    def next_logits(self) -> Tensor:
        """Logits `(V,)` of the next token, in float32."""
        with self._work() as context:
            if not context.ids:
                raise ContextError("there is no next token in an empty context: append first")
            return context.next_logits()

    def append(self, segment: Segment, *, watch: Visitor | None = None) -> ReplayReport:
        """Append tokens and replay on the new ones.

        Visual blocks are taken one by one, each with all earlier ones frozen: one append of two
        pictures equals two appends of one.

        Args:
            segment: What to append.
            watch: Sees the output of every layer of the policy, after replay, for each stretch of
                text and each visual block in turn; its `rows` count from their beginning.

        Raises:
            ContextError: ids outside the vocabulary, or more positions than the model has.
        """
        return run_to_end(self.appending(segment, watch=watch))

    def appending(
        self, segment: Segment, *, watch: Visitor | None = None
    ) -> Generator[None, None, ReplayReport]:
        """Append tokens as `append` does, and pause after each stretch of text and each block.

        The session has them once the generator has come to its end; one that is dropped before
        leaves it as it was. Each piece may be read in a thread of its own.

        Args:
            segment: See there.
            watch: See there.

        Returns:
            What `append` returns, as the value of the generator; its seconds are those of reading.

        Raises:
            ContextError: See there.
        """
        self._check_fit(segment.token_ids, segment.blocks)
        context = self._open().prefix()
        records = []
        seconds = 0.0
        for ids_T, block in segment.pieces():
            start = time.perf_counter()
            with without_autograd():
                record = context.append(ids_T, block, watch)
            if record is not None:
                records.append(record)
            seconds += time.perf_counter() - start
            yield
        self._context = context
        return ReplayReport.of(self.config.method, records, seconds)

    def generate(
        self,
        *,
        max_new_tokens: int,
        stop_strings: Sequence[str] = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> Generation:
        """Let the policy write; what it writes stays in the context, as the very same tokens.

        Args:
            max_new_tokens: At most this many.
            stop_strings: Texts that end it as soon as they are complete; they are kept.
            temperature: 0 is greedy.
            top_p: Nucleus sampling, for temperatures above 0.
            seed: Makes sampling repeatable.

        Raises:
            ConfigError: a sampling setting is out of range.
            ContextError: the context is empty.
        """
        return run_to_end(
            self.stream(
                max_new_tokens=max_new_tokens,
                stop_strings=stop_strings,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
            )
        )

    def stream(
        self,
        *,
        max_new_tokens: int,
        stop_strings: Sequence[str] = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> Generator[int, None, Generation]:
        """Let the policy write as in `generate`, and give every token as soon as it is drawn.

        The session has what was written once the stream has come to its end; one that is dropped
        before leaves it as it was. Each step may run in a thread of its own.

        Args:
            max_new_tokens: As in `generate`, and so are the others.
            stop_strings: See there.
            temperature: See there.
            top_p: See there.
            seed: See there.

        Returns:
            What `generate` returns, as the value of the generator.

        Raises:
            ConfigError: a sampling setting is out of range.
            ContextError: the context is empty.
        """
        limit = self._room(max_new_tokens)
        writer = self._writer(stop_strings, temperature, top_p, seed)
        context = self._open().prefix()
        while writer.goes_on(limit):
            # Between two tokens the caller's own modes hold.
            with without_autograd():
                context.ids.append(writer.write(context.next_logits()))
            yield writer.ids[-1]
        self._context = context
        return writer.generation(self.pair.tokenizer)

    def branch(
        self,
        seeds: Sequence[int | None],
        *,
        max_new_tokens: int,
        stop_strings: Sequence[str] = (),
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> list[tuple[Self, Generation]]:
        """Let the policy write several continuations as a batch: rollouts of one question.

        What was appended has been read and replayed once. Each continuation is what `generate`
        would write with its seed, and comes with a session of its own; this one stays.

        Args:
            seeds: One for each continuation.
            max_new_tokens: As in `generate`, and so are the others.
            stop_strings: See there.
            temperature: See there.
            top_p: See there.

        Raises:
            ConfigError: a sampling setting is out of range.
            ContextError: the context is empty.
        """
        batch = Batch()
        begun = [
            self.join(
                batch,
                max_new_tokens=max_new_tokens,
                stop_strings=stop_strings,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
            )
            for seed in seeds
        ]
        while batch.step():
            pass
        return [(self.continued(each), each.generation(self.pair.tokenizer)) for each in begun]

    def join(
        self,
        batch: Batch,
        *,
        max_new_tokens: int,
        stop_strings: Sequence[str] = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        logprobs: int | None = None,
    ) -> Continuation:
        """Let the policy write in a batch with others; the session itself stays as it is.

        The first token is written at once, the others by `Batch.step`.

        Args:
            batch: Of continuations that the same policy writes.
            max_new_tokens: As in `generate`, and so are the others.
            stop_strings: See there.
            temperature: See there.
            top_p: See there.
            seed: See there.
            logprobs: Keep each token's log-probability, and so many of the most probable ones.

        Raises:
            ConfigError: a sampling setting is out of range.
            ContextError: the context is empty, or another policy writes the batch.
        """
        limit = self._room(max_new_tokens)
        writer = self._writer(stop_strings, temperature, top_p, seed, logprobs)
        with self._work() as context:
            continuation = Continuation(context, writer, limit)
        batch.add(continuation)
        return continuation

    def continued(self, continuation: Continuation) -> Self:
        """A session of its own, with what was written by a continuation of this one.

        Raises:
            ContextError: it is not written to its end.
        """
        twin = copy(self)
        twin._context = continuation.context
        return twin

    def extend_generated(self, ids: Sequence[int]) -> None:
        """Append tokens as if `generate` had written them now: to resume, or to force words.

        Raises:
            ContextError: ids outside the vocabulary, or more positions than the model has.
        """
        self._check_fit(torch.tensor(ids, dtype=torch.long))
        with self._work() as context:
            context.ids.extend(int(token) for token in ids)

    def crop(self, length: int) -> None:
        """Go back to the first `length` tokens.

        Raises:
            ContextError: `length` is out of range, or inside a visual block.
        """
        self._context = self._open().prefix(length)

    def common_prefix(self, segments: Sequence[Segment]) -> int:
        """How many first tokens of the context the segments begin with.

        Visual blocks count by their content, and never in part, so the answer is a length that
        `crop` and `Segment.after` take.
        """
        context = self._open()
        ids = [token for segment in segments for token in segment.token_ids.tolist()]
        pairs = zip(context.ids, ids, strict=False)
        length = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
        length = min(len(ids), len(context.ids)) if length is None else length
        ours = {(record.start, record.stop, record.digest) for record in context.records}
        theirs, start = set(), 0
        for segment in segments:
            for block in segment.blocks:
                theirs.add((start + block.start, start + block.stop, block.digest))
            start += len(segment)
        # The first block that only one side has, or that the first difference cuts, ends it.
        cut = {block for block in ours & theirs if block[1] > length}
        return min([length, *(block[0] for block in (ours ^ theirs) | cut)])

    def fork(self) -> Self:
        """A second session in the same state, which goes its own way from here."""
        twin = copy(self)
        twin._context = self._open().prefix()
        return twin

    def close(self) -> None:
        """Free the caches. The models belong to the pair and stay. May be called again."""
        self._context = None

    def __enter__(self) -> Self:
        """Nothing but the session itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _open(self) -> Context:
        if self._context is None:
            raise SessionClosedError("this session is closed: start a new one")
        return self._context

    @contextmanager
    def _work(self) -> Iterator[Context]:
        """A fork of the context to work on; it is kept only if nothing is raised."""
        context = self._open().prefix()
        with without_autograd():
            yield context
        self._context = context

    def _room(self, max_new_tokens: int) -> int:
        """How many tokens may be written."""
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {max_new_tokens}, but must be at least 1")
        context = self._open()
        if not context.ids:
            raise ContextError("there is nothing to continue: append a segment first")
        return min(max_new_tokens, self._max_position - context.position())

    def _writer(
        self,
        stop_strings: Sequence[str],
        temperature: float,
        top_p: float,
        seed: int | None,
        logprobs: int | None = None,
    ) -> TokenWriter:
        tokenizer = self.pair.tokenizer
        ends = StopRule(tokenizer, eos_ids(self.pair.policy.model, tokenizer), stop_strings)
        return TokenWriter(Sampler(temperature, top_p, seed), ends, logprobs)

    @property
    def _max_position(self) -> int:
        return int(self.pair.policy.text_config.max_position_embeddings)

    def _check_fit(self, ids_T: Tensor, blocks: Sequence[VisualBlock] = ()) -> None:
        """Refuse new tokens that the model has no embeddings or no positions for."""
        vocabulary = int(self.pair.policy.text_config.vocab_size)
        wrong = ids_T[(ids_T < 0) | (ids_T >= vocabulary)]
        if len(wrong):
            raise ContextError(f"token id {int(wrong[0])} is not in the vocabulary of {vocabulary}")
        visual = sum(self.pair.policy.extent(block) - block.length for block in blocks)
        end = self._open().position() + len(ids_T) + visual
        if end > self._max_position:
            raise ContextError(
                f"the context would take {end} positions, but the model has {self._max_position}: "
                "crop it, or use smaller pictures"
            )
