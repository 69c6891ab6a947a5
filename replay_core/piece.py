"""New tokens, ready to run: what each model sees of a stretch of text or of a visual block."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

from torch import Tensor

from visreplay.replay_core.config import ReplayConfig, Teacher
from visreplay.replay_core.families.adapter import Features
from visreplay.replay_core.pair import ModelPair
from visreplay.replay_core.segment import VisualBlock
from visreplay.replay_core.teachers import ColourJitter, recoloured


@dataclass(frozen=True, eq=False)
class Piece:
    """A stretch of text or one visual block, as input features.

    Attributes:
        block: The visual block; None for text.
        policy: Input features of the policy, before any replay.
        base: Input features of the base, or of whatever model teaches.
        positions_3T: The rotary positions of both.
        redraw: Makes other features of the policy for every step of the optimisation; None takes
            `policy` for all.
    """

    block: VisualBlock | None
    policy: Features
    base: Features
    positions_3T: Tensor
    redraw: Callable[[], Features] | None = None

    @classmethod
    def embed(
        cls,
        pair: ModelPair,
        config: ReplayConfig,
        ids_T: Tensor,
        block: VisualBlock | None,
        start: int,
    ) -> Self:
        """Compute the features of both models.

        Args:
            pair: The models.
            config: The settings, of which the teacher counts.
            ids_T: The new tokens.
            block: The visual block that they stand for; None for text.
            start: The rotary position of the first.
        """
        policy = pair.policy
        if block is None:
            base = pair.base if config.teacher is Teacher.BASE and pair.base else policy
            positions_3T = policy.text_positions(len(ids_T), start)
            return cls(None, policy.embed(ids_T), base.embed(ids_T), positions_3T)
        redraw = None
        match config.teacher:
            case Teacher.BASE:
                student, teacher = pair.features(block)
            case Teacher.LOCAL | Teacher.WINDOW:
                student = teacher = policy.features(block)
            case Teacher.JITTER:
                student, teacher = policy.features(block), policy.features(recoloured(block))
            case Teacher.GLOBAL:
                redraw = partial(_jittered, pair, block, ColourJitter.of(pair.processor))
                student, teacher = redraw(), policy.features(block)
        return cls(block, student, teacher, policy.block_positions(block, start), redraw)


def _jittered(pair: ModelPair, block: VisualBlock, jitter: ColourJitter) -> Features:
    return pair.policy.features(jitter(block))
