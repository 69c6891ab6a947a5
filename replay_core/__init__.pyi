from .analysis import Shift, compare_models
from .batch import Batch, Continuation
from .calibration import Calibration, calibrate, load_theta
from .config import Method, ReplayConfig, Side, Teacher, Threshold
from .embedded_pair import EMBEDDED, EMBEDDED_NAMES, embedded_config
from .errors import (
    ConfigError,
    ContextError,
    OptimisationError,
    PairMismatchError,
    ReplayError,
    SessionClosedError,
    UnsupportedModelError,
)
from .families.adapter import ModelAdapter
from .families.qwen import QwenTokens
from .families.registry import adapter_for
from .generation import Generation, TokenLogprob, run_to_end
from .lens import LensComparison
from .loading import load_for, load_pair
from .lora import is_adapter
from .pair import ModelPair
from .reports import BlockRecord, ReplayReport
from .segment import Segment, VisualBlock, VisualTokens
from .session import ReplaySession
from .sketch import Sketch

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
