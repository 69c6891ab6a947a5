"""The state behind a session: the tokens, up to three runs over them, and the visual blocks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from visreplay.replay_core.cache import GrowingTensor
from visreplay.replay_core.config import ReplayConfig, Teacher, Threshold
from visreplay.replay_core.families.adapter import Features, Visitor
from visreplay.replay_core.model_run import ModelRun
from visreplay.replay_core.objectives import Objective
from visreplay.replay_core.pair import ModelPair
from visreplay.replay_core.piece import Piece
from visreplay.replay_core.reports import BlockRecord
from visreplay.replay_core.segment import VisualBlock
from visreplay.replay_core.selection import entropy_limits
from visreplay.replay_core.teachers import window_mean
from visreplay.replay_core.visitors import LensReader, in_turn, read_only


class ContextState:
    """Tokens, runs and records: what a method works on.

    Attributes:
        ids: Every token so far.
        records: Every visual block so far.
        pair: The models.
        config: The settings.
        sketch: The sketch of the lens; None if there is none, or it was fitted to other models.
        policy_run: The policy with replay, all layers.
        base_run: The base, or another teacher; it stops at the last layer that is compared.
        plain_run: The policy without replay, as far as the base.
        final: Outputs of the policy's last layer, from which logits follow at any length.
        watch: A visitor that reads the policy's activations at new tokens, after replay.
        replayed: Tokens that were appended, with replay; those behind them were decoded without.
        turn_ends: Lengths at which something was appended behind generated tokens.
    """

    def __init__(self, pair: ModelPair, config: ReplayConfig) -> None:
        """Start with an empty context."""
        self.ids: list[int] = []
        self.records: list[BlockRecord] = []
        self.pair = pair
        self.config = config
        # The sketch was fitted to the base, and to no other teacher.
        self.sketch = pair.sketch if config.teacher is Teacher.BASE else None
        # Each run may lag behind `ids` by generated tokens, until it is needed next.
        self.policy_run = ModelRun(pair.policy, pair.policy.depth, config)
        teacher = pair.base if config.teacher is Teacher.BASE else None
        self.base_run = ModelRun(teacher or pair.policy, config.depth, config)
        self.plain_run = ModelRun(pair.policy, config.depth, config)
        self.final = GrowingTensor(axis=0)
        self.watch: Visitor | None = None
        self.replayed = 0
        self.turn_ends: tuple[int, ...] = ()

    def position(self, length: int | None = None) -> int:
        """Compute the rotary position behind the first `length` tokens (default: all)."""
        length = len(self.ids) if length is None else length
        before = [record for record in self.records if record.stop <= length]
        return length + sum(record.extent - record.length for record in before)

    def catch_up(self, run: ModelRun) -> None:
        """Run over the tokens that were generated since the run was needed last."""
        start = run.cache.length
        if start == len(self.ids):
            return
        features = run.adapter.embed(torch.tensor(self.ids[start:]))
        positions_3T = run.adapter.text_positions(len(features), self.position(start))
        if run is self.policy_run:
            self.prefill(features, positions_3T)
        else:
            run.advance(features, positions_3T)

    def prefill(
        self, features: Features, positions_3T: Tensor, visit: Visitor | None = None
    ) -> None:
        """Run the policy itself, all layers, over new positions."""
        visit = in_turn(visit, self.watch and read_only(self.watch))
        self.final.append(self.policy_run.advance(features, positions_3T, visit))

    def read_base(
        self, piece: Piece, *, top_k: int | None, keep_hidden: bool = False
    ) -> LensReader:
        """Run the teacher over new positions, with the lens on its first layers."""
        config, view, sketch = self.config, None, None
        if piece.block is not None:
            # The sketch was fitted to visual tokens, and its error measured on them.
            sketch = self.sketch
            if config.teacher is Teacher.WINDOW:
                view = window_mean(self.pair.policy.token_grid(piece.block))
        base = LensReader(
            self.base_run.lens,
            config.depth,
            top_k=top_k,
            keep_hidden=keep_hidden,
            sketch=sketch.base if sketch else None,
            view=view,
        )
        # A window reaches beyond a chunk's edge.
        self.base_run.advance(piece.base, piece.positions_3T, base, whole=view is not None)
        base.settle(
            lambda entropy_LT: entropy_limits(entropy_LT, config),
            by_highest=config.threshold is Threshold.RELATIVE,
        )
        return base

    def record(
        self,
        block: VisualBlock | None,
        entropy_LT: Tensor,
        chosen_LT: Tensor,
        after: Objective | None = None,
        kl_before: float | None = None,
        kl_path: Sequence[float] = (),
        replaced_LT: Tensor | None = None,
    ) -> BlockRecord | None:
        """Make the record of a visual block that begins here; None for text.

        Args:
            block: The block.
            entropy_LT: The base's entropies in nats.
            chosen_LT: Where the method works.
            after: What was measured after replay.
            kl_before: The divergence before replay, in nats.
            kl_path: The divergence before every step of the optimisation.
            replaced_LT: Where state replay replaced activations.
        """
        if block is None:
            return None
        return BlockRecord(
            start=len(self.ids),
            length=block.length,
            kind=block.kind,
            digest=block.digest,
            extent=self.pair.policy.extent(block),
            sizes=block.sizes,
            entropy_LT=entropy_LT.cpu(),
            chosen_LT=chosen_LT.cpu(),
            replaced_LT=None if replaced_LT is None else replaced_LT.cpu(),
            kl_before=kl_before,
            kl_after=after.mean() if after else None,
            kl_path=tuple(kl_path),
        )
