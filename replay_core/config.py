"""The settings of replay. `ReplayConfig.paper` has those of the authors' released code."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Self

from visreplay.replay_core.errors import ConfigError

QWEN2_5_VL_7B_THETA = (4.812, 4.781, 3.734, 3.297, 3.328, 3.812, 4.312)
"""State replay's entropy limits in nats for decoder layers 0 to 6 of the Qwen2.5-VL-7B pairs
(DeepEyes, Video-R1), measured on the outputs of the layers (method.md, method B)."""


class Method(StrEnum):
    """The way of replaying: what a session does to the policy when tokens are appended."""

    TOKEN = "token"
    """Optimise an offset on the input embeddings of every visual block (method A)."""
    STATE = "state"
    """Put the base's activations in the place of the policy's in the first layers (method B)."""
    FEATURE = "feature"
    """Put the base's visual features in the place of the policy's (ours, not the paper's)."""
    NONE = "none"
    """Do nothing: the plain policy. No base model is needed."""


class Threshold(StrEnum):
    """The rule for the entropy limit of a layer, below which a position counts as low.

    The first two rules take a limit from each visual block by itself. State replay, which edits
    text too, uses the limit of the last block before the text.
    """

    RELATIVE = "relative"
    """`tau` times the highest base entropy of the visual block at that layer (the paper's rule)."""
    QUANTILE = "quantile"
    """The `tau`-quantile of the base entropies of the visual block at that layer."""
    ABSOLUTE = "absolute"
    """A fixed number of nats per layer, `theta`."""


class Side(StrEnum):
    """The positions to replay, by their entropy.

    `high` and `all` are ablations of the paper, `random` is this project's.
    """

    LOW = "low"
    """Those up to the limit: the method."""
    HIGH = "high"
    """Those above the limit, instead."""
    ALL = "all"
    """Every position."""
    RANDOM = "random"
    """A random choice of as many positions of a block as are low; it depends on the place alone."""


class Teacher(StrEnum):
    """The source of the activations that are replayed.

    All but the first are smoothing controls. They need no base model, and show whether any
    smoothing of the policy's activations would do as well as the base's. "local" and "global" are
    the paper's, as its released code has them, and exist for token replay alone; the last two are
    this project's.
    """

    BASE = "base"
    """The base model's: the method."""
    LOCAL = "local"
    """None: the offset makes the policy's own logits alike within windows of 3 x 3 tokens."""
    GLOBAL = "global"
    """The plain policy's own. The policy itself sees images whose colours are jittered, in another
    way at every step, and answers from such an image too."""
    WINDOW = "window"
    """The plain policy's own, averaged over 3 x 3 neighbouring visual tokens of a frame."""
    JITTER = "jitter"
    """The plain policy's own, on images and videos with other colours."""


class Alignment(StrEnum):
    """The depth at which the policy meets the base (method.md, "Two alignments")."""

    SAME = "same"
    """The output of a layer meets the output of the same layer, as the paper's text defines it."""
    REFERENCE = "reference"
    """The base's output of a layer meets the policy's input of that layer, as in the authors'
    released code."""


PAPER_CONTROLS = (Teacher.LOCAL, Teacher.GLOBAL)
"""The smoothing controls of the paper, which take all visual tokens."""


@dataclass(frozen=True, slots=True)
class ReplayConfig:
    """Settings of a replay session (arXiv 2511.19972; steps refer to method.md).

    Attributes:
        method: Token, state or feature replay, or the plain policy.
        replay_layers: Token replay looks at decoder layers `0 .. replay_layers - 1`. The paper
            takes 16 of 28 for MM-Eureka-7B and 24 of 28 for VL-Rethinker-7B.
        state_layers: State replay edits decoder layers `0 .. state_layers - 1`.
        feature_layers: Feature replay chooses visual tokens by the entropies after decoder layer
            `feature_layers - 1`.
        patched_layers: Feature replay puts the base's activations at the chosen tokens of the
            first so many decoder layers, too. With all layers and `side="all"` it is a bound of
            what the replay of visual activations can do.
        threshold: The rule for the entropy limit of a layer.
        tau: Share of the maximum, or quantile, in (0, 1]; with 1, token replay takes every
            position of a block.
        theta: Limits in nats per layer for the absolute threshold. None means the published
            table of the 7B pairs, which has 7 layers.
        side: The side of the limit that is replayed.
        teacher: The source of the replayed activations.
        alignment: The depth at which the policy is compared with the base (token replay) or
            edited (state replay). "reference" is what the authors' released code does; under it
            state replay also edits generated tokens, as soon as something is appended to them.
        swap_roles: The base answers, and the policy's activations are replayed on it. It needs a
            pair whose base was kept whole.
        entry_layer: Where token replay's offset enters: 0 is the input embedding, l the output
            of decoder layer `l - 1`. Layers below it are not compared.
        top_k: Vocabulary entries of the base that the divergence is restricted to.
        steps: Gradient steps per visual block, at most; 0 leaves the embeddings exactly as they
            are.
        plateau: The optimisation of a block ends early when two steps lowered the divergence by
            less than this share of it; 0 takes all steps.
        learning_rate: Step size. For Adam it is in units of the root mean square of the
            activations that the offset is added to. None takes 0.02 for Adam and 10 for plain
            gradient descent.
        optimizer: "adam" gets further in fewer steps (`benchmarks/`); "sgd" is the paper's plain
            gradient descent, see `ReplayConfig.paper`.
        recompute_activations: Forget each layer's inner activations in the optimisation and
            compute them again for the gradient: a third more time, and memory for one layer
            instead of `replay_layers`. "auto" does so where they would take more than half of the
            free memory. It changes no result.
        memory_bytes: Upper bound, in bytes, of one chunk of full-vocabulary logits together
            with what its entropy needs, and of one chunk of gathered head rows.
        query_chunk: Positions that one forward pass takes at once. It bounds the attention mask
            (`query_chunk` x context) and changes no result. The optimisation of a block takes
            all of its positions at once, and so does the window teacher.
    """

    method: Method = Method.TOKEN
    replay_layers: int = 16
    state_layers: int = 7
    feature_layers: int = 1
    patched_layers: int = 0
    threshold: Threshold = Threshold.RELATIVE
    tau: float = 0.4
    theta: tuple[float, ...] | None = None
    side: Side = Side.LOW
    teacher: Teacher = Teacher.BASE
    alignment: Alignment = Alignment.SAME
    swap_roles: bool = False
    entry_layer: int = 0
    top_k: int = 50
    steps: int = 6
    plateau: float = 0.01
    learning_rate: float | None = None
    optimizer: Literal["sgd", "adam"] = "adam"
    recompute_activations: bool | Literal["auto"] = "auto"
    memory_bytes: int = 256 * 2**20
    query_chunk: int = 2048

    def __post_init__(self) -> None:
        """Check every setting; accept plain strings for the enumerations.

        Raises:
            ConfigError: names the value, the rule and the way out.
        """
        _coerce(self, "method", Method)
        _coerce(self, "threshold", Threshold)
        _coerce(self, "side", Side)
        _coerce(self, "teacher", Teacher)
        _coerce(self, "alignment", Alignment)
        layers = ("replay_layers", "state_layers", "feature_layers")
        for name in (*layers, "top_k", "memory_bytes", "query_chunk"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if self.patched_layers < 0:
            raise ConfigError(
                f"patched_layers is {self.patched_layers}, but must be 0 (features alone) or more"
            )
        if self.steps < 0:
            raise ConfigError(f"steps is {self.steps}, but must be 0 (no optimisation) or more")
        if not 0 <= self.plateau < 1:
            raise ConfigError(
                f"plateau is {self.plateau}, but must lie in [0, 1), a share of the divergence"
            )
        if not 0 < self.rate < math.inf:
            raise ConfigError(f"learning_rate is {self.rate}, but must be positive and finite")
        if not 0 < self.tau <= 1:
            raise ConfigError(
                f"tau is {self.tau}, but must lie in (0, 1]: it is a share of the highest entropy "
                "or a quantile; use threshold='absolute' with theta for limits in nats"
            )
        if self.optimizer not in ("sgd", "adam"):
            raise ConfigError(f"optimizer is {self.optimizer!r}, but must be 'sgd' or 'adam'")
        if self.recompute_activations not in (True, False, "auto"):
            raise ConfigError(
                f"recompute_activations is {self.recompute_activations!r}, but must be True, False "
                "or 'auto'"
            )
        if not 0 <= self.entry_layer < self.replay_layers:
            raise ConfigError(
                f"entry_layer is {self.entry_layer}, but must lie in 0 to "
                f"{self.replay_layers - 1}: the offset must enter below the last of the "
                f"{self.replay_layers} replay layers"
            )
        if self.entry_layer and self.method in (Method.STATE, Method.FEATURE):
            raise ConfigError(
                f"entry_layer is a setting of token replay, but the method is {str(self.method)!r}"
            )
        if self.alignment is Alignment.REFERENCE and self.method is Method.FEATURE:
            raise ConfigError(
                "alignment 'reference' is one of the paper's methods, but the method is 'feature', "
                "which is this project's: use alignment='same'"
            )
        if self.swap_roles and self.teacher is not Teacher.BASE:
            raise ConfigError(
                f"swap_roles needs the two models' activations, but the teacher is "
                f"{str(self.teacher)!r}: use teacher='base'"
            )
        if self.teacher in PAPER_CONTROLS:
            if self.method in (Method.STATE, Method.FEATURE):
                raise ConfigError(
                    f"the smoothing control {str(self.teacher)!r} is one of token replay, but the "
                    f"method is {str(self.method)!r}: use method='token'"
                )
            if self.side is not Side.ALL:
                raise ConfigError(
                    f"the smoothing control {str(self.teacher)!r} takes all visual tokens, but "
                    f"side is {str(self.side)!r}: use side='all'"
                )
        if self.theta is not None and self.threshold is not Threshold.ABSOLUTE:
            raise ConfigError(
                f"theta holds limits for the absolute threshold, but the threshold is "
                f"{str(self.threshold)!r}: use threshold='absolute', or leave out theta"
            )
        if any(math.isnan(limit) for limit in self.limits):
            raise ConfigError(f"theta is {self.theta}, but every limit must be a number of nats")
        if self.threshold is Threshold.ABSOLUTE and len(self.limits) < self.depth:
            raise ConfigError(
                f"theta has {len(self.limits)} limits, but {self.method} replay looks at "
                f"{self.depth} layers: give one limit per layer, or look at fewer layers"
            )

    @classmethod
    def paper(cls, method: Method = Method.TOKEN, **changes: Any) -> Self:
        """Return the settings of the authors' released code for a method.

        Both methods with its alignment. Token replay takes 25 steps of plain gradient descent at
        rate 10; state replay takes the published limits in nats of the Qwen2.5-VL-7B pairs. The
        smoothing control "local" enters at layer 15.

        Args:
            method: The method.
            **changes: Fields to set otherwise. With `teacher="local"` or "global" they complete
                the settings of the control.

        Raises:
            ConfigError: The method is not the paper's, or a setting is out of range.
        """
        if Method(method) is Method.FEATURE:
            raise ConfigError(
                "feature replay is this project's, and the paper has no settings for it: use "
                "ReplayConfig('feature')"
            )
        published: dict[str, Any] = {
            "alignment": Alignment.REFERENCE,
            "optimizer": "sgd",
            "steps": 25,
            "plateau": 0.0,
        }
        if Method(method) is Method.STATE:
            published["threshold"] = Threshold.ABSOLUTE
        teacher = Teacher(changes.get("teacher", Teacher.BASE))
        if teacher in PAPER_CONTROLS:
            published["side"] = Side.ALL
        if teacher is Teacher.LOCAL:
            published["entry_layer"] = 15
        return cls(method, **{**published, **changes})

    @property
    def rewrites_generated(self) -> bool:
        """Whether generated tokens run once more, with replay, when something is appended."""
        return self.method is Method.STATE and self.alignment is Alignment.REFERENCE

    def check_depths(self, policy: int, base: int | None, sketch: int | None) -> None:
        """Check that the models of a pair have what the settings ask for.

        Args:
            policy: Number of decoder layers of the policy.
            base: The same of the base; None if there is no base.
            sketch: Number of layers that the pair's sketch was fitted for; None without a sketch.

        Raises:
            ConfigError: the method needs a base, or more layers than there are.
        """
        if self.method is Method.NONE:
            return
        if base is None and self.teacher is Teacher.BASE:
            raise ConfigError(
                f"method {str(self.method)!r} needs a base model, but the pair has none: "
                "load it with a base, or use method 'none'"
            )
        for name, depth in (("policy", policy), ("base", base)):
            if depth is not None and self.depth > depth:
                setting = f"{self.method}".replace("token", "replay") + "_layers"
                raise ConfigError(
                    f"{setting} is {self.depth}, but the {name} has {depth} decoder "
                    f"layers: choose {setting}={depth} or less"
                )
        if sketch is not None and self.depth > sketch:
            raise ConfigError(
                f"the pair's sketch was fitted for {sketch} layers, but "
                f"{self.method} replay looks at {self.depth}: fit it for as many"
            )

    @property
    def rate(self) -> float:
        """The learning rate, with the optimiser's default filled in."""
        default = 10.0 if self.optimizer == "sgd" else 0.02
        return default if self.learning_rate is None else self.learning_rate

    @property
    def lag(self) -> int:
        """Number of layers from the policy's activations up to those of the base: 0 or 1."""
        return int(self.alignment is Alignment.REFERENCE)

    @property
    def depth(self) -> int:
        """Number of first decoder layers that the method compares: L of the paper."""
        match self.method:
            case Method.TOKEN:
                return self.replay_layers
            case Method.STATE:
                return self.state_layers
            case Method.FEATURE:
                return max(self.feature_layers, self.patched_layers)
            case Method.NONE:
                return 0

    @property
    def limits(self) -> tuple[float, ...]:
        """The limits in nats of the absolute threshold, layer by layer."""
        return QWEN2_5_VL_7B_THETA if self.theta is None else self.theta


def _coerce(config: ReplayConfig, name: str, kind: type[StrEnum]) -> None:
    value = getattr(config, name)
    try:
        # The dataclass is frozen for its users; this is still its construction.
        object.__setattr__(config, name, kind(value))
    except ValueError:
        choices = ", ".join(repr(str(member)) for member in kind)
        raise ConfigError(f"{name} is {value!r}, but must be one of {choices}") from None
