"""The choice of replayed positions: the rule of the low-entropy set, and its ablations.

Source: method.md, method A step 2 and method B. Axes: L layers, T positions.
"""

import numpy as np
import torch
from torch import Tensor

from visreplay.replay_core.config import Method, ReplayConfig, Side, Teacher, Threshold
from visreplay.replay_core.reports import BlockRecord


def entropy_limits(entropy_LT: Tensor, config: ReplayConfig) -> Tensor:
    """Compute the entropy of each layer up to which a position counts as low.

    Args:
        entropy_LT: Base entropies of one visual block, in nats. One block at a time, so that a
            later image cannot change what was replayed on an earlier one.
        config: The settings, with the rule.

    Returns:
        `(L,)` in nats.
    """
    match config.threshold:
        case Threshold.RELATIVE:
            return config.tau * entropy_LT.amax(dim=1)
        case Threshold.QUANTILE:
            return entropy_LT.quantile(config.tau, dim=1)
        case Threshold.ABSOLUTE:
            return entropy_LT.new_tensor(config.limits[: len(entropy_LT)])


def choose(
    entropy_LT: Tensor,
    limits_L: Tensor,
    config: ReplayConfig,
    start: int,
    share_L: Tensor | None = None,
) -> Tensor:
    """Choose the positions of every layer that are on the replayed side of the limit.

    Args:
        entropy_LT: Base entropies in nats.
        limits_L: From `entropy_limits`.
        config: The settings, with the side. Method A takes a position at the limit itself,
            method B does not.
        start: Index of the first position in the context; with it, a random draw is the same
            however the tokens before it were split.
        share_L: For text on the random side: the share of each layer to draw. None takes exactly
            as many positions as are low.

    Returns:
        A mask `(L, T)`. On the low side it is the set S of method A, step 2.
    """
    limits_L1 = limits_L.to(entropy_LT.device)[:, None]
    strict = config.method is Method.STATE
    low_LT = entropy_LT < limits_L1 if strict else entropy_LT <= limits_L1
    match config.side:
        case Side.LOW:
            return low_LT
        case Side.HIGH:
            return ~low_LT
        case Side.ALL:
            return torch.ones_like(low_LT)
        case Side.RANDOM:
            draw_LT = _draws(len(low_LT), start, low_LT.shape[1]).to(low_LT.device)
            if share_L is not None:
                return draw_LT < share_L.to(low_LT.device)[:, None]
            rank_LT = draw_LT.argsort(dim=1).argsort(dim=1)
            return rank_LT < low_LT.sum(dim=1, keepdim=True)


def edits_text(last: BlockRecord | None, config: ReplayConfig) -> bool:
    """Tell whether state replay may edit text behind the visual block `last` (None: before any)."""
    if config.teacher is Teacher.WINDOW:
        return False  # text has no neighbours: this teacher equals the plain policy there
    has_limit = last is not None or config.threshold is Threshold.ABSOLUTE
    return has_limit or config.side is Side.ALL


def choose_text(
    entropy_LT: Tensor, last: BlockRecord | None, config: ReplayConfig, start: int
) -> Tensor:
    """Choose the text positions that state replay may edit.

    One limit per layer holds for text and visual positions alike, as in the published table. A
    limit that is taken from a visual block holds for the text behind it, up to the next one; text
    before the first block is left alone. So a position's limit depends on nothing behind its
    block, nor on how the tokens were split into segments.

    Args:
        entropy_LT: Base entropies in nats.
        last: The visual block before the text; None where there is none.
        config: The settings, with rule and side.
        start: Index of the first position in the context.

    Returns:
        A mask `(L, T)`.
    """
    if config.threshold is Threshold.ABSOLUTE:
        limits_L = entropy_limits(entropy_LT, config)
    elif last is not None:
        limits_L = entropy_limits(last.entropy_LT, config)
    else:
        limits_L = entropy_LT.new_full((len(entropy_LT),), -torch.inf)
    # Text at random: the share of the last block, none before the first.
    nothing_LT = torch.zeros(len(entropy_LT), 1)
    share_L = (nothing_LT if last is None else last.chosen_LT.float()).mean(dim=1)
    return choose(entropy_LT, limits_L, config, start, share_L)


def _draws(layers: int, start: int, count: int) -> Tensor:
    """Draw numbers in [0, 1) `(layers, count)` that depend on layer and position alone."""
    generator = np.random.default_rng(0)
    return torch.from_numpy(generator.random((start + count, layers), np.float32)[start:].T.copy())
