"""Continuations of any number of contexts, written together, a token each at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from visreplay.replay_core.cache import KVCache
from visreplay.replay_core.context import Context, without_autograd
from visreplay.replay_core.errors import ContextError
from visreplay.replay_core.generation import Generation, TokenLogprob, TokenWriter
from visreplay.replay_core.model_run import ModelRun


class Continuation:
    """What is being written behind a context.

    `ReplaySession.join` begins one, `Batch.step` goes on with it, and `ReplaySession.continued`
    makes a session of it.

    Attributes:
        trunk: The context, which was read and replayed, and stays as it is.
        error: Why no token could be drawn, if that ended it: logits that are no numbers, say. The
            others in its batch go on.
    """

    def __init__(self, trunk: Context, writer: TokenWriter, limit: int) -> None:
        """Stand at the end of a context.

        Args:
            trunk: The context.
            writer: Draws the tokens.
            limit: Of how many.
        """
        self.trunk = trunk
        self.error: Exception | None = None
        self._writer = writer
        self._limit = limit
        # What the policy's last layer put out of each token that it has seen, all but the newest.
        self._outputs: list[Tensor] = []
        self._written: Context | None = None
        if self.goes_on:
            writer.write(trunk.next_logits())

    @property
    def ids(self) -> Sequence[int]:
        """The tokens so far."""
        return self._writer.ids

    @property
    def logprobs(self) -> Sequence[TokenLogprob]:
        """How probable they were, where that was asked for."""
        return self._writer.logprobs

    @property
    def goes_on(self) -> bool:
        """Whether another token follows."""
        return self.error is None and self._writer.goes_on(self._limit)

    @property
    def length(self) -> int:
        """How many positions the policy has seen: the context's, and all but the newest token."""
        return len(self.trunk.ids) + len(self._outputs)

    @property
    def context(self) -> Context:
        """The context with what was written. It costs a copy of the new keys and values.

        Raises:
            ContextError: it is being written.
            Exception: what ended it, if that was an error.
        """
        if self.error is not None:
            raise self.error
        if self.goes_on:
            raise ContextError("a continuation has no context before it is written to its end")
        if self._written is None:
            cache = _run(self).cache
            self._written = self.trunk.continued(self.ids, cache.prefix(cache.length), ())
        return self._written

    def generation(self, tokenizer: Any) -> Generation:
        """What was written so far."""
        return self._writer.generation(tokenizer)

    def write(self, output_1D: Tensor, logits_V: Tensor) -> None:
        """Add a token.

        Args:
            output_1D: What the policy's last layer put out of the newest one.
            logits_V: Of the next one.
        """
        self._outputs.append(output_1D)
        try:
            self._writer.write(logits_V)
        except Exception as error:
            self.error = error

    def end(self, batch: KVCache, row: int) -> None:
        """Take what has been written out of a batch."""
        cache = _run(self).cache.extended(batch, row, len(self._outputs))
        self._written = self.trunk.continued(self.ids, cache, self._outputs)


class Batch:
    """Continuations of contexts of one policy, which come and go at any step.

    A continuation is what it would be alone. All of them pass the decoder layers together, and
    each row's past stands at the right of the batch's keys and values: these are copied whenever
    one comes or goes, and hold the longest context as often as there are continuations. Those of
    very different lengths are better written in batches of their own.

    One thread at a time may use it. After an exception from `step` it is of no use.

    Example:
        >>> batch = Batch()
        >>> written = [session.join(batch, max_new_tokens=64) for session in sessions]
        >>> while batch.step():
        ...     pass
        >>> grown = [s.continued(each) for s, each in zip(sessions, written)]
    """

    def __init__(self) -> None:
        """Start empty."""
        self._rows: list[Continuation] = []
        self._new: list[Continuation] = []
        self._cache = KVCache(0)

    def __len__(self) -> int:
        """How many continuations go on."""
        return len(self._rows) + len(self._new)

    def add(self, continuation: Continuation) -> None:
        """Let a continuation be written from the next step on.

        Raises:
            ContextError: another model writes the others.
        """
        for other in (*self._rows, *self._new)[:1]:
            if _run(other).adapter is not _run(continuation).adapter:
                raise ContextError("a batch is written by one policy: open another one")
        if continuation.goes_on:
            self._new.append(continuation)

    def drop(self, continuation: Continuation) -> None:
        """Stop writing one before its end, if it is here; the others go on."""
        if continuation in self._new:
            self._new.remove(continuation)
        elif continuation in self._rows:
            self._regroup([row for row in self._rows if row is not continuation])

    def step(self) -> list[Continuation]:
        """Write one token more of each, and give those that have one; none when all have ended.

        One whose token cannot be drawn ends with its `error`.
        """
        with without_autograd():
            return self._step()

    def _step(self) -> list[Continuation]:
        if self._new:
            self._regroup([*self._rows, *self._new])
            self._new = []
        if not self._rows:
            return []
        written = self._rows
        run = _run(written[0])
        output_KD = run.adapter.decode(
            torch.tensor([row.ids[-1] for row in written]),
            torch.tensor([row.trunk.position() + len(row.ids) - 1 for row in written]),
            self._cache,
            torch.tensor([row.length + 1 for row in written]),
        )
        logits_KV = run.lens.logits(output_KD)
        for index, (row, logits_V) in enumerate(zip(written, logits_KV, strict=True)):
            row.write(output_KD[index : index + 1], logits_V)
            if row.error is None and not row.goes_on:
                row.end(self._cache, index)
        going = [row for row in written if row.goes_on]
        if len(going) < len(written):
            self._regroup(going)
        return written

    def _regroup(self, rows: list[Continuation]) -> None:
        """Make the batch's keys and values those of other rows."""
        places = {id(row): index for index, row in enumerate(self._rows)}
        self._cache.regroup(
            [
                (self._cache, places[id(row)], row.length)
                if id(row) in places
                else (_run(row).cache, 0, row.length)
                for row in rows
            ]
        )
        self._rows = rows


def _run(continuation: Continuation) -> ModelRun:
    """The policy's run over the context that is continued."""
    return continuation.trunk.policy_end()[0]
