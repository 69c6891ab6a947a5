"""The context of both models, and the step that lengthens it.

`Context` is the state behind a session: the tokens, up to three runs over them, and a record of
every visual block. A fork is cheap, since caches share their past.
"""

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from visreplay.replay_core.cache import GrowingTensor, KVCache
from visreplay.replay_core.config import Alignment, Method, ReplayConfig, Teacher, Threshold
from visreplay.replay_core.errors import ContextError
from visreplay.replay_core.families.adapter import Features, Visitor
from visreplay.replay_core.model_run import ModelRun
from visreplay.replay_core.objectives import Divergence, Objective, WindowVariance
from visreplay.replay_core.pair import ModelPair
from visreplay.replay_core.piece import Piece
from visreplay.replay_core.replay import StateReplay, token_replay
from visreplay.replay_core.reports import BlockRecord
from visreplay.replay_core.segment import VisualBlock
from visreplay.replay_core.selection import choose, choose_text, edits_text, entropy_limits
from visreplay.replay_core.teachers import window_mean
from visreplay.replay_core.visitors import ConfidenceGate, LensReader, in_turn, read_only


class Context:
    """Tokens, runs and records. After an exception it cannot be used any more: work on a fork.

    Attributes:
        ids: Every token so far.
        records: Every visual block so far.
    """

    def __init__(self, pair: ModelPair, config: ReplayConfig) -> None:
        """Start with an empty context."""
        self.ids: list[int] = []
        self.records: list[BlockRecord] = []
        self._pair = pair
        self._config = config
        # The sketch was fitted to the base, and to no other teacher.
        self._sketch = pair.sketch if config.teacher is Teacher.BASE else None
        # Each run may lag behind `ids` by generated tokens, until it is needed next.
        # Base and plain policy stop at the last layer that is compared; only state replay needs
        # the plain policy, and the method "none" neither.
        self._policy = ModelRun(pair.policy, pair.policy.depth, config)
        teacher = pair.base if config.teacher is Teacher.BASE else None
        self._base = ModelRun(teacher or pair.policy, config.depth, config)
        self._plain = ModelRun(pair.policy, config.depth, config)
        # Outputs of the policy's last layer, from which logits follow at any length.
        self._final = GrowingTensor(axis=0)
        self._watch: Visitor | None = None
        # Tokens that were appended, with replay; those behind them were decoded without.
        self._replayed = 0

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
        other._policy = self._policy.prefix(length)
        other._base = self._base.prefix(length)
        other._plain = self._plain.prefix(length)
        other._final = self._final.prefix(min(length, len(self._final)))
        other._replayed = min(length, self._replayed)
        return other

    @property
    def memory(self) -> dict[int, int]:
        """Bytes of each storage of keys, values and outputs; contexts that share one count it once.

        The keys are identities, which are valid only as long as the context lives.
        """
        caches = (run.cache.memory for run in (self._policy, self._base, self._plain))
        return {key: size for each in (*caches, self._final.memory) for key, size in each.items()}

    def position(self, length: int | None = None) -> int:
        """Compute the rotary position behind the first `length` tokens (default: all)."""
        length = len(self.ids) if length is None else length
        before = [record for record in self.records if record.stop <= length]
        return length + sum(record.extent - record.length for record in before)

    def next_logits(self) -> Tensor:
        """Compute the logits `(V,)` of the next token, in float32."""
        run, last_1D = self.policy_end()
        return run.lens.logits(last_1D)[0]

    def policy_end(self) -> tuple[ModelRun, Tensor]:
        """Return the policy's run over all tokens, and its last output `(1, D)`, not normed."""
        self._catch_up(self._policy)
        return self._policy, self._final.data[-1:]

    def continued(self, ids: Sequence[int], cache: KVCache, outputs: Sequence[Tensor]) -> "Context":
        """Fork the context, with generated tokens that the policy has decoded in a batch.

        Args:
            ids: The tokens.
            cache: The policy's keys and values, with those of the decoded tokens.
            outputs: Outputs `(1, D)` of the policy's last layer at each of the decoded tokens.
        """
        other = self.prefix()
        other.ids += ids
        other._policy.cache = cache
        if outputs:
            other._final.append(torch.cat(list(outputs)))
        return other

    def check_room(self, ids_T: Tensor, blocks: Sequence[VisualBlock] = ()) -> None:
        """Refuse new tokens that the policy has no embeddings or no positions for.

        Raises:
            ContextError: ids outside the vocabulary, or more positions than the model has.
        """
        policy = self._pair.policy
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
        return self._pair.policy.max_positions - self.position()

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
        self._edit_generated()
        self._catch_up(self._policy)
        self._watch = watch
        piece = Piece.embed(self._pair, self._config, ids_T, block, self.position())
        match self._config.method:
            case Method.NONE:
                record = self._append_plainly(piece)
            case Method.TOKEN:
                record = self._append_with_token_replay(piece)
            case Method.STATE:
                record = self._append_with_state_replay(piece)
        self._watch = None
        self.ids.extend(ids_T.tolist())
        self._replayed = len(self.ids)
        if record is not None:
            self.records.append(record)
        return record

    def _edit_generated(self) -> None:
        """Run generated tokens once more, with replay, where the reference's alignment says so."""
        config, generated = self._config, self.ids[self._replayed :]
        if config.method is not Method.STATE or config.alignment is not Alignment.REFERENCE:
            return
        if generated:
            del self.ids[self._replayed :]
            self._policy = self._policy.prefix(self._replayed)
            self._final = self._final.prefix(self._replayed)
            self.append(torch.tensor(generated))

    def _append_plainly(self, piece: Piece) -> BlockRecord | None:
        self._prefill(piece.policy, piece.positions_3T)
        nothing_LT = torch.zeros(0, len(piece.policy))
        return self._record(piece.block, nothing_LT, nothing_LT.bool())

    def _append_with_token_replay(self, piece: Piece) -> BlockRecord | None:
        config = self._config
        if config.teacher is not Teacher.LOCAL:  # which has none
            self._catch_up(self._base)
            if piece.block is None:
                self._base.advance(piece.base, piece.positions_3T)
        if piece.block is None:
            self._prefill(piece.policy, piece.positions_3T)
            return None
        objective, entropy_LT = self._objective(piece, piece.block)
        offset, kl_path = token_replay(
            self._policy.adapter,
            objective,
            piece.policy,
            piece.positions_3T,
            self._policy.cache,
            config,
            piece.redraw,
        )
        entering = offset.on(piece.policy)
        objective.enter(entering)
        self._prefill(entering, piece.positions_3T, in_turn(offset.visitor, objective))
        kl_before = kl_path[0] if kl_path else objective.mean()
        chosen_LT = objective.chosen_LT
        return self._record(piece.block, entropy_LT, chosen_LT, objective, kl_before, kl_path)

    def _objective(self, piece: Piece, block: VisualBlock) -> tuple[Objective, Tensor]:
        """Make what token replay minimises on a block.

        Returns:
            The objective, and the teacher's entropies `(L, T)`, zero where none are read.
        """
        config, lens = self._config, self._policy.lens
        if config.teacher is Teacher.LOCAL:
            nothing_LT = torch.zeros(config.depth, len(piece.policy))
            everything_LT = torch.ones_like(nothing_LT, dtype=torch.bool)
            everything_LT[: config.entry_layer] = False
            grid = self._pair.policy.token_grid(block)
            return WindowVariance(lens, grid, everything_LT, config.lag), nothing_LT
        base = self._read_base(piece, top_k=config.top_k)
        limits_L = entropy_limits(base.entropy_LT, config)
        chosen_LT = choose(base.entropy_LT, limits_L, config, len(self.ids))
        # Layers below the offset's entry do not depend on it.
        chosen_LT[: config.entry_layer] = False
        targets = base.targets(chosen_LT)
        return Divergence(lens, targets, chosen_LT, config.lag), base.entropy_LT

    def _append_with_state_replay(self, piece: Piece) -> BlockRecord | None:
        config, lens = self._config, self._policy.lens
        self._catch_up(self._base)
        self._catch_up(self._plain)
        last = self.records[-1] if self.records else None
        if piece.block is None and not edits_text(last, config):
            self._base.advance(piece.base, piece.positions_3T)
            self._plain.advance(piece.policy, piece.positions_3T)
            self._prefill(piece.policy, piece.positions_3T)
            return None
        # A sketch saves the lens passes that only a report would need.
        sketch = self._sketch if piece.block is not None else None
        reports = piece.block is not None and sketch is None
        base = self._read_base(piece, top_k=config.top_k if reports else None, keep_hidden=True)
        if piece.block is None:
            chosen_LT = choose_text(base.entropy_LT, last, config, len(self.ids))
        else:
            limits_L = entropy_limits(base.entropy_LT, config)
            chosen_LT = choose(base.entropy_LT, limits_L, config, len(self.ids))
        before = after = None
        if reports:
            before = Divergence(lens, base.targets(chosen_LT), chosen_LT, config.lag)
            before.enter(piece.policy)
            after = before.fresh()
        gate = ConfidenceGate(lens, base, chosen_LT, sketch)
        self._plain.advance(piece.policy, piece.positions_3T, in_turn(gate, before))
        edit = StateReplay(base.hidden, gate.mask_LT, config.lag)
        entering = edit.enter(piece.policy, piece.base)
        if after:
            after.enter(entering)
        self._prefill(entering, piece.positions_3T, in_turn(edit, after))
        kl_before = before.mean() if before else None
        return self._record(
            piece.block, base.entropy_LT, chosen_LT, after, kl_before, replaced_LT=gate.mask_LT
        )

    def _read_base(
        self, piece: Piece, *, top_k: int | None, keep_hidden: bool = False
    ) -> LensReader:
        """Run the teacher over new positions, with the lens on its first layers."""
        config, view, sketch = self._config, None, None
        if piece.block is not None:
            # The sketch was fitted to visual tokens, and its error measured on them.
            sketch = self._sketch
            if config.teacher is Teacher.WINDOW:
                view = window_mean(self._pair.policy.token_grid(piece.block))
        base = LensReader(
            self._base.lens,
            config.depth,
            top_k=top_k,
            keep_hidden=keep_hidden,
            sketch=sketch.base if sketch else None,
            view=view,
        )
        # A window reaches beyond a chunk's edge.
        self._base.advance(piece.base, piece.positions_3T, base, whole=view is not None)
        base.settle(
            lambda entropy_LT: entropy_limits(entropy_LT, config),
            by_highest=config.threshold is Threshold.RELATIVE,
        )
        return base

    def _catch_up(self, run: ModelRun) -> None:
        """Run over the tokens that were generated since the run was needed last."""
        start = run.cache.length
        if start == len(self.ids):
            return
        features = run.adapter.embed(torch.tensor(self.ids[start:]))
        positions_3T = run.adapter.text_positions(len(features), self.position(start))
        if run is self._policy:
            self._prefill(features, positions_3T)
        else:
            run.advance(features, positions_3T)

    def _prefill(
        self, features: Features, positions_3T: Tensor, visit: Visitor | None = None
    ) -> None:
        """Run the policy itself, all layers, over new positions."""
        visit = in_turn(visit, self._watch and read_only(self._watch))
        self._final.append(self._policy.advance(features, positions_3T, visit))

    def _record(
        self,
        block: VisualBlock | None,
        entropy_LT: Tensor,
        chosen_LT: Tensor,
        after: Objective | None = None,
        kl_before: float | None = None,
        kl_path: Sequence[float] = (),
        replaced_LT: Tensor | None = None,
    ) -> BlockRecord | None:
        if block is None:
            return None
        return BlockRecord(
            start=len(self.ids),
            length=block.length,
            kind=block.kind,
            digest=block.digest,
            extent=self._pair.policy.extent(block),
            entropy_LT=entropy_LT.cpu(),
            chosen_LT=chosen_LT.cpu(),
            replaced_LT=None if replaced_LT is None else replaced_LT.cpu(),
            kl_before=kl_before,
            kl_after=after.mean() if after else None,
            kl_path=tuple(kl_path),
        )
