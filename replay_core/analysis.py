"""The shift from the base's to the policy's activations in a prompt, with and without replay.

The first half of arXiv 2511.19972: KL(base || policy) of the logit lens by layer and by the
entropy of the base, over the whole vocabulary and all layers, before and after replay.

Axes: L layers, T positions, Q groups by base entropy, B bins of entropy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor

from visreplay.replay_core.calibration import histogram
from visreplay.replay_core.config import ReplayConfig
from visreplay.replay_core.errors import ConfigError, ContextError
from visreplay.replay_core.families.adapter import Features, ModelAdapter
from visreplay.replay_core.lens import Lens, LensComparison
from visreplay.replay_core.model_run import ActivationRecorder, ModelRun, without_autograd
from visreplay.replay_core.pair import ModelPair
from visreplay.replay_core.segment import Segment, VisualBlock
from visreplay.replay_core.session import ReplaySession


@dataclass(frozen=True, eq=False)
class PromptPiece:
    """A stretch of text or one visual block of a prompt, as both models read it.

    Attributes:
        segment: Its tokens, and the block if it is one.
        block: The visual block; None for text.
        policy: Input features of the policy.
        base: Input features of the base.
        positions_3T: The rotary positions of both.
    """

    segment: Segment
    block: VisualBlock | None
    policy: Features
    base: Features
    positions_3T: Tensor


def prompt_pieces(pair: ModelPair, segment: Segment) -> Iterator[PromptPiece]:
    """Embed a prompt for both models, one stretch of text or one visual block at a time."""
    policy, base = pair.policy, base_of(pair)
    position = 0
    for ids_T, block in segment.pieces():
        if block is None:
            features = policy.embed(ids_T), base.embed(ids_T)
            positions_3T = policy.text_positions(len(ids_T), position)
            position += len(ids_T)
        else:
            features = pair.features(block)
            positions_3T = policy.block_positions(block, position)
            position += policy.extent(block)
        piece = Segment(ids_T, () if block is None else (block.at(0),))
        yield PromptPiece(piece, block, *features, positions_3T)


def base_of(pair: ModelPair) -> ModelAdapter:
    """Return the base of a pair.

    Raises:
        ConfigError: the pair has no base.
    """
    if pair.base is None:
        raise ConfigError("the policy is compared with its base: load the pair with a base")
    return pair.base


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


@dataclass(frozen=True, eq=False)
class PromptComparison:
    """The comparison of a model with the base at every position of a prompt.

    Attributes:
        blocks: A comparison `(L, T)` of each visual block.
        text: The comparison `(L, T)` of all text; None for a prompt without any.
    """

    blocks: list[LensComparison]
    text: LensComparison | None

    @classmethod
    def of(cls, pieces: Sequence[tuple[VisualBlock | None, LensComparison]]) -> Self:
        """Sort the comparisons of a prompt's pieces."""
        blocks = [each for block, each in pieces if block is not None]
        text = [each for block, each in pieces if block is None]
        return cls(blocks, join_positions(text) if text else None)

    @property
    def everything(self) -> LensComparison:
        """The comparison `(L, T)` of all positions, the visual ones first."""
        return join_positions([*self.blocks, *([] if self.text is None else [self.text])])


def join_positions(parts: Sequence[LensComparison]) -> LensComparison:
    """Join comparisons `(L, T)` of several stretches of positions."""
    return LensComparison.join(parts, partial(torch.cat, dim=1))


def compare_models(
    pair: ModelPair, segment: Segment, configs: Sequence[ReplayConfig]
) -> list[PromptComparison]:
    """Compare the policy with the base at all positions of a prompt, visual and text.

    It takes memory for chunks of `memory_bytes`, and for the base's activations of one visual block
    (or one stretch of text) in all layers.

    Args:
        pair: Policy and base. All layers that the base still has are compared: load it whole.
        segment: The prompt.
        configs: The ways of replaying the policy, one or more; "none" is the policy as it is.

    Returns:
        A comparison for each of `configs`.

    Raises:
        ConfigError: the pair has no base, or a setting does not fit it.
        ContextError: there is nothing visual in the segment.
    """
    adapter = base_of(pair)
    if not segment.blocks:
        raise ContextError("visual tokens are compared, but the segment has no image and no video")
    if any(config.swap_roles for config in configs):
        raise ConfigError("with swap_roles another model answers: analyse the pair swapped")
    depth = min(adapter.depth, pair.policy.depth)
    sessions = [ReplaySession(pair, config) for config in configs]
    compared: list[list[tuple[VisualBlock | None, LensComparison]]] = [[] for _ in configs]
    base = ModelRun(adapter, depth, configs[0])
    with without_autograd():
        for piece in prompt_pieces(pair, segment):
            recorder = ActivationRecorder(depth)
            base.advance(piece.base, piece.positions_3T, recorder)
            hidden = recorder.hidden
            for session, pieces in zip(sessions, compared, strict=True):
                lens = Lens(pair.policy.norm, pair.policy.head, session.config.memory_bytes)
                comparer = LensComparer(lens, base.lens, hidden)
                session.append(piece.segment, watch=comparer)
                pieces.append((piece.block, comparer.comparison))
    return [PromptComparison.of(pieces) for pieces in compared]


@torch.no_grad()
def compare_features(
    pair: ModelPair, segment: Segment, config: ReplayConfig
) -> list[LensComparison]:
    """Compare what both vision towers feed into the decoders, by the lens on it.

    Args:
        pair: Policy and base.
        segment: A prompt.
        config: Settings, of which the chunk sizes count here.

    Returns:
        A comparison `(1, T)` of each visual block.
    """
    lens, base = (
        Lens(each.norm, each.head, config.memory_bytes) for each in (pair.policy, base_of(pair))
    )
    features = (pair.features(block) for block in segment.blocks)
    return [
        LensComparison.join([lens.compare(ours.embeds_TD, base, theirs.embeds_TD)], torch.stack)
        for ours, theirs in features
    ]


@dataclass(frozen=True, eq=False)
class Shift:
    """A summary of the comparison over some positions of one prompt.

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
    def of(cls, parts: Sequence[LensComparison], groups: int, bins: int, vocabulary: int) -> Self:
        """Reduce the comparisons of some positions.

        Args:
            parts: The comparison `(L, T)` of each visual block, or of other sets of positions.
            groups: Number of groups of equally many tokens. They are formed within each part and
                layer, as the low-entropy sets of replay are.
            bins: Number of bins.
            vocabulary: V, the number of vocabulary entries.
        """
        group_LT = torch.cat([entropy_groups(part.base_entropy, groups) for part in parts], dim=1)
        tokens = join_positions(parts)
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
