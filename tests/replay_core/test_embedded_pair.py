"""The pair that ships, compared with the method from scratch."""

import pytest
import torch
from oracle import Oracle
from replay_cases import assert_same
from transformers import AutoModelForImageTextToText

from visreplay.replay_core import (
    EMBEDDED,
    Method,
    ModelPair,
    ReplaySession,
    Segment,
    embedded_config,
)


def images(pair: ModelPair, *sizes: tuple[int, int]) -> list[Segment]:
    """One segment with a random image for each (height, width), as the processor makes it."""
    generator = torch.Generator().manual_seed(0)
    segments = []
    for height, width in sizes:
        image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
        text = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n"
        batch = pair.processor(
            text=[text + "<|im_start|>assistant\n"], images=[image], return_tensors="pt"
        )
        segments.append(Segment.from_processor(batch, pair.policy))
    return segments


@pytest.mark.parametrize("method", [Method.TOKEN, Method.STATE])
def test_an_episode_of_three_images_equals_the_recomputation(
    embedded_pair: ModelPair, method: Method
) -> None:
    policy, base = (
        AutoModelForImageTextToText.from_pretrained(EMBEDDED / name).eval()
        for name in ("policy", "base")
    )
    config = embedded_config(method, optimizer="sgd", learning_rate=1.0, steps=3)
    expected = Oracle.of(policy, base, config)
    with ReplaySession(embedded_pair, config) as session:
        for segment in images(embedded_pair, (224, 224), (168, 112), (112, 280)):
            session.append(segment)
            expected.append(segment)
            assert session.generate(max_new_tokens=6).token_ids == expected.generate(6)
        assert_same(session, expected)
