"""The limits of an episode. Apart from the loop, so that a command line needs no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that stop an episode whatever the policy does.

    A limit that is None is the one of the protocol's recipe.

    Attributes:
        max_steps: Largest number of policy turns.
        max_images: Largest number of images and frames in an episode, the question's included.
        max_repeats: How often the same call may be made.
    """

    max_steps: int | None = None
    max_images: int | None = None
    max_repeats: int | None = None

    def __post_init__(self) -> None:
        """Refuse limits below one."""
        for name, value in (
            ("max_steps", self.max_steps),
            ("max_images", self.max_images),
            ("max_repeats", self.max_repeats),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
