"""What the smoothing controls see: other colours, and activations averaged over neighbours.

`ColourJitter` is that of the paper's global control, with the sizes of its released code. The
others, `recoloured` and `window_mean`, are this project's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from visreplay.replay_core.segment import VisualBlock

CONTRAST, BRIGHTNESS = 0.2, 0.2
"""Half-widths of the recolouring of each channel, the second in standard deviations."""


def recoloured(block: VisualBlock) -> VisualBlock:
    """Change the colours of a block: contrast and brightness of each channel are drawn at random.

    The draw is always the same, so that every image of an episode is changed in the same way.
    """
    generator = torch.Generator().manual_seed(0)
    contrast_3, brightness_3 = 2 * torch.rand(2, 3, generator=generator) - 1

    def change(pixels_3N: Tensor) -> Tensor:
        scale_31 = (1 + CONTRAST * contrast_3).to(pixels_3N)[:, None]
        shift_31 = (BRIGHTNESS * brightness_3).to(pixels_3N)[:, None]
        changed: Tensor = pixels_3N * scale_31 + shift_31
        return changed

    return _with_colours(block, change)


@dataclass(frozen=True, slots=True)
class ColourJitter:
    """Jitter brightness, contrast, saturation and hue, in another way at every call.

    Attributes:
        mean: The mean of each channel that the processor subtracts.
        std: The standard deviation of each channel that it divides by.
        generator: Draws the factors. It starts anew for every block, so that what is drawn depends
            on no earlier block.
    """

    mean: Sequence[float]
    std: Sequence[float]
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    STRENGTH: ClassVar[float] = 0.15
    """Half-width of the factors of brightness, contrast and saturation, around 1."""
    HUE: ClassVar[float] = 0.03
    """Half-width of the shift of the hue, where 1 is the whole circle."""

    @classmethod
    def of(cls, processor: Any) -> Self:
        """Make the jitter for images that a processor has normalised."""
        images = processor.image_processor
        return cls(images.image_mean, images.image_std)

    def __call__(self, block: VisualBlock) -> VisualBlock:
        """Return the block with other colours."""
        draws = (2 * torch.rand(4, generator=self.generator) - 1).tolist()
        brightness, contrast, saturation = (1 + self.STRENGTH * draw for draw in draws[:3])
        hue = self.HUE * draws[3]

        def change(pixels_3N: Tensor) -> Tensor:
            mean_31, std_31 = (torch.tensor(x)[:, None] for x in (self.mean, self.std))
            # A picture of one row: no operation looks at neighbours.
            image = (pixels_3N.float() * std_31 + mean_31).clamp(0, 1)[:, None]
            image = functional.adjust_brightness(image, brightness)
            image = functional.adjust_contrast(image, contrast)
            image = functional.adjust_saturation(image, saturation)
            image = functional.adjust_hue(image, hue)
            changed: Tensor = ((image[:, 0] - mean_31) / std_31).to(pixels_3N.dtype)
            return changed

        return _with_colours(block, change)


def _with_colours(block: VisualBlock, change: Callable[[Tensor], Tensor]) -> VisualBlock:
    """Apply a function to the colours `(3, N)` of all pixels of a block."""
    inputs = dict(block.inputs)
    for name, pixels in inputs.items():
        if name.startswith("pixel_values"):
            # Images are (..., 3, height, width); the rows of flat patches begin with the channels.
            shape = pixels.reshape(len(pixels), 3, -1) if pixels.ndim == 2 else pixels.flatten(-2)
            colours = shape.movedim(-2, 0)
            changed = change(colours.flatten(1)).reshape(colours.shape)
            inputs[name] = changed.movedim(0, -2).reshape(pixels.shape)
    return replace(block, inputs=inputs)


def window_mean(grid_thw: tuple[int, int, int]) -> Callable[[Tensor], Tensor]:
    """Make a function that averages activations `(T, D)` over 3 x 3 neighbours within a frame.

    Args:
        grid_thw: Visual tokens in time, height and width.
    """

    def smooth(hidden_TD: Tensor) -> Tensor:
        maps_TDHW = hidden_TD.float().reshape(*grid_thw, -1).permute(0, 3, 1, 2)
        mean_TDHW = torch.nn.functional.avg_pool2d(
            maps_TDHW, kernel_size=3, stride=1, padding=1, count_include_pad=False
        )
        return mean_TDHW.permute(0, 2, 3, 1).reshape(hidden_TD.shape).to(hidden_TD.dtype)

    return smooth
