"""The perturbation study: noise on the policy's visual activations, and what it does to answers.

Noise of a relative size enters the policy's activations at low-entropy visual positions (or high,
random or all ones) in the compared layers. Two things are measured under it: how far the policy is
from the base at the low-entropy positions, and how probable the policy finds given answers.

The idea is the paper's (arXiv 2511.19972); its sizes, layers and answers are not known here, and
the design is this project's. Axes: L compared layers, T positions, D hidden size, N answer tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from visreplay.replay_core.analysis import PromptPiece, base_of, prompt_pieces
from visreplay.replay_core.config import Method, ReplayConfig, Side
from visreplay.replay_core.errors import ConfigError, ContextError
from visreplay.replay_core.lens import Targets
from visreplay.replay_core.model_run import ModelRun, without_autograd
from visreplay.replay_core.objectives import Divergence
from visreplay.replay_core.pair import ModelPair
from visreplay.replay_core.segment import Segment
from visreplay.replay_core.selection import choose, entropy_limits
from visreplay.replay_core.visitors import LensReader, in_turn


@dataclass(frozen=True, slots=True)
class Perturbation:
    """Noise on the policy's visual activations.

    Attributes:
        side: The positions that get it, by their base entropy.
        size: Expected length of the noise, in units of the length of the activation that it is
            added to; 0 adds none.
    """

    side: Side
    size: float


@dataclass(frozen=True, eq=False)
class PerturbedAnswers:
    """The measurements under one perturbation.

    Attributes:
        kl: Mean KL(base || policy) on the low-entropy sets of the compared layers, in nats, with
            the noise, restricted to the base's top entries. NaN if no position is low.
        log_probs: Log-probability of each answer's tokens in nats, `(N,)` each.
    """

    kl: float
    log_probs: list[Tensor]


@dataclass(frozen=True, eq=False)
class _Block:
    """What a visual block needs of the base: its entropies, low-entropy sets and top entries."""

    index: int
    start: int
    entropy_LT: Tensor
    low_LT: Tensor
    targets: Sequence[Targets]


class Noise:
    """A visitor that adds noise to chosen activations; the same seed gives the same noise."""

    def __init__(self, chosen_LT: Tensor, size: float, seed: Sequence[int]) -> None:
        """Prepare to add.

        Args:
            chosen_LT: Where to add it.
            size: As in `Perturbation`.
            seed: Numbers that the noise follows from. It doesn't depend on `size`, nor on how the
                positions are split into chunks.
        """
        self._chosen_LT = chosen_LT
        self._size = size
        self._generators = [
            np.random.default_rng([*seed, layer]) for layer in range(len(chosen_LT))
        ]

    def __call__(self, layer: int, rows: slice, hidden_TD: Tensor) -> Tensor | None:
        """Add the noise of one layer for one chunk of positions."""
        if layer >= len(self._chosen_LT) or self._size == 0:
            return None
        chosen = self._chosen_LT[layer, rows].nonzero().flatten().to(hidden_TD.device)
        size_ND = (len(chosen), hidden_TD.shape[1])
        drawn = self._generators[layer].standard_normal(size_ND, dtype=np.float32)
        exact_ND = hidden_TD[chosen].float()
        scale_N1 = self._size * exact_ND.square().mean(dim=1, keepdim=True).sqrt()
        noisy_ND = exact_ND + scale_N1 * torch.from_numpy(drawn).to(hidden_TD.device)
        return hidden_TD.index_copy(0, chosen, noisy_ND.to(hidden_TD.dtype))


def perturb(
    pair: ModelPair,
    segment: Segment,
    answers: Sequence[Tensor],
    perturbations: Sequence[Perturbation],
    config: ReplayConfig,
    *,
    seed: Sequence[int] = (0,),
) -> Iterator[PerturbedAnswers]:
    """Measure given answers of the policy without replay, under one perturbation after another.

    Vision towers, the base, and the policy over the text before the first visual block run once;
    each perturbation runs the policy over the rest of the prompt, and each answer over its own
    tokens.

    Args:
        pair: Policy and base.
        segment: The prompt, up to the opening of the assistant's turn.
        answers: Tokens of each answer.
        perturbations: The perturbations.
        config: Settings of token replay: the layers (as many as both models have), the rule of the
            low-entropy set, and the number of top entries.
        seed: Numbers that the noise follows from.

    Raises:
        ConfigError: the pair has no base, or the settings are not of token replay.
        ContextError: there is nothing visual in the segment, or an answer has no token.
    """
    if config.method is not Method.TOKEN:
        raise ConfigError(f"the sets are token replay's, but the method is {config.method}")
    if not segment.blocks:
        raise ContextError("noise is for visual tokens, but the segment has no image and no video")
    if any(len(answer) == 0 for answer in answers):
        raise ContextError("an answer without a token has no probability")
    with without_autograd():
        pieces = list(prompt_pieces(pair, segment))
        blocks = _read_base(pair, pieces, config)
        opening = ModelRun(pair.policy, pair.policy.depth, config)
        if pieces[0].block is None:
            opening.advance(pieces[0].policy, pieces[0].positions_3T)
            pieces = pieces[1:]
            blocks = blocks[1:]
        end = sum(
            len(ids_T) if block is None else pair.policy.extent(block)
            for ids_T, block in segment.pieces()
        )
    for each in perturbations:
        with without_autograd():
            run = opening.prefix(opening.cache.length)
            total = weight = 0.0
            last_1D = torch.empty(0)
            for piece, block in zip(pieces, blocks, strict=True):
                visit = None
                if block is not None:
                    chosen_LT = _chosen(block, each.side, config)
                    noise = Noise(chosen_LT, each.size, (*seed, block.index))
                    divergence = Divergence(run.lens, block.targets, block.low_LT)
                    visit = in_turn(noise, divergence)
                last_1D = run.advance(piece.policy, piece.positions_3T, visit)[-1:]
                if block is not None and (kl := divergence.mean()) is not None:
                    total += kl * len(piece.segment)
                    weight += len(piece.segment)
            log_probs = [_log_probs(run, last_1D, answer, end) for answer in answers]
        yield PerturbedAnswers(total / weight if weight else float("nan"), log_probs)


def _read_base(
    pair: ModelPair, pieces: Sequence[PromptPiece], config: ReplayConfig
) -> list[_Block | None]:
    """Run the base over a prompt; return what is needed of it for each piece, None for text."""
    adapter = base_of(pair)
    depth = min(config.replay_layers, adapter.depth, pair.policy.depth)
    base = ModelRun(adapter, depth, config)
    blocks: list[_Block | None] = []
    start = 0
    for piece in pieces:
        if piece.block is None:
            base.advance(piece.base, piece.positions_3T)
            blocks.append(None)
        else:
            reader = LensReader(base.lens, depth, top_k=config.top_k)
            base.advance(piece.base, piece.positions_3T, reader)
            entropy_LT = reader.entropy_LT
            limits_L = entropy_limits(entropy_LT, config)
            low_LT = choose(entropy_LT, limits_L, replace(config, side=Side.LOW), start)
            index = sum(block is not None for block in blocks)
            blocks.append(_Block(index, start, entropy_LT, low_LT, reader.targets(low_LT)))
        start += len(piece.segment)
    return blocks


def _chosen(block: _Block, side: Side, config: ReplayConfig) -> Tensor:
    """Choose the positions of one side in a block."""
    limits_L = entropy_limits(block.entropy_LT, config)
    return choose(block.entropy_LT, limits_L, replace(config, side=side), block.start)


def _log_probs(run: ModelRun, last_1D: Tensor, answer_N: Tensor, position: int) -> Tensor:
    """Compute the log-probability of each token of an answer, `(N,)` on the CPU.

    Args:
        run: The policy's run over the prompt, which stays as it is.
        last_1D: The output of its last layer at the last token.
        answer_N: The tokens.
        position: The rotary position of the first of them.
    """
    hidden_ND = last_1D
    if len(answer_N) > 1:
        fork = run.prefix(run.cache.length)
        read_N = answer_N[:-1]
        positions_3N = run.adapter.text_positions(len(read_N), position)
        read_ND = fork.advance(run.adapter.embed(read_N), positions_3N)
        hidden_ND = torch.cat([last_1D, read_ND])
    parts = []
    # Logits, their float32 copy and the log-probabilities live at once.
    for rows in run.lens.chunks(len(answer_N), row_bytes=12 * run.lens.head.out_features):
        log_probs_NV = run.lens.logits(hidden_ND[rows]).log_softmax(-1)
        ids_N1 = answer_N[rows, None].to(log_probs_NV.device)
        parts.append(log_probs_NV.gather(-1, ids_N1)[:, 0].cpu())
    return torch.cat(parts)
