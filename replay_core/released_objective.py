"""The objective of the paper's released code, term by term, and the part that is not RLVR's.

The released token replay compares the base's *output* of layer l with the policy's *input* of
layer l, which is the output of layer l - 1 (at l = 0 the input embedding). Two depths of one
model differ too, so this objective is not zero with the base itself in the policy's place. The
objective of the paper's text compares both models at one depth, and is zero then.

Each term is computed from recorded activations, apart from the code of replay itself. Axes: L the
compared layers, T positions, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visreplay.replay_core.analysis import base_of, prompt_pieces
from visreplay.replay_core.config import Method, ReplayConfig
from visreplay.replay_core.errors import ConfigError
from visreplay.replay_core.lens import Lens, Targets
from visreplay.replay_core.model_run import ActivationRecorder, ModelRun, without_autograd
from visreplay.replay_core.pair import ModelPair
from visreplay.replay_core.segment import Segment
from visreplay.replay_core.selection import choose, entropy_limits
from visreplay.replay_core.visitors import LensReader


@dataclass(frozen=True, eq=False)
class ObjectiveTerms:
    """The terms of the objective on one visual block before any step of replay.

    A term is the mean KL over the low-entropy set of a layer, in nats, restricted to the base's top
    entries; 0 for a layer whose set is empty. The objective is the sum of the terms, divided by the
    number of visual tokens.

    Attributes:
        released_L: The base's output of a layer against the policy's input of it.
        released_base_L: The same with the base in the policy's place: what is there without RLVR.
        same_depth_L: The base's output of a layer against the policy's output of it.
        tokens: Number of visual tokens.
    """

    released_L: Tensor
    released_base_L: Tensor
    same_depth_L: Tensor
    tokens: int


def objective_terms(
    pair: ModelPair, segment: Segment, config: ReplayConfig
) -> list[ObjectiveTerms]:
    """Compute the terms on every visual block of a prompt.

    It keeps both models' activations of one block in the compared layers.

    Args:
        pair: Policy and base.
        segment: The prompt.
        config: Settings of token replay: the layers (as many as both models have), the rule of the
            low-entropy set, and the number of top entries.

    Raises:
        ConfigError: the pair has no base, or the settings are not of token replay.
    """
    if config.method is not Method.TOKEN:
        raise ConfigError(f"the objective is token replay's, but the method is {config.method}")
    adapter = base_of(pair)
    depth = min(config.replay_layers, adapter.depth, pair.policy.depth)
    base, policy = ModelRun(adapter, depth, config), ModelRun(pair.policy, depth, config)
    terms = []
    start = 0
    with without_autograd():
        for piece in prompt_pieces(pair, segment):
            reader = recorder = None
            if piece.block is not None:
                reader = LensReader(base.lens, depth, top_k=config.top_k, keep_hidden=True)
                recorder = ActivationRecorder(depth)
            base.advance(piece.base, piece.positions_3T, reader)
            policy.advance(piece.policy, piece.positions_3T, recorder)
            if reader is not None and recorder is not None:
                limits_L = entropy_limits(reader.entropy_LT, config)
                chosen_LT = choose(reader.entropy_LT, limits_L, config, start)
                targets = reader.targets(chosen_LT)
                ours, theirs = recorder.hidden, reader.hidden
                entering = [piece.policy.embeds_TD, *ours[:-1]]
                entering_base = [piece.base.embeds_TD, *theirs[:-1]]
                terms.append(
                    ObjectiveTerms(
                        released_L=_terms(policy.lens, entering, targets, chosen_LT),
                        released_base_L=_terms(base.lens, entering_base, targets, chosen_LT),
                        same_depth_L=_terms(policy.lens, ours, targets, chosen_LT),
                        tokens=len(piece.segment),
                    )
                )
            start += len(piece.segment)
    return terms


def _terms(
    lens: Lens, hidden: Sequence[Tensor], targets: Sequence[Targets], chosen_LT: Tensor
) -> Tensor:
    """Compute the mean KL of activations `(T, D)` on the set of each layer, `(L,)` on the CPU."""
    means = []
    for hidden_TD, entries, chosen_T in zip(hidden, targets, chosen_LT, strict=True):
        rows = chosen_T.nonzero().flatten().to(hidden_TD.device)
        kl_N = lens.restricted_kl(hidden_TD[rows], entries)
        means.append(float(kl_N.mean()) if len(rows) else 0.0)
    return torch.tensor(means)
