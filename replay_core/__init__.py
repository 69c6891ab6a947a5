"""Activation Replay for vision-language models: two models, tokens and activations.

    pair = load_pair("policy", "base", replay_layers=16)
    with ReplaySession(pair, ReplayConfig()) as session:
        batch = pair.processor(text=prompt, images=[image], return_tensors="pt")
        session.append(Segment.from_processor(batch, pair.policy))
        print(session.generate(max_new_tokens=256).text)

Method: arXiv 2511.19972. This package knows nothing of agents, tools or tasks.
"""

from visreplay.replay_core.adapters import ModelAdapter
from visreplay.replay_core.config import Method, ReplayConfig, Threshold
from visreplay.replay_core.context import BlockRecord
from visreplay.replay_core.embedded import EMBEDDED, EMBEDDED_NAMES, embedded_config
from visreplay.replay_core.errors import (
    ConfigError,
    ContextError,
    OptimisationError,
    PairMismatchError,
    ReplayError,
    SessionClosedError,
    UnsupportedModelError,
)
from visreplay.replay_core.families import adapter_for
from visreplay.replay_core.generation import Generation
from visreplay.replay_core.lora import is_adapter
from visreplay.replay_core.pair import ModelPair, load_pair
from visreplay.replay_core.segment import Segment, VisualBlock
from visreplay.replay_core.session import ReplayReport, ReplaySession

__all__ = [
    "EMBEDDED",
    "EMBEDDED_NAMES",
    "BlockRecord",
    "ConfigError",
    "ContextError",
    "Generation",
    "Method",
    "ModelAdapter",
    "ModelPair",
    "OptimisationError",
    "PairMismatchError",
    "ReplayConfig",
    "ReplayError",
    "ReplayReport",
    "ReplaySession",
    "Segment",
    "SessionClosedError",
    "Threshold",
    "UnsupportedModelError",
    "VisualBlock",
    "adapter_for",
    "embedded_config",
    "is_adapter",
    "load_pair",
]
