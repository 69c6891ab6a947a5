"""Continuations of any number of contexts, decoded together, one token each at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from visreplay.replay_core.cache import KVCache
from visreplay.replay_core.context import Context
from visreplay.replay_core.errors import ContextError
from visreplay.replay_core.generation import Generation, TokenLogprob, TokenWriter, write_tokens
from visreplay.replay_core.model_run import ModelRun, without_autograd


class Continuation:
    """A continuation of a context, in a batch with others.

    `ReplaySession.join` begins one, `Batch.step` goes on with it, and `ReplaySession.continued`
    makes a session of it.

    Attributes:
        trunk: The context that is continued; it stays as it is.
        writer: Has the tokens so far, and draws more.
        error: Why no token could be drawn, if that ended it (logits that are no numbers, say). The
            others in its batch go on.
    """

    def __init__(self, trunk: Context, writer: TokenWriter) -> None:
        """Begin at the end of a context, and draw the first token.

        Args:
            trunk: The context.
            writer: Draws the tokens.
        """
        self.trunk = trunk
        self.error: Exception | None = None
        self.writer = writer
        # Outputs `(1, D)` of the policy's last layer at each token but the newest.
        self._outputs: list[Tensor] = []
        self._context: Context | None = None
        if not self.finished:
            writer.write(trunk.next_logits())

    @property
    def ids(self) -> Sequence[int]:
        """The tokens so far."""
        return self.writer.ids

    @property
    def logprobs(self) -> Sequence[TokenLogprob]:
        """The log-probabilities of the tokens so far, if they were requested."""
        return self.writer.logprobs

    @property
    def finished(self) -> bool:
        """Tell whether no other token follows."""
        return self.error is not None or self.writer.finished

    @property
    def length(self) -> int:
        """Number of positions in the policy's cache: the context, and all but the newest token."""
        return len(self.trunk.ids) + len(self._outputs)

    @property
    def context(self) -> Context:
        """The context with the new tokens. It costs a copy of their keys and values.

        Raises:
            ContextError: it is not finished.
            Exception: the error that ended it.
        """
        if self.error is not None:
            raise self.error
        if not self.finished:
            raise ContextError("a continuation has no context before it is written to its end")
        if self._context is None:
            cache = _run(self).cache
            self._context = self.trunk.continued(self.ids, cache.prefix(cache.length), ())
        return self._context

    def generation(self, tokenizer: Any) -> Generation:
        """Decode the tokens so far."""
        return self.writer.generation(tokenizer)

    def add(self, output_1D: Tensor, error: Exception | None) -> None:
        """Go on to the next token, which `writer` has drawn or has failed to draw.

        Args:
            output_1D: Output of the policy's last layer at the token before it.
            error: Why there is no next token.
        """
        self._outputs.append(output_1D)
        self.error = error

    def end(self, batch: KVCache, row: int) -> None:
        """Take the keys and values of the new tokens out of a row of a batch."""
        cache = _run(self).cache.extended(batch, row, len(self._outputs))
        self._context = self.trunk.continued(self.ids, cache, self._outputs)


class Batch:
    """Continuations of contexts of one policy, which come and go at any step.

    A continuation is what it would be alone. All of them pass the decoder layers together, and
    each row's past stands at the right of the batch's keys and values. These are copied whenever
    a continuation comes or goes, and every row is as long as the longest context. Contexts of
    very different lengths are better decoded in batches of their own.

    One thread at a time may use it. After an exception from `step` it cannot be used any more.

    Examples:
        >>> from PIL import Image
        >>> from visreplay.replay_core import Batch, ReplaySession, load_pair
        >>> pair = load_pair("embedded", device="cpu")
        >>> sessions = [ReplaySession(pair, "token") for _ in range(2)]
        >>> for session, colour in zip(sessions, ("red", "blue")):
        ...     _ = session.append("What is here?", images=[Image.new("RGB", (112, 112), colour)])
        >>> batch = Batch()
        >>> continuations = [session.join(batch, max_new_tokens=8) for session in sessions]
        >>> while batch.step():
        ...     pass
        >>> [continuation.finished for continuation in continuations]
        [True, True]
        >>> answered = [s.continued(each) for s, each in zip(sessions, continuations)]
    """

    def __init__(self) -> None:
        """Start empty."""
        self._rows: list[Continuation] = []
        self._new: list[Continuation] = []
        self._cache = KVCache(0)

    def __len__(self) -> int:
        """Number of continuations that are not finished."""
        return len(self._rows) + len(self._new)

    def add(self, continuation: Continuation) -> None:
        """Add a continuation, to be decoded from the next step on.

        Raises:
            ContextError: the others are of another model.
        """
        for other in (*self._rows, *self._new)[:1]:
            if _run(other).adapter is not _run(continuation).adapter:
                raise ContextError("a batch is written by one policy: open another one")
        if not continuation.finished:
            self._new.append(continuation)

    def drop(self, continuation: Continuation) -> None:
        """Drop a continuation before its end, if it is in the batch; the others go on."""
        if continuation in self._new:
            self._new.remove(continuation)
        elif continuation in self._rows:
            self._regroup([row for row in self._rows if row is not continuation])

    def step(self) -> list[Continuation]:
        """Decode one more token of each continuation.

        A continuation whose token cannot be drawn ends, with its `error` set.

        Returns:
            The continuations that have a new token; none once all are finished.
        """
        with without_autograd():
            return self._step()

    def _step(self) -> list[Continuation]:
        if self._new:
            self._regroup([*self._rows, *self._new])
            self._new = []
        if not self._rows:
            return []
        rows = self._rows
        run = _run(rows[0])
        output_KD = run.adapter.decode(
            torch.tensor([row.ids[-1] for row in rows]),
            torch.tensor([row.trunk.position() + len(row.ids) - 1 for row in rows]),
            self._cache,
            torch.tensor([row.length + 1 for row in rows]),
        )
        logits_KV = run.lens.logits(output_KD)
        errors = write_tokens([row.writer for row in rows], logits_KV)
        for index, (row, error) in enumerate(zip(rows, errors, strict=True)):
            row.add(output_KD[index : index + 1], error)
            if row.error is None and row.finished:
                row.end(self._cache, index)
        unfinished = [row for row in rows if not row.finished]
        if len(unfinished) < len(rows):
            self._regroup(unfinished)
        return rows

    def _regroup(self, rows: list[Continuation]) -> None:
        """Replace the rows, and the keys and values with them."""
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
