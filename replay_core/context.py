"""The context of both models, and the step that lengthens it.

A fork is cheap, since caches share their past.
"""

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from visreplay.replay_core.cache import KVCache
from visreplay.replay_core.context_state import ContextState
from visreplay.replay_core.errors import ContextError
from visreplay.replay_core.families.adapter import Visitor
from visreplay.replay_core.methods import APPEND
from visreplay.replay_core.model_run import ModelRun
from visreplay.replay_core.piece import Piece
from visreplay.replay_core.reports import BlockRecord
from visreplay.replay_core.segment import VisualBlock


class Context(ContextState):
    """A context that grows, and can be forked.

    After an exception it cannot be used any more: work on a fork.
    """

    def prefix(self, length: int | None = None) -> "Context":
        """Fork the first `length` tokens (default: all) as a context of their own, without a copy.

        Raises:
            ContextError: `length` is out of range, or inside a visual block.
        """
        length = len(self.ids) if length is None else length
        if not 0 <= length <= len(self.ids):
            raise ContextError(f"cannot crop a context of {len(self.ids)} tokens to {length}")
        for record in self.records:
            if record.start < length < record.stop:
                raise ContextError(
                    f"{length} lies inside the {record.kind} at tokens {record.start} to "
                    f"{record.stop - 1}: a visual block is kept or dropped as a whole"
                )
        other = copy(self)
        other.ids = self.ids[:length]
        other.records = [record for record in self.records if record.stop <= length]
        other.policy_run = self.policy_run.prefix(length)
        other.base_run = self.base_run.prefix(length)
        other.plain_run = self.plain_run.prefix(length)
        other.final = self.final.prefix(min(length, len(self.final)))
        other.replayed = min(length, self.replayed)
        other.turn_ends = tuple(end for end in self.turn_ends if end <= length)
        return other

    @property
    def memory(self) -> dict[int, int]:
        """Bytes of each storage of keys, values and outputs; contexts that share one count it once.

        The keys are identities, which are valid only as long as the context lives.
        """
        caches = (run.cache.memory for run in (self.policy_run, self.base_run, self.plain_run))
        return {key: size for each in (*caches, self.final.memory) for key, size in each.items()}

    def next_logits(self) -> Tensor:
        """Compute the logits `(V,)` of the next token, in float32."""
        run, last_1D = self.policy_end()
        return run.lens.logits(last_1D)[0]

    def policy_end(self) -> tuple[ModelRun, Tensor]:
        """Return the policy's run over all tokens, and its last output `(1, D)`, not normed."""
        self.catch_up(self.policy_run)
        return self.policy_run, self.final.data[-1:]

    def continued(self, ids: Sequence[int], cache: KVCache, outputs: Sequence[Tensor]) -> "Context":
        """Fork the context, with generated tokens that the policy has decoded in a batch.

        Args:
            ids: The tokens.
            cache: The policy's keys and values, with those of the decoded tokens.
            outputs: Outputs `(1, D)` of the policy's last layer at each of the decoded tokens.
        """
        other = self.prefix()
        other.ids += ids
        other.policy_run.cache = cache
        if outputs:
            other.final.append(torch.cat(list(outputs)))
        return other

    def check_room(self, ids_T: Tensor, blocks: Sequence[VisualBlock] = ()) -> None:
        """Refuse new tokens that the policy has no embeddings or no positions for.

        Raises:
            ContextError: ids outside the vocabulary, or more positions than the model has.
        """
        policy = self.pair.policy
        vocabulary = int(policy.text_config.vocab_size)
        wrong = ids_T[(ids_T < 0) | (ids_T >= vocabulary)]
        if len(wrong):
            raise ContextError(f"token id {int(wrong[0])} is not in the vocabulary of {vocabulary}")
        visual = sum(policy.extent(block) - block.length for block in blocks)
        missing = len(ids_T) + visual - self.room
        if missing > 0:
            raise ContextError(
                f"the context would take {policy.max_positions + missing} positions, but the model "
                f"has {policy.max_positions}: crop it, or use smaller images"
            )

    @property
    def room(self) -> int:
        """Number of positions that the policy has left."""
        return self.pair.policy.max_positions - self.position()

    def append(
        self, ids_T: Tensor, block: VisualBlock | None = None, watch: Visitor | None = None
    ) -> BlockRecord | None:
        """Append a stretch of text or one visual block, with replay.

        Args:
            ids_T: Its tokens.
            block: The visual block, if it is one.
            watch: A visitor that reads the policy's activations at the new tokens, after replay.

        Returns:
            The record of the block; None for text.
        """
        if self.replayed < len(self.ids):
            self.turn_ends += (len(self.ids),)
        self._edit_generated()
        self.catch_up(self.policy_run)
        self.watch = watch
        piece = Piece.embed(self.pair, self.config, ids_T, block, self.position())
        record = APPEND[self.config.method](self, piece)
        self.watch = None
        self.ids.extend(ids_T.tolist())
        self.replayed = len(self.ids)
        if record is not None:
            self.records.append(record)
        return record

    def _edit_generated(self) -> None:
        """Run generated tokens once more, with replay, where the reference's alignment says so."""
        generated = self.ids[self.replayed :]
        if generated and self.config.rewrites_generated:
            del self.ids[self.replayed :]
            self.policy_run = self.policy_run.prefix(self.replayed)
            self.final = self.final.prefix(self.replayed)
            self.append(torch.tensor(generated))
