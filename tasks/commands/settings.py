"""Options that are derived from settings classes: names, types and defaults stand there alone.

What the command line adds to a field, its help text above all, stands in `KNOBS`. A field without
an entry becomes an option as well; `tests/test_settings.py` asks for its help text.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, fields
from enum import StrEnum
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args, get_type_hints

import typer

from visreplay.agent.episode.limits import Limits
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.serving.limits import ServerLimits
from visreplay.replay_core.config import ReplayConfig

S = TypeVar("S")

MIB = 2**20
MILLION = 10**6
DAY = 24 * 60 * 60
_MOST = 10**9
"""The largest number of MiB, or of millions, that an option takes."""


@dataclass(frozen=True)
class Knob:
    """The option of the command line for a field of a settings class.

    Attributes:
        help: The help text.
        option: Name of the option, without dashes; None takes the field's name.
        unit: How much of the field one of the option is: 2**20 for MiB of a field in bytes.
        min: The smallest value, in the option's unit.
        max: The largest value, in the option's unit.
        type: The type of the option; None takes the field's.
        choices: The words that the option takes, each with the field's value; None for any value.
    """

    help: str | None = None
    option: str | None = None
    unit: int = 1
    min: float | None = None
    max: float | None = None
    type: Any = None
    choices: Mapping[str, Any] | None = None


KNOBS: Mapping[type, Mapping[str, Knob]] = {
    ReplayConfig: {
        "method": Knob("Replay method; none runs the plain policy.", "replay"),
        "replay_layers": Knob("Token replay: number of decoder layers that are compared (L)."),
        "state_layers": Knob("State replay: number of decoder layers that are edited."),
        "feature_layers": Knob("Feature replay: number of base layers, the last of which decides."),
        "patched_layers": Knob("Feature replay: decoder layers whose activations are replaced."),
        "threshold": Knob("Rule for the entropy limit, below which a position is low-entropy."),
        "tau": Knob("Share of the highest entropy, or the quantile, in (0, 1]."),
        "theta": Knob(
            "File of `visreplay calibrate` with limits in nats; sets --threshold absolute.",
            type=Path,
        ),
        "side": Knob("Which positions are replayed, by their entropy."),
        "teacher": Knob("Whose activations are replayed."),
        "alignment": Knob(
            "Compare and edit outputs of the same layer, or as the authors' released code."
        ),
        "swap_roles": Knob("Let the base answer, with the policy's activations replayed on it."),
        "entry_layer": Knob("Token replay: layer that the offset enters; 0 is the embeddings."),
        "top_k": Knob(
            "Vocabulary entries of the base that the divergence is restricted to.", "kl_top_k"
        ),
        "steps": Knob("Token replay: optimisation steps for each visual block, at most."),
        "plateau": Knob(
            "Token replay: stop when two steps gained less than this share; 0 takes all steps."
        ),
        "learning_rate": Knob("Token replay: step size. Default: 0.02 for adam, 10 for sgd."),
        "optimizer": Knob("Token replay: optimiser; sgd is the paper's."),
        "recompute_activations": Knob(
            "Token replay: compute activations again for the gradient, which takes less memory "
            "and a third more time; auto does so where memory would not do.",
            "recompute",
            choices={"auto": "auto", "on": True, "off": False},
        ),
        "memory_bytes": Knob("Memory of one chunk of logits, in MiB.", "memory", MIB, min=0.001),
        "query_chunk": Knob("Positions in one forward pass, at most."),
    },
    Sampling: {
        "temperature": Knob("Sampling temperature; 0 decodes greedily.", min=0),
        "top_p": Knob("Probability mass of nucleus sampling, in (0, 1]."),
        "top_k": Knob("Draw from this many most probable tokens; 0 draws from all.", min=0),
        "repetition_penalty": Knob(
            "Penalty of every token that the context holds, as in transformers; 1 is none. "
            "It counts for greedy decoding too."
        ),
        "max_new_tokens": Knob(
            "Tokens that the policy writes in one turn, at most. Default: the recipe's, or 2048.",
            min=1,
        ),
    },
    Limits: {
        "max_steps": Knob("Policy turns at most. Default: the recipe's limit."),
        "max_images": Knob(
            "Images and frames of an episode at most, the question's included. Default: the "
            "recipe's limit."
        ),
        "max_repeats": Knob(
            "How often the policy may make the same tool call. Default: the recipe's limit."
        ),
    },
    ServerLimits: {
        "body_bytes": Knob("Size of a request, in MiB.", "max_body", MIB, min=0.001),
        "body_seconds": Knob(
            "Time that a client has to send a request, in seconds.", min=0.1, max=DAY
        ),
        "json_bytes": Knob(
            "Size of a request without its images and videos, in MiB.", "max_json", MIB, min=0.001
        ),
        "json_values": Knob(
            "JSON values of a request: objects, lists, texts, numbers and keys.",
            "max_values",
            min=1,
        ),
        "held_bytes": Knob(
            "Size of all requests that are received, wait or are answered, and of answers that "
            "are not read yet, together, in MiB.",
            "max_held",
            MIB,
            min=0.001,
        ),
        "connections": Knob(
            "Connections at once; beyond that, the oldest one that waits for its client is closed.",
            "max_connections",
            min=8,
        ),
        "media": Knob("Images and videos of one request.", "max_media", min=1),
        "media_seconds": Knob("Time for reading a request's media, in seconds.", min=0.1, max=DAY),
        "pixels": Knob(
            "Pixels of a request's images and frames together, in millions.",
            "max_megapixels",
            MILLION,
            min=0.001,
        ),
        "held_pixels": Knob(
            "Pixels of the images and frames of all requests together, until each is answered, in "
            "millions.",
            "max_held_megapixels",
            MILLION,
            min=0.001,
        ),
        "frames": Knob("Frames that are sampled from a video.", "max_frames", min=1, max=64),
        "video_seconds": Knob("Length of a video, in seconds.", "max_video", min=0.1, max=DAY),
        "context": Knob("Tokens of a conversation.", "max_context", min=1),
        "max_new_tokens": Knob(
            "Tokens of an answer, also where neither request nor recipe says.", min=1
        ),
        "running": Knob(
            "Answers that are decoded at once; each holds a context in memory.",
            "max_running",
            min=1,
        ),
        "waiting": Knob("Requests that may wait in the admission queue.", "max_waiting", min=0),
        "cache_bytes": Knob("Memory for cached conversations, in MiB.", "cache", MIB, min=0),
    },
}
"""The options of the command line for the fields of the settings classes."""

PANELS: Mapping[type, str] = {
    ReplayConfig: "Replay (the embedded pair has some defaults of its own)",
    Sampling: "Decoding (default: the protocol's recipe, then generation_config.json, then greedy)",
    Limits: "Episode limits",
    ServerLimits: "Limits for requests",
}
"""Heading of the options of each settings class."""


class Overrides(Generic[S]):
    """The fields of a settings class that the user set; the others keep their defaults.

    Args:
        kind: The settings class.
        values: Values by field name, in the field's unit.
    """

    def __init__(self, kind: type[S], values: Mapping[str, Any]) -> None:
        self.kind = kind
        self.values = dict(values)

    def build(self, **defaults: Any) -> S:
        """Build the settings.

        Args:
            **defaults: Values for fields that the user did not set.

        Raises:
            ValueError: A value is out of range, or two values do not go together.
        """
        return self.kind(**{**defaults, **self.values})

    def __getitem__(self, name: str) -> Any:
        """Give the user's value of a field, or its default."""
        if name in self.values:
            return self.values[name]
        return next(field.default for field in fields(self.kind) if field.name == name)  # type: ignore[arg-type]


