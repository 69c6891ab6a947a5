"""The sizes of Qwen2.5-VL at 7B, 32B and 72B.

7B is `config.json` of Qwen/Qwen2.5-VL-7B-Instruct. The language models of 32B and 72B are those of
Qwen/Qwen2.5-32B and Qwen2.5-72B. Each has a vision tower of 32 layers and width 1,280, of which
layers 7, 15, 23 and 31 attend to the whole picture; the inner width of the larger models' towers is
that of Table 1 of the technical report (arXiv 2502.13923).

The published settings of replay are for 28 layers. Larger models are taken to replay the same
shares of their layers: a quarter by state replay, four sevenths by token replay.
"""

from dataclasses import replace
from typing import Any

from sizes import Sizes
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

MERGED = 28
"""Width and height of a visual token, in pixels."""

MAX_PIXELS = 16_384 * MERGED**2
"""The processor's budget of a picture, which the recipe of DeepEyes leaves as it is.

So do DeepEyes' authors: MAX_PIXELS in eval/eval_hrbench.py of github.com/Visual-Agent/DeepEyes.
"""


class PublishedSizes(Sizes):
    """Sizes with the published blocks of full attention in the vision tower."""

    def config(self) -> Any:
        """Make the transformers configuration."""
        config = super().config()
        blocks = [block for block in (7, 15, 23, 31) if block < self.vision_layers]
        config.vision_config.fullatt_block_indexes = blocks
        return config


SEVEN = PublishedSizes(hidden=3584, inner=18_944, heads=28, kv_heads=4, layers=28, vision_layers=32)
THIRTY_TWO = replace(
    SEVEN,
    hidden=5120,
    inner=27_648,
    heads=40,
    kv_heads=8,
    layers=64,
    vision_inner=3456,
    state_layers=16,
    replay_layers=37,
)
SEVENTY_TWO = replace(
    THIRTY_TWO,
    hidden=8192,
    inner=29_568,
    heads=64,
    layers=80,
    state_layers=20,
    replay_layers=46,
)
PUBLISHED = {"7B": SEVEN, "32B": THIRTY_TWO, "72B": SEVENTY_TWO}


def visual_grid(width: int, height: int) -> tuple[int, int]:
    """Compute the visual tokens of a picture of so many pixels: rows and columns."""
    rows, columns = smart_resize(height, width, MERGED, 4 * MERGED**2, MAX_PIXELS)
    return rows // MERGED, columns // MERGED
