from .analysis import PromptComparison, Shift, compare_models
from .batch import Batch, Continuation
from .calibration import Calibration, calibrate, load_theta
from .config import Alignment, Method, ReplayConfig, Side, Teacher, Threshold
from .decoding import Decoding
from .embedded_pair import EMBEDDED, embedded_config
from .errors import (
    CheckpointError,
    ConfigError,
    ContextError,
    LogitsError,
    MemoryExhaustedError,
    OptimisationError,
    PairMismatchError,
    ReplayError,
    SessionClosedError,
    UnsupportedModelError,
)
from .families.adapter import ModelAdapter
from .generation import Generation, TokenLogprob
from .lens import LensComparison
from .loading import load_pair
from .pair import ModelPair
from .perturbation import Perturbation, PerturbedAnswers, perturb
from .released_objective import ObjectiveTerms, objective_terms
from .reports import BlockRecord, ReplayReport
from .segment import Segment, VisualBlock
from .session import ReplaySession

__all__ = [
    "EMBEDDED",
    "Alignment",
    "Batch",
    "BlockRecord",
    "Calibration",
    "CheckpointError",
    "ConfigError",
    "ContextError",
    "Continuation",
    "Decoding",
    "Generation",
    "LensComparison",
    "LogitsError",
    "MemoryExhaustedError",
    "Method",
    "ModelAdapter",
    "ModelPair",
    "ObjectiveTerms",
    "OptimisationError",
    "PairMismatchError",
    "Perturbation",
    "PerturbedAnswers",
    "PromptComparison",
    "ReplayConfig",
    "ReplayError",
    "ReplayReport",
    "ReplaySession",
    "Segment",
    "SessionClosedError",
    "Shift",
    "Side",
    "Teacher",
    "Threshold",
    "TokenLogprob",
    "UnsupportedModelError",
    "VisualBlock",
    "calibrate",
    "compare_models",
    "embedded_config",
    "load_pair",
    "load_theta",
    "objective_terms",
    "perturb",
]
