"""The paper's smoothing controls: teachers made of the policy alone.

The paper names them (a local window, a globally colour-jittered image) without their sizes:
those here are ours.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from visreplay.replay_core.segment import VisualBlock

CONTRAST, BRIGHTNESS = 0.2, 0.2
"""Half-widths of the jitter of each colour channel, the second in standard deviations."""


def jittered(block: VisualBlock) -> VisualBlock:
    """Change the colours of a block: contrast and brightness of each channel are drawn at random.

    The draw is always the same, so that every image of an episode is changed in the same way.
    """
    generator = torch.Generator().manual_seed(0)
    contrast_3, brightness_3 = 2 * torch.rand(2, 3, generator=generator) - 1
    inputs = dict(block.inputs)
    for name, pixels in inputs.items():
        if name.startswith("pixel_values"):
            inputs[name] = _recoloured(pixels, 1 + CONTRAST * contrast_3, BRIGHTNESS * brightness_3)
    return replace(block, inputs=inputs)


def _recoloured(pixels: Tensor, scale_3: Tensor, shift_3: Tensor) -> Tensor:
    # Images are (..., 3, height, width); the rows of flat patches begin with the channels too.
    flat = pixels.reshape(len(pixels), 3, -1) if pixels.ndim == 2 else pixels.flatten(-2)
    changed = flat * scale_3.to(pixels)[:, None] + shift_3.to(pixels)[:, None]
    return changed.reshape(pixels.shape)


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
