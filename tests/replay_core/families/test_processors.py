"""What each family's real processor returns, split into blocks, against the model's own forward."""

from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest
import torch
from builders import FAMILIES, IMAGE, SPECIAL, VIDEO, VISION_END, VISION_START
from replay_cases import walk
from transformers import (
    GotOcr2ImageProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from visreplay.replay_core import (
    ContextError,
    ReplayConfig,
    ReplaySession,
    Segment,
    Threshold,
    load_pair,
)
from visreplay.replay_core.families.registry import adapter_for

PICTURE, CLIP = SPECIAL[IMAGE], SPECIAL[VIDEO]
TEXT = f"a b {PICTURE} c {CLIP} d {PICTURE} e f"


def processor(family: str) -> Any:
    """The real class, with small images and a tokenizer of single letters."""
    tokenizer = builders.Processor().tokenizer
    if family == "internvl":
        tokenizer = builders.Processor(
            start_image_token=SPECIAL[VISION_START],
            end_image_token=SPECIAL[VISION_END],
            context_image_token=PICTURE,
            video_token=CLIP,
        ).tokenizer
        size = {"height": 8, "width": 8}
        images = GotOcr2ImageProcessor(size=size, crop_to_patches=True)
        return InternVLProcessor(images, tokenizer, InternVLVideoProcessor(size=size), 4)
    if family == "llava_onevision":
        size = {"height": 6, "width": 6}
        grids = builders.OTHERS["llava_onevision"]["image_grid_pinpoints"]
        return LlavaOnevisionProcessor(
            LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=grids),
            tokenizer,
            LlavaOnevisionVideoProcessor(size=size),
            num_image_tokens=9,
            vision_feature_select_strategy="full",
            image_token=PICTURE,
            video_token=CLIP,
        )
    kinds: dict[str, Any] = {
        "qwen2_vl": (Qwen2VLProcessor, Qwen2VLVideoProcessor),
        "qwen2_5_vl": (Qwen2_5_VLProcessor, Qwen2VLVideoProcessor),
        "qwen3_vl": (Qwen3VLProcessor, Qwen3VLVideoProcessor),
    }
    kind, videos = kinds[family]
    size = {"shortest_edge": 16, "longest_edge": 4096}
    patches = {"patch_size": 2, "merge_size": 2, "temporal_patch_size": 2, "size": size}
    return kind(Qwen2VLImageProcessor(**patches), tokenizer, videos(**patches))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)


def process(family: str, text: str = TEXT, **changes: Any) -> Any:
    metadata = {"total_num_frames": 4, "fps": 4.0, "frames_indices": [0, 1, 2, 3]}
    visual = {
        "images": [noise(8, 12), noise(12, 8)],
        "videos": [noise(4, 8, 12)],
        "video_metadata": [metadata],
        "do_sample_frames": False,
        **changes,
    }
    return processor(family)(text=[text], return_tensors="pt", **visual)


def assert_equal_to_forward(family: Any, made: Any) -> Segment:
    model = builders.model(family)
    names = ("attention_mask", "token_type_ids", "video_metadata")
    inputs = {name: value for name, value in made.items() if name not in names}
    expected = model(**inputs).logits[0]  # type: ignore[operator]
    adapter = adapter_for(model)
    whole = Segment.from_processor(made, adapter)
    torch.testing.assert_close(walk(adapter, whole)[0], expected, atol=1e-4, rtol=0)
    return whole


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_blocks_feed_the_model_as_the_whole_output_does(family: Any) -> None:
    whole = assert_equal_to_forward(family, process(family))
    kinds = [block.kind for block in whole.blocks]
    assert kinds == {
        "qwen3_vl": ["image", "video", "video", "image"],  # two steps of two frames
        "internvl": ["image"] * 6,  # four frames
    }.get(family, ["image", "video", "image"])


@torch.no_grad()
def test_images_that_llava_takes_together_have_no_tiles() -> None:
    together = [[noise(8, 12), noise(12, 8)]]
    text = f"a {PICTURE}{PICTURE} b"
    made = process("llava_onevision", text, images=together, videos=None)
    whole = assert_equal_to_forward("llava_onevision", made)
    assert [(block.start, block.length) for block in whole.blocks] == [(1, 10), (11, 10)]
    more = process(
        "llava_onevision", PICTURE * 3, images=[[*together[0], noise(8, 8)]], videos=None
    )
    tokens = builders.tokens("llava_onevision")
    assert Segment.from_processor(more, tokens).blocks[:2] == whole.blocks


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_does_not_depend_on_its_neighbours(family: Any) -> None:
    tokens = adapter_for(builders.model(family))
    text = f"{PICTURE} a {PICTURE}"
    both = process(family, text, videos=None, images=[noise(8, 12), noise(4, 8)])
    alone = process(family, PICTURE, videos=None, images=[noise(4, 8)])
    (_, second), (only,) = (Segment.from_processor(made, tokens).blocks for made in (both, alone))
    assert second == only


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loaded_pair_equals_one_in_memory(family: Any, tmp_path: Path) -> None:
    for name, noise in (("policy", 0.02), ("base", 0.0)):
        builders.model(family, noise=noise).save_pretrained(tmp_path / name)
        processor(family).save_pretrained(tmp_path / name)
    loaded = load_pair(
        str(tmp_path / "policy"), str(tmp_path / "base"), replay_layers=2, device="cpu"
    )
    assert loaded.base is not None and loaded.base.depth == 2 and loaded.shares_vision
    settings = ReplayConfig(threshold=Threshold.QUANTILE, replay_layers=2, steps=2)
    logits = []
    for pair in (loaded, builders.pair(family, replay_layers=None)):
        with ReplaySession(pair, settings) as session:
            session.append(Segment.from_processor(process(family), pair.policy))
            logits.append(session.next_logits)
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)


SPOILT: Any = [
    (
        "internvl",
        lambda i: i.update(pixel_values=i["pixel_values"][1:]),
        r"17 tiles, 4 .* \[28, 4, 4, 4, 4, 28\] placeholders",
    ),
    (
        "llava_onevision",
        lambda i: i.update(image_sizes=i["image_sizes"][:1]),
        "2 images, but image_sizes 1 and batch_num_images 2",
    ),
    (
        "llava_onevision",
        lambda i: i.update(image_sizes=i["image_sizes"].flip(0)),
        "is 39 visual tokens, but 37 placeholders",
    ),
    (
        "qwen3_vl",
        lambda i: i["input_ids"][0, 28:].fill_(0),
        "2 image block.s. were given, but the tokens have placeholders for 1",
    ),
]


@pytest.mark.parametrize(("family", "spoil", "message"), SPOILT)
def test_the_error_names_what_does_not_match(family: Any, spoil: Any, message: str) -> None:
    made = process(family)
    spoil(made)
    with pytest.raises(ContextError, match=message):
        Segment.from_processor(made, adapter_for(builders.model(family)))
