"""The shift from the base's to the policy's activations at visual tokens, with and without replay.

The first half of arXiv 2511.19972: KL(base || policy) of the logit lens by layer and by the
entropy of the base, over the whole vocabulary and all layers, before and after replay.

Axes: L layers, T visual tokens, Q groups by base entropy, B bins of entropy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor

from visreplay.replay_core.calibration import histogram
from visreplay.replay_core.config import ReplayConfig
from visreplay.replay_core.errors import ConfigError, ContextError
from visreplay.replay_core.lens import Lens, LensComparison
from visreplay.replay_core.model_run import ActivationRecorder, SingleModelRun
from visreplay.replay_core.pair import ModelPair
from visreplay.replay_core.segment import Segment
from visreplay.replay_core.session import ReplaySession


class LensComparer:
    """A visitor that compares a run with the base's, layer by layer."""

    def __init__(self, lens: Lens, base: Lens, base_hidden: Sequence[Tensor]) -> None:
        """Prepare to compare.

        Args:
            lens: The lens of the model that runs.
            base: The lens of the base.
            base_hidden: The base's activations `(T, D)`, layer by layer. Higher layers are left
                out.
        """
        self._lens = lens
        self._base = base
        self._base_hidden = base_hidden
        self._parts: list[list[LensComparison]] = [[] for _ in base_hidden]

    def __call__(self, layer: int, rows: slice, hidden_TD: Tensor) -> None:
        """Compare one layer for one chunk of positions."""
        if layer < len(self._base_hidden):
            base_TD = self._base_hidden[layer][rows]
            self._parts[layer].append(self._lens.compare(hidden_TD, self._base, base_TD))

    @property
    def comparison(self) -> LensComparison:
        """The comparison of all layers and positions, `(L, T)`."""
        return LensComparison.join(
            [LensComparison.join(parts) for parts in self._parts], torch.stack
        )


def compare_models(
    pair: ModelPair, segment: Segment, configs: Sequence[ReplayConfig]
) -> list[list[LensComparison]]:
    """Compare the policy with the base at the visual tokens of one context.

    It takes memory for chunks of `memory_bytes`, and for the base's activations of one visual block
    in all layers.

    Args:
        pair: Policy and base. All layers that the base still has are compared: load it whole.
        segment: The context.
        configs: The ways of replaying the policy, one or more; "none" is the policy as it is.

    Returns:
        For each of `configs`, for each visual block, a comparison `(L, T)`.

    Raises:
        ConfigError: the pair has no base, or a setting does not fit it.
        ContextError: there is nothing visual in the segment.
    """
    if pair.base is None:
        raise ConfigError("the policy is compared with its base: load the pair with a base")
    if not segment.blocks:
        raise ContextError("visual tokens are compared, but the segment has no image and no video")
    if any(config.swap_roles for config in configs):
        raise ConfigError("with swap_roles another model answers: analyse the pair swapped")
    depth = min(pair.base.depth, pair.policy.depth)
    sessions = [ReplaySession(pair, config) for config in configs]
    comparisons: list[list[LensComparison]] = [[] for _ in configs]
    base = SingleModelRun(pair.base, pair.base_features, depth, configs[0])
    for ids_T, block in segment.pieces():
        piece = Segment(ids_T, () if block is None else (block.at(0),))
        recorder = ActivationRecorder(depth)
        base.append(piece, recorder)
        hidden = recorder.hidden if block is not None else []
        for session, compared in zip(sessions, comparisons, strict=True):
            if block is None:
                session.append(piece)
                continue
            lens = Lens(pair.policy.norm, pair.policy.head, session.config.memory_bytes)
            comparer = LensComparer(lens, base.lens, hidden)
            session.append(piece, watch=comparer)
            compared.append(comparer.comparison)
    return comparisons


@dataclass(frozen=True, eq=False)
class Shift:
    """A summary of the comparison over the visual tokens of one context.

    Attributes:
        kl_LQ: Mean KL(base || model) in nats of every group by base entropy, the lowest first.
            NaN for a group without a token.
        changed_LQ: Share of tokens of every group whose most probable entry changed.
        base_entropy_LQ: Mean base entropy in nats of every group.
        entropy_LB: Number of tokens with an entropy in each bin from 0 to ln V nats.
        base_entropy_LB: The same counts for the base.
    """

    kl_LQ: Tensor
    changed_LQ: Tensor
    base_entropy_LQ: Tensor
    entropy_LB: Tensor
    base_entropy_LB: Tensor

    @classmethod
    def of(cls, blocks: Sequence[LensComparison], groups: int, bins: int, vocabulary: int) -> Self:
        """Reduce the comparisons of a context's visual blocks.

        Args:
            blocks: The comparison `(L, T)` of each block.
            groups: Number of groups of equally many tokens. They are formed within each block and
                layer, as the low-entropy sets of replay are.
            bins: Number of bins.
            vocabulary: V, the number of vocabulary entries.
        """
        group_LT = torch.cat([entropy_groups(b.base_entropy, groups) for b in blocks], dim=1)
        tokens = LensComparison.join(blocks, partial(torch.cat, dim=1))
        return cls(
            kl_LQ=_means(tokens.kl, group_LT, groups),
            changed_LQ=_means(tokens.changed, group_LT, groups),
            base_entropy_LQ=_means(tokens.base_entropy, group_LT, groups),
            entropy_LB=histogram(tokens.entropy, bins, vocabulary),
            base_entropy_LB=histogram(tokens.base_entropy, bins, vocabulary),
        )


def entropy_groups(entropy_LT: Tensor, groups: int) -> Tensor:
    """Group the tokens: 0 for the lowest entropies of a layer, up to `groups - 1`."""
    rank_LT = entropy_LT.argsort(dim=1, stable=True).argsort(dim=1)
    return rank_LT * groups // entropy_LT.shape[1]


def _means(value_LT: Tensor, group_LT: Tensor, groups: int) -> Tensor:
    member_LQT = group_LT[:, None] == torch.arange(groups)[:, None]
    return (value_LT.float()[:, None] * member_LQT).sum(-1) / member_LQT.sum(-1)