def options_of(kind: type) -> Iterator[Parameter]:
    """Derive a command's parameters, one for each field of a settings class.

    Their default is None, which leaves the field's own in place; the help page shows that.
    """
    hints = get_type_hints(kind)
    for field in fields(kind):
        knob = _knob(kind, field)
        hint = knob.type or (float if knob.unit != 1 else hints[field.name])
        if knob.choices:
            hint = _words(field.name, knob.choices)
        option = typer.Option(
            help=(knob.help or "") + _default_note(field.default, knob.unit),
            min=knob.min,
            max=_MOST if knob.max is None and knob.unit != 1 else knob.max,
            callback=finite if float in (hint, *get_args(hint)) else None,
            show_default=False,
            rich_help_panel=PANELS[kind],
        )
        yield Parameter(
            knob.option or field.name,
            Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[hint | None, option],
        )


def overrides_of(kind: type[S], arguments: Mapping[str, Any]) -> Overrides[S]:
    """Collect the fields of a settings class from a command's arguments.

    Args:
        kind: The settings class.
        arguments: Values by option name, in the option's unit; None where the user gave none.
    """
    values = {}
    for field in fields(kind):  # type: ignore[arg-type]
        knob = _knob(kind, field)
        value = arguments.get(knob.option or field.name)
        if value is None:
            continue
        if knob.choices:
            value = knob.choices[value]
        values[field.name] = value if knob.unit == 1 else int(value * knob.unit)
    return Overrides(kind, values)


def finite(value: float | None) -> float | None:
    """Refuse infinity and NaN, which pass the bounds of an option or lie within them.

    Raises:
        BadParameter: The value is one of them.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def _knob(kind: type, field: Field[Any]) -> Knob:
    return KNOBS[kind].get(field.name, Knob())


def _words(name: str, words: Iterable[str]) -> Any:
    """Make the type of an option that takes some words only."""
    return StrEnum(name, {word: word for word in words})


def _default_note(default: Any, unit: int) -> str:
    """Write a default for the help page; nothing where the help text tells it."""
    if default is None or isinstance(default, bool):
        return ""
    return f" Default: {default / unit:g}." if unit != 1 else f" Default: {default}."
