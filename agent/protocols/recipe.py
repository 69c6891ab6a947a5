"""Recipes: everything that a protocol says, and that is a fact of one checkpoint.

A recipe is written down as TOML (`recipes/`), and read by `recipe_files`. What a protocol *does*
with a call is the code of its class; texts, question templates, pixel budgets, frames, limits and
decoding stand here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, MinLen

from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.protocols.wording import STRICT, Kind, Wording, check_marks
from visreplay.replay_core.errors import ConfigError
from visreplay.tools import TokenGrid
from visreplay.tools.image import Resample

Count = Annotated[int, Ge(1)]

NO_TOOLS = (
    *("calls", "tolerant_json", "crops", "pixels.crop", "frames.most"),
    *("texts.tools", "texts.crop", "texts.frames", "texts.separator", "tool_free"),
)
"""Keys of a recipe that mean nothing in a protocol without tools."""

TextName = Literal["system", "prefix", "suffix", "observation", "error", "endings"]
"""A text that a checkpoint was trained with."""


@dataclass(frozen=True)
class Texts:
    r"""The words around questions and results. Their {names} are filled in.

    Attributes:
        system: The system prompt, with the section on tools at {tools}; "" for none.
        tools: The section that offers tools, with their JSON schemas at {signatures}.
        prefix: Text between the media and the question.
        suffix: Text after the question.
        frame: Text around the {result} of any tool.
        crop: What shows a crop: its {image}, and perhaps {suffix}, its {width} and {height}, the
            number of its {action} (from 0) and of the {observation} (from 1), and its number among
            the images, {first}.
        frames: What shows frames of a video: their {images}, and perhaps the same; their numbers
            go from {first} to {last}.
        error: What shows an {error} of a call or of a turn.
        separator: Text between the results of several calls.
    """

    system: str = ""
    tools: str = (
        "# Tools\nThe function signatures are given in JSON between <tools></tools> tags:\n"
        "<tools>\n{signatures}\n</tools>\n\nTo call one, write one JSON object between tags:\n"
        '<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call>'
    )
    prefix: str = ""
    suffix: str = ""
    frame: str = "<tool_response>{result}</tool_response>"
    crop: str = "{image}"
    frames: str = "{images}"
    error: str = "Error: {error}"
    separator: str = ""

    __pydantic_config__: ClassVar[Any] = STRICT

    def __post_init__(self) -> None:
        """Refuse texts that would leave out what they show.

        Raises:
            ValueError: A mark is missing, or there twice.
        """
        for name, mark in (
            ("tools", "signatures"),
            ("frame", "result"),
            ("crop", "image"),
            ("frames", "images"),
            ("error", "error"),
        ):
            check_marks(name, getattr(self, name), mark)


@dataclass(frozen=True)
class ToolFreeTexts:
    """The texts in the place of those of `Texts` where the policy is offered no tools.

    Attributes:
        system: The system prompt; "" for none.
        suffix: Text after the question.
        error: What shows an {error}: that there was nothing to call.
    """

    system: str = ""
    suffix: str = ""
    error: str = "Error: {error}"

    __pydantic_config__: ClassVar[Any] = STRICT

    def __post_init__(self) -> None:
        """Refuse texts that would describe tools, or leave out the error.

        Raises:
            ValueError: The system prompt has a section on tools, or a mark is missing.
        """
        if "{tools}" in self.system:
            raise ValueError("system must not have {tools} in it: no tools are offered")
        check_marks("error", self.error, "error")


@dataclass(frozen=True)
class Budget:
    """How large an image may be, in pixels; what is not said is the processor's.

    Attributes:
        min: Smaller images are enlarged.
        max: Larger images are shrunk.
    """

    min: Count | None = None
    max: Count | None = None

    __pydantic_config__: ClassVar[Any] = STRICT

    def __post_init__(self) -> None:
        """Refuse an empty range.

        Raises:
            ValueError: The smallest size is above the largest.
        """
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min is {self.min}, but must not be above max, which is {self.max}")

    def within(self, whole: TokenGrid) -> TokenGrid:
        """Compute the budget of crops or of frames, at most that of any image.

        Args:
            whole: That of any image.
        """
        most = whole.max_pixels if self.max is None else min(self.max, whole.max_pixels)
        least = whole.min_pixels if self.min is None else min(self.min, most // 2)
        return replace(whole, min_pixels=min(least, most), max_pixels=most)


@dataclass(frozen=True)
class Pixels:
    """How large the model sees what it is shown, and how pictures are resized to that.

    Attributes:
        image: Budget of any image. It comes before the processor's own.
        crop: Budget of a crop; what is not said is that of any image.
        frame: Budget of a frame of a video; what is not said is that of any image.
        resample: How pictures are resized; None does it as the checkpoint's processor would.
    """

    image: Budget = Budget()
    crop: Budget = Budget()
    frame: Budget = Budget()
    resample: Resample | None = None

    __pydantic_config__: ClassVar[Any] = STRICT

    def grid(self, processor: TokenGrid) -> TokenGrid:
        """Compute the budget of any image.

        Args:
            processor: The token grid of the checkpoint's processor.
        """
        least = processor.min_pixels if self.image.min is None else self.image.min
        most = processor.max_pixels if self.image.max is None else self.image.max
        return replace(
            processor,
            # Of two limits that exclude each other, the recipe's counts.
            min_pixels=least if self.image.max is None else min(least, most),
            max_pixels=max(least, most) if self.image.max is None else most,
            resample=self.resample or processor.resample,
        )


@dataclass(frozen=True)
class Frames:
    """Which frames of a video the model sees.

    Attributes:
        count: Number of frames that the conversation opens with.
        choice: "middles" of equal parts of the video, or from its first to its last frame ("ends").
        time: Whether the seconds between two steps in time are told to the model as they are, or
            cut to whole seconds ("whole"), as transformers 4.52 to 4.57 cut them for Qwen2.5-VL.
        most: Largest number of frames that one call may show.
    """

    count: Annotated[int, Ge(1), Le(64)] = 16
    choice: Literal["middles", "ends"] = "middles"
    time: Literal["exact", "whole"] = "exact"
    most: Annotated[int, Ge(1), Le(64)] = 8

    __pydantic_config__: ClassVar[Any] = STRICT


@dataclass(frozen=True)
class Crops:
    """Which boxes are cropped.

    Attributes:
        coordinates: For boxes in pixels: of the "original" image, or of the "resized" one that the
            model saw.
        min_side: Shortest side in pixels.
        max_aspect: Largest ratio of the longer to the shorter side.
        padding: Margin on every side, as a share of the image's side.
    """

    coordinates: Literal["original", "resized"] = "original"
    min_side: Count = 1
    max_aspect: Annotated[float, Ge(1)] = 200.0
    padding: Annotated[float, Ge(0), Le(1)] = 0.0

    __pydantic_config__: ClassVar[Any] = STRICT


@dataclass(frozen=True)
class RecipeLimits:
    """Where an episode ends, unless the caller sets `Limits`.

    Attributes:
        max_steps: Largest number of policy turns.
        max_images: Largest number of images and frames, the question's included.
        max_repeats: How often the same call may be made.
        max_pictures: Largest number of images where a video counts as one, if there is a limit.
    """

    max_steps: Count = 8
    max_images: Count = 64
    max_repeats: Count = 2
    max_pictures: Count | None = None

    __pydantic_config__: ClassVar[Any] = STRICT


@dataclass(frozen=True)
class Recipe:
    """What a protocol says, and the facts of one checkpoint.

    Attributes:
        name: Name of the recipe: of its file, without ".toml".
        protocol: The protocol that it is written for (a key of `PROTOCOLS`).
        checkpoints: Parts of the names of its checkpoints: small letters and digits alone.
        expects: Texts of the checkpoint's training that the recipe does not have: its own stand in
            their place.
        stop_strings: Texts that end a turn, and stay in it.
        calls: Which of several calls of a turn are run, where the protocol allows several.
        tolerant_json: Whether calls may be JSON5.
        texts: Words around questions and results.
        question: Words of a question.
        endings: Text after the suffix, by the kind of question.
        pixels: Sizes of pictures.
        frames: Frames of videos.
        crops: Rules for boxes.
        limits: Where an episode ends.
        decoding: How a turn is decoded, as far as the checkpoint's authors say it.
        tool_free: The texts of `without_tools`; None if there are none.
        tools: Whether the policy is offered tools. If not, a call is not run, and its turn is an
            error. No file sets it: `without_tools` does.
    """

    name: str
    protocol: str
    checkpoints: tuple[str, ...] = ()
    expects: tuple[TextName, ...] = ()
    stop_strings: tuple[Annotated[str, MinLen(1)], ...] = ()
    calls: Literal["first", "last", "all"] = "last"
    tolerant_json: bool = False
    texts: Texts = Texts()
    question: Wording = Wording()
    endings: Mapping[Kind, str] = field(default_factory=dict)
    pixels: Pixels = Pixels()
    frames: Frames = Frames()
    crops: Crops = Crops()
    limits: RecipeLimits = RecipeLimits()
    decoding: Sampling = Sampling()
    tool_free: ToolFreeTexts | None = None
    tools: bool = True

    __pydantic_config__: ClassVar[Any] = STRICT

    def without_tools(self) -> "Recipe":
        """Make the same recipe for a policy that is offered no tools.

        Raises:
            ConfigError: The recipe has no texts for that.
        """
        if self.tool_free is None:
            raise ConfigError(
                f"the recipe {self.name} has no section tool_free, with its texts for a policy "
                "that is offered no tools: write one in a recipe of your own, unless the protocol "
                f"{self.protocol} has no tools anyway"
            )
        return replace(self, tools=False, texts=replace(self.texts, **asdict(self.tool_free)))

    def changed(
        self,
        *,
        system: str | None = None,
        suffix: str | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> "Recipe":
        """Make the same recipe with other values in it; None keeps a value.

        Args:
            system: The whole system prompt; "" for none.
            suffix: The text after the question.
            min_pixels: Smaller images are enlarged.
            max_pixels: Larger images are shrunk.

        Raises:
            ConfigError: The range of pixels is empty.
        """
        texts = {"system": system, "suffix": suffix}
        given = {name: value for name, value in texts.items() if value is not None}
        recipe = replace(
            self,
            texts=replace(self.texts, **given),
            expects=tuple(name for name in self.expects if name not in given),
        )
        for name, value in (("min_pixels", min_pixels), ("max_pixels", max_pixels)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}, but must be at least 1")
        if min_pixels is not None and max_pixels is not None and min_pixels > max_pixels:
            raise ConfigError(
                f"min_pixels is {min_pixels}, but must not be above max_pixels, which is "
                f"{max_pixels}"
            )
        least, most = min_pixels or self.pixels.image.min, max_pixels or self.pixels.image.max
        if least is not None and most is not None and least > most:
            # Of two limits that exclude each other, the caller's counts.
            least, most = (most, most) if min_pixels is None else (least, least)
        return replace(recipe, pixels=replace(self.pixels, image=Budget(least, most)))

    def check_unused(self, keys: Sequence[str]) -> None:
        """Refuse a recipe that sets what its protocol would ignore.

        Args:
            keys: The keys that mean nothing to the protocol.

        Raises:
            ConfigError: One of them differs from its default.
        """
        plain = Recipe(self.name, self.protocol)
        for key in keys:
            value_of = attrgetter(key)
            if value_of(self) != value_of(plain):
                raise ConfigError(
                    f"the recipe {self.name} sets {key}, which means nothing in the protocol "
                    f"{self.protocol}: leave it out"
                )

    def to_table(self) -> dict[str, Any]:
        """Convert the recipe to plain JSON values."""
        return asdict(self)
