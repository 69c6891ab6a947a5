"""replay_core against the reference's algorithm: entropies, sets, losses and gradients to 1e-4."""

from dataclasses import replace
from typing import Any

import builders
import pytest
import torch
from builders import segment
from reference import Reading, Reference
from torch import Tensor
from transformers import AutoModelForImageTextToText

from visreplay.replay_core import (
    EMBEDDED,
    Alignment,
    Method,
    ModelPair,
    ReplayConfig,
    ReplaySession,
    Segment,
    embedded_config,
    methods,
)
from visreplay.replay_core.replay import token_replay

METHODS = [Method.TOKEN, Method.STATE]
ALIGNMENTS = list(Alignment)
CROP = segment(3, ("image", (1, 4, 4), 2), 4)
EPISODE = [segment(4, ("image", (1, 4, 8), 1), 3), segment(("image", (1, 8, 4), 3), 1), CROP]


def settings(method: Method, **changes: Any) -> ReplayConfig:
    """Settings of plain descent, whose step is the gradient."""
    chosen = {"threshold": "quantile", "tau": 0.6, "steps": 3, **changes}
    return ReplayConfig.paper(method=method, replay_layers=3, state_layers=3, **chosen)


@pytest.fixture(scope="module")
def random_pair() -> ModelPair:
    return builders.pair()


def tiny(config: ReplayConfig) -> Reference:
    policy, base = builders.model(noise=0.02), builders.model()
    return Reference(policy.requires_grad_(False), base.requires_grad_(False), config)


def embedded(config: ReplayConfig) -> Reference:
    load = AutoModelForImageTextToText.from_pretrained
    policy, base = (load(EMBEDDED / name).eval() for name in ("policy", "base"))
    return Reference(policy.requires_grad_(False), base.requires_grad_(False), config)


def photos(pair: ModelPair, *sizes: tuple[int, int]) -> list[Segment]:
    """Process a question about one random image for each (height, width)."""
    generator = torch.Generator().manual_seed(0)
    text = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n"
    segments = []
    for height, width in sizes:
        image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
        batch = pair.processor(text=[text], images=[image], return_tensors="pt")
        segments.append(Segment.from_processor(batch, pair.policy))
    return segments


def close(ours: Any, theirs: Any) -> None:
    """Assert that two tensors differ by at most 1e-4 of the largest entry."""
    ours, theirs = (torch.as_tensor(value, dtype=torch.float32) for value in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


def assert_same(session: ReplaySession, reference: Reference, last_logits: Tensor) -> None:
    """Compare all values of a session's blocks, and the next token's logits."""
    base = reference.read(reference.base)
    with torch.no_grad():
        plain, replayed = reference.forward(reference.policy)[1], reference.prefill()[1]
    for block, image in zip(session.blocks, reference.images, strict=True):
        mask_LT = reference.low_entropy(image, base)
        close(block.entropy_LT, base.entropy_LT[:, image.rows])
        assert torch.equal(block.chosen_LT, mask_LT)
        # The loss sums over layers and divides by the tokens; the record is a mean in nats.
        scale = block.length / int(mask_LT.any(dim=1).sum())
        close(block.kl_after, scale * reference.loss(image, base, replayed))
        path = image.losses[: reference.config.steps] or [reference.loss(image, base, plain)]
        close(block.kl_path or [block.kl_before], scale * torch.tensor(path))
    close(session.next_logits, last_logits)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rule", [{}, {"threshold": "relative", "tau": 0.97}])
def test_an_episode_on_a_random_pair(
    random_pair: ModelPair, method: Method, alignment: Alignment, rule: Any
) -> None:
    config = settings(method, alignment=alignment, **rule)
    reference = tiny(config)
    with ReplaySession(random_pair, config) as session:
        for part in EPISODE:
            session.append(part)
            assert_same(session, reference, reference.turn(part))


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("method", METHODS)
def test_an_episode_on_the_embedded_pair(
    embedded_pair: ModelPair, method: Method, alignment: Alignment
) -> None:
    plain: Any = {"optimizer": "sgd", "learning_rate": 1.0, "steps": 3, "plateau": 0.0}
    config = embedded_config(method, alignment=alignment, **plain)
    reference = embedded(config)
    with ReplaySession(embedded_pair, config) as session:
        for part in photos(embedded_pair, (224, 224), (168, 112)):
            session.append(part)
            assert_same(session, reference, reference.turn(part))


def test_limits_in_nats(random_pair: ModelPair) -> None:
    config = settings(Method.STATE, threshold="absolute", theta=(4.8, 4.7, 4.9))
    reference = tiny(config)
    with ReplaySession(random_pair, config) as session:
        session.append(CROP)
        close(session.next_logits, reference.turn(CROP))


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("size", ["tiny", "embedded"])
def test_gradients(
    size: str,
    alignment: Alignment,
    random_pair: ModelPair,
    embedded_pair: ModelPair,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One step of plain descent is the gradient."""
    changes: Any = {"steps": 1, "learning_rate": 1.0, "alignment": alignment}
    if size == "tiny":
        pair, config, parts = random_pair, settings(Method.TOKEN, **changes), EPISODE
        reference = tiny(config)
    else:
        pair, parts = embedded_pair, photos(embedded_pair, (112, 168))
        config = embedded_config(Method.TOKEN, optimizer="sgd", **changes)
        reference = embedded(config)
    steps: list[Tensor] = []

    def spy(policy: Any, divergence: Any, embeds_TD: Tensor, *rest: Any) -> Any:
        offset, path = token_replay(policy, divergence, embeds_TD, *rest)
        steps.append(offset.delta_TD)
        # A zero offset: the second image must see an unchanged first one.
        return replace(offset, delta_TD=torch.zeros_like(offset.delta_TD)), path

    monkeypatch.setattr(methods, "token_replay", spy)
    with ReplaySession(pair, config) as session:
        for part in parts:
            session.append(part)
            for image in reference.extend(part):
                gradient_TD = reference.step(image, reference.read(reference.base))
                close(steps[-1], -config.rate * gradient_TD)


def test_nothing_is_left_on_the_models() -> None:
    reference = tiny(settings(Method.TOKEN))
    reference.turn(CROP)
    for model in (reference.policy, reference.base):
        assert not any(module._forward_hooks for module in model.modules())
        assert not any(module._forward_pre_hooks for module in model.modules())
        assert all(weight.grad is None for weight in model.parameters())
    assert isinstance(reference.read(reference.base), Reading)
