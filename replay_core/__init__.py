"""Activation Replay for vision-language models: two models, tokens and activations.

    pair = load_pair("policy", "base", replay_layers=16)
    with ReplaySession(pair, ReplayConfig()) as session:
        batch = pair.processor(text=prompt, images=[image], return_tensors="pt")
        session.append(Segment.from_processor(batch, pair.policy))
        print(session.generate(max_new_tokens=256).text)

Method: arXiv 2511.19972. This package knows nothing of agents, tools or tasks.
"""

from visreplay.replay_core.analysis import Shift, compare_models
from visreplay.replay_core.batch import Batch, Continuation
from visreplay.replay_core.calibration import Calibration, calibrate, load_theta
from visreplay.replay_core.config import Method, ReplayConfig, Side, Teacher, Threshold
from visreplay.replay_core.embedded_pair import EMBEDDED, EMBEDDED_NAMES, embedded_config
from visreplay.replay_core.errors import (
    ConfigError,
    ContextError,
    OptimisationError,
    PairMismatchError,
    ReplayError,
    SessionClosedError,
    UnsupportedModelError,
)
from visreplay.replay_core.families.adapter import ModelAdapter
from visreplay.replay_core.families.qwen import QwenTokens
from visreplay.replay_core.families.registry import adapter_for
from visreplay.replay_core.generation import Generation, TokenLogprob, run_to_end
from visreplay.replay_core.lens import LensComparison
from visreplay.replay_core.loading import load_for, load_pair
from visreplay.replay_core.lora import is_adapter
from visreplay.replay_core.pair import ModelPair
from visreplay.replay_core.reports import BlockRecord, ReplayReport
from visreplay.replay_core.segment import Segment, VisualBlock, VisualTokens
from visreplay.replay_core.session import ReplaySession
from visreplay.replay_core.sketch import Sketch

__all__ = [
    "EMBEDDED",
    "EMBEDDED_NAMES",
    "Batch",
    "BlockRecord",
    "Calibration",
    "ConfigError",
    "ContextError",
    "Continuation",
    "Generation",
    "LensComparison",
    "Method",
    "ModelAdapter",
    "ModelPair",
    "OptimisationError",
    "PairMismatchError",
    "QwenTokens",
    "ReplayConfig",
    "ReplayError",
    "ReplayReport",
    "ReplaySession",
    "Segment",
    "SessionClosedError",
    "Shift",
    "Side",
    "Sketch",
    "Teacher",
    "Threshold",
    "TokenLogprob",
    "UnsupportedModelError",
    "VisualBlock",
    "VisualTokens",
    "adapter_for",
    "calibrate",
    "compare_models",
    "embedded_config",
    "is_adapter",
    "load_for",
    "load_pair",
    "load_theta",
    "run_to_end",
]
