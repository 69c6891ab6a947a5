"""What each method does with new tokens: a stretch of text, or one visual block.

Source: arXiv 2511.19972 and method.md. Axes: L the layers that are compared, T positions.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from visreplay.replay_core.config import Method, Teacher
from visreplay.replay_core.context_state import ContextState
from visreplay.replay_core.objectives import Divergence, Objective, WindowVariance
from visreplay.replay_core.piece import Piece
from visreplay.replay_core.replay import StateReplay, token_replay
from visreplay.replay_core.reports import BlockRecord
from visreplay.replay_core.segment import VisualBlock
from visreplay.replay_core.selection import choose, choose_text, edits_text, entropy_limits
from visreplay.replay_core.visitors import ConfidenceGate, LensReader, in_turn


def _plainly(context: ContextState, piece: Piece) -> BlockRecord | None:
    context.prefill(piece.policy, piece.positions_3T)
    nothing_LT = torch.zeros(0, len(piece.policy))
    return context.record(piece.block, nothing_LT, nothing_LT.bool())


def _with_token_replay(context: ContextState, piece: Piece) -> BlockRecord | None:
    config = context.config
    if config.teacher is not Teacher.LOCAL:  # which has none
        context.catch_up(context.base_run)
        if piece.block is None:
            context.base_run.advance(piece.base, piece.positions_3T)
    if piece.block is None:
        context.prefill(piece.policy, piece.positions_3T)
        return None
    objective, entropy_LT = objective_of(context, piece, piece.block)
    offset, kl_path = token_replay(
        context.policy_run.adapter,
        objective,
        piece.policy,
        piece.positions_3T,
        context.policy_run.cache,
        config,
        piece.redraw,
    )
    entering = offset.on(piece.policy)
    objective.enter(entering)
    context.prefill(entering, piece.positions_3T, in_turn(offset.visitor, objective))
    kl_before = kl_path[0] if kl_path else objective.mean()
    chosen_LT = objective.chosen_LT
    return context.record(piece.block, entropy_LT, chosen_LT, objective, kl_before, kl_path)


def objective_of(
    context: ContextState, piece: Piece, block: VisualBlock
) -> tuple[Objective, Tensor]:
    """Make what token replay minimises on a block.

    Returns:
        The objective, and the teacher's entropies `(L, T)`, zero where none are read.
    """
    config, lens = context.config, context.policy_run.lens
    if config.teacher is Teacher.LOCAL:
        nothing_LT = torch.zeros(config.depth, len(piece.policy))
        everything_LT = torch.ones_like(nothing_LT, dtype=torch.bool)
        everything_LT[: config.entry_layer] = False
        grid = context.pair.policy.token_grid(block)
        return WindowVariance(lens, grid, everything_LT, config.lag), nothing_LT
    base = context.read_base(piece, top_k=config.top_k)
    chosen_LT = _chosen(context, base)
    # Layers below the offset's entry do not depend on it.
    chosen_LT[: config.entry_layer] = False
    targets = base.targets(chosen_LT)
    return Divergence(lens, targets, chosen_LT, config.lag), base.entropy_LT


def _with_state_replay(context: ContextState, piece: Piece) -> BlockRecord | None:
    config, lens = context.config, context.policy_run.lens
    context.catch_up(context.base_run)
    context.catch_up(context.plain_run)
    last = context.records[-1] if context.records else None
    if piece.block is None and not edits_text(last, config):
        _text_without_replay(context, piece)
        return None
    # A sketch saves the lens passes that only a report would need.
    sketch = context.sketch if piece.block is not None else None
    reports = piece.block is not None and sketch is None
    base = context.read_base(piece, top_k=config.top_k if reports else None, keep_hidden=True)
    if piece.block is None:
        chosen_LT = choose_text(base.entropy_LT, last, config, len(context.ids))
    else:
        chosen_LT = _chosen(context, base)
    before = after = None
    if reports:
        before = Divergence(lens, base.targets(chosen_LT), chosen_LT, config.lag)
        before.enter(piece.policy)
        after = before.fresh()
    gate = ConfidenceGate(lens, base, chosen_LT, sketch)
    context.plain_run.advance(piece.policy, piece.positions_3T, in_turn(gate, before))
    edit = StateReplay(base.hidden, gate.mask_LT, config.lag)
    entering = edit.enter(piece.policy, piece.base)
    if after:
        after.enter(entering)
    context.prefill(entering, piece.positions_3T, in_turn(edit, after))
    kl_before = before.mean() if before else None
    return context.record(
        piece.block, base.entropy_LT, chosen_LT, after, kl_before, replaced_LT=gate.mask_LT
    )


def _with_feature_replay(context: ContextState, piece: Piece) -> BlockRecord | None:
    config, lens = context.config, context.policy_run.lens
    context.catch_up(context.base_run)
    context.catch_up(context.plain_run)
    if piece.block is None:
        _text_without_replay(context, piece)
        return None
    patched = config.patched_layers
    base = context.read_base(piece, top_k=config.top_k, keep_hidden=patched > 0)
    low_LT = _chosen(context, base)
    # One layer decides for all that are replaced.
    low_T = low_LT[config.feature_layers - 1]
    chosen_LT = torch.zeros_like(low_LT)
    chosen_LT[config.feature_layers - 1] = low_T
    chosen_LT[:patched] = low_T
    before = Divergence(lens, base.targets(chosen_LT), chosen_LT, config.lag)
    after = before.fresh()
    context.plain_run.advance(piece.policy, piece.positions_3T, before)
    edit = StateReplay(base.hidden, chosen_LT[:patched]) if patched else None
    entering = piece.policy.exchanged(piece.base, low_T)
    context.prefill(entering, piece.positions_3T, in_turn(edit, after))
    return context.record(piece.block, base.entropy_LT, chosen_LT, after, before.mean())


def _text_without_replay(context: ContextState, piece: Piece) -> None:
    """Append text to all three runs, and replay nothing."""
    context.base_run.advance(piece.base, piece.positions_3T)
    context.plain_run.advance(piece.policy, piece.positions_3T)
    context.prefill(piece.policy, piece.positions_3T)


def _chosen(context: ContextState, base: LensReader) -> Tensor:
    """Choose the positions `(L, T)` of a visual block, by the base's entropies on it."""
    limits_L = entropy_limits(base.entropy_LT, context.config)
    return choose(base.entropy_LT, limits_L, context.config, len(context.ids))


APPEND: Mapping[Method, Callable[[ContextState, Piece], BlockRecord | None]] = {
    Method.NONE: _plainly,
    Method.TOKEN: _with_token_replay,
    Method.STATE: _with_state_replay,
    Method.FEATURE: _with_feature_replay,
}
"""How each method appends a piece to a context; each returns the record of a visual block."""
