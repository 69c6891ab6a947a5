"""Splitting a processor's output into blocks."""

from typing import Any

import builders
import pytest
import torch
from builders import IMAGE, VIDEO, batch, segment

from visreplay.replay_core import ContextError, Segment, VisualBlock

PARTS = (3, ("image", (1, 4, 6), 1), 2, ("video", (2, 4, 4), 2), ("image", (1, 4, 4), 3), 1)


def test_blocks_and_pieces() -> None:
    whole = segment(*PARTS, seconds=0.4)
    assert [(b.kind, b.start, b.length) for b in whole.blocks] == [
        ("image", 4, 6),
        ("video", 14, 8),
        ("image", 24, 4),
    ]
    assert whole.blocks[1].inputs["video_grid_thw"].tolist() == [[2, 4, 4]]
    assert whole.blocks[1].inputs["second_per_grid_ts"].tolist() == pytest.approx([0.4])
    assert torch.equal(
        whole.blocks[2].inputs["pixel_values"], builders.visual("image", (1, 4, 4), 3)
    )
    pieces = list(whole.pieces())
    assert torch.equal(torch.cat([ids for ids, _ in pieces]), whole.token_ids)
    assert [block for _, block in pieces if block] == list(whole.blocks)
    assert [ids.unique().tolist() for ids, b in pieces if b] == [[IMAGE], [VIDEO], [IMAGE]]


def test_blocks_may_touch() -> None:
    inputs = batch(("image", (1, 4, 4), 1), ("image", (1, 4, 6), 2))
    ids = inputs["input_ids"][0]
    inputs["input_ids"] = ids[ids == IMAGE][None]
    touching = Segment.from_processor(inputs, builders.tokens())
    assert [(block.start, block.length) for block in touching.blocks] == [(0, 4), (4, 6)]


def test_blocks_are_equal_by_their_content() -> None:
    (first,) = segment(3, ("image", (1, 4, 4), 1)).blocks
    (same,) = segment(7, ("image", (1, 4, 4), 1)).blocks
    (other,) = segment(3, ("image", (1, 4, 4), 2)).blocks
    (video,) = segment(("video", (1, 4, 4), 1)).blocks
    assert first == same and first.digest == same.digest and hash(first) == hash(same)
    assert len({first.digest, other.digest, video.digest}) == 3


def test_after() -> None:
    whole = segment(*PARTS)
    assert torch.equal(whole.after(0).token_ids, whole.token_ids)
    rest = whole.after(12)
    assert [block.start for block in rest.blocks] == [2, 12]
    assert rest.blocks == whole.blocks[1:]
    assert len(whole.after(len(whole))) == 0
    with pytest.raises(ContextError, match="9 lies inside the image at tokens 4 to 9"):
        whole.after(9)
    with pytest.raises(ContextError, match="cannot skip"):
        whole.after(len(whole) + 1)


def drop_grid(inputs: Any) -> None:
    inputs["image_grid_thw"] = inputs["image_grid_thw"][:1]
    inputs["pixel_values"] = inputs["pixel_values"][:24]


def grow_grid(inputs: Any) -> None:
    inputs["image_grid_thw"][0] = torch.tensor([1, 6, 6])
    inputs["pixel_values"] = torch.zeros(36 + 16, 24)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_grid, "image placeholder at token 24 has no image: 1 image block.s. were given"),
        (grow_grid, "image at token 4 is 9 visual tokens, but 6 placeholders"),
        (lambda i: i.update(pixel_values=i["pixel_values"][1:]), "40 patches, but .* have 39"),
        (
            lambda i: i.update(input_ids=i["input_ids"][:, :12]),
            "2 image block.s. were given, but .* 1",
        ),
        (lambda i: i.update(second_per_grid_ts=[1.0, 2.0]), "2 entries for 1 videos"),
        (lambda i: i.update(input_ids=i["input_ids"].repeat(2, 1)), "one prompt .* holds 2"),
    ],
)
def test_the_error_names_what_does_not_match(spoil: Any, message: str) -> None:
    inputs = batch(*PARTS)
    spoil(inputs)
    with pytest.raises(ContextError, match=message):
        Segment.from_processor(inputs, builders.tokens())


def test_layout_is_checked() -> None:
    with pytest.raises(ContextError, match="vector of integers"):
        Segment(torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(ContextError, match="vector of integers"):
        Segment(torch.zeros(2))
    block = VisualBlock(1, 4, "image", {"pixel_values": torch.zeros(16, 24)})
    with pytest.raises(ContextError, match="covers tokens 1 to 4"):
        Segment(torch.arange(3), (block,))
    with pytest.raises(ContextError, match="must start at 5 or later"):
        Segment(torch.arange(9), (block, block))
