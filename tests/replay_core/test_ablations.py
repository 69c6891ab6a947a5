"""The paper's ablations, each one option of `ReplayConfig`."""

from dataclasses import replace
from itertools import product
from typing import Any

import builders
import pytest
import torch
from builders import segment
from replay_cases import ABLATIONS, SMOOTHING
from torch import Tensor
from torchvision.transforms.v2 import functional

from visreplay.replay_core import (
    ConfigError,
    ModelPair,
    ReplayConfig,
    ReplaySession,
    Segment,
    UnsupportedModelError,
)
from visreplay.replay_core.lens import Lens
from visreplay.replay_core.model_run import visual_activations
from visreplay.replay_core.teachers import ColourJitter, recoloured, window_mean

IMAGE = segment(4, ("image", (1, 8, 8), 1), 3)
CROP = segment(2, ("image", (1, 4, 8), 2), 4)


def config(method: Any = "token", **changes: Any) -> ReplayConfig:
    settings = {"threshold": "quantile", "tau": 0.5, "replay_layers": 3, "state_layers": 3}
    return ReplayConfig(method=method, **{**settings, "steps": 3, **changes})


@pytest.fixture(scope="module")
def whole_pair() -> ModelPair:
    return builders.pair(replay_layers=None)


def chosen(pair: ModelPair, settings: ReplayConfig, *parts: Segment) -> Tensor:
    with ReplaySession(pair, settings) as session:
        for part in parts or (IMAGE,):
            session.append(part)
        return session.blocks[-1].chosen_LT


def logits(pair: ModelPair, settings: ReplayConfig, *parts: Segment) -> Tensor:
    with ReplaySession(pair, settings) as session:
        for part in parts or (IMAGE,):
            session.append(part)
        return session.next_logits


@pytest.mark.parametrize("method", ["token", "state"])
def test_the_sides(pair: ModelPair, method: str) -> None:
    low = chosen(pair, config(method))
    assert torch.equal(chosen(pair, config(method, side="high")), ~low)
    assert chosen(pair, config(method, side="all")).all()
    random = chosen(pair, config(method, side="random"))
    assert torch.equal(random.sum(1), low.sum(1)) and not torch.equal(random, low)


def test_another_image_gets_another_random_draw(pair: ModelPair) -> None:
    settings = config(side="random")
    assert torch.equal(chosen(pair, settings), chosen(pair, settings))
    assert not torch.equal(chosen(pair, settings), chosen(pair, settings, IMAGE, IMAGE))


def test_all_tokens_are_what_tau_1_takes(pair: ModelPair) -> None:
    for method, parts in (("token", (IMAGE, CROP)), ("state", (IMAGE,))):
        everything = logits(pair, config(method, side="all"), *parts)
        assert (everything - logits(pair, config(method), *parts)).abs().max() > 1e-3
    whole, tau_1 = config(side="all"), config(threshold="relative", tau=1.0)
    assert torch.equal(logits(pair, whole), logits(pair, tau_1))


def test_state_replay_of_all_tokens_patches_text_before_the_image_too(pair: ModelPair) -> None:
    text = segment(9)
    plain, low, everything = (
        logits(pair, settings, text)
        for settings in (config("none"), config("state"), config("state", side="all"))
    )
    assert torch.equal(plain, low) and not torch.equal(plain, everything)


def test_an_offset_that_enters_at_a_middle_layer(pair: ModelPair) -> None:
    """Below its entry the policy is the plain one, and above it nears the base."""
    seen: dict[int, list[Tensor]] = {}
    for entry in (0, 2):
        with ReplaySession(pair, config(entry_layer=entry)) as session:
            report = session.append(IMAGE)
            cache = session._context.policy_run.cache  # type: ignore[union-attr]
            seen[entry] = [layer.key_rows.data for layer in cache._own_layers]
            assert report.kl_after < report.kl_before  # type: ignore[operator]
            assert not session.blocks[0].chosen_LT[:entry].any()
            assert session.blocks[0].chosen_LT[entry:].any(dim=1).all()
    with ReplaySession(pair, config("none")) as plain:
        plain.append(IMAGE)
        cache = plain._context.policy_run.cache  # type: ignore[union-attr]
        keys = [layer.key_rows.data for layer in cache._own_layers]
    # The keys of layer l are made of the output of layer l - 1.
    assert [torch.equal(*each) for each in zip(seen[2], keys, strict=True)] == [1, 1, 0, 0]
    assert [torch.equal(*each) for each in zip(seen[0], keys, strict=True)] == [0, 0, 0, 0]


@pytest.mark.parametrize("method", ["token", "state"])
def test_swapped_roles_equal_a_swapped_pair(whole_pair: ModelPair, method: str) -> None:
    other = ModelPair.of(builders.model(), builders.model(noise=0.02), builders.Processor(), 3)
    swapped = logits(whole_pair, config(method, swap_roles=True), IMAGE, CROP)
    torch.testing.assert_close(swapped, logits(other, config(method), IMAGE, CROP))


def test_a_base_that_was_cut_down_cannot_answer(pair: ModelPair) -> None:
    with pytest.raises(ConfigError, match="of its 4 layers the pair kept 3: load it with"):
        ReplaySession(pair, config(swap_roles=True))


def test_the_window_teacher_reads_averaged_activations(pair: ModelPair) -> None:
    policy = pair.policy
    alone = ModelPair.of(policy.model, None, pair.processor)
    settings = config(teacher="window", query_chunk=5)
    hidden = visual_activations(policy, [IMAGE], policy.features, 3, settings)
    lens = Lens(policy.norm, policy.head, 2**20)
    with ReplaySession(alone, settings) as session:
        report = session.append(IMAGE)
        (record,) = session.blocks
    for layer, hidden_TD in enumerate(hidden):
        grid = hidden_TD.reshape(4, 4, -1)
        mean = torch.stack(
            [
                grid[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].mean((0, 1))
                for y in range(4)
                for x in range(4)
            ]
        )
        expected, _ = lens.read(mean)
        torch.testing.assert_close(record.entropy_LT[layer], expected, atol=1e-4, rtol=0)
    assert report.kl_after < report.kl_before  # type: ignore[operator]


def test_a_window_stays_within_a_frame() -> None:
    hidden = torch.randn(2 * 3 * 2, 5)
    both, first = window_mean((2, 3, 2))(hidden), window_mean((1, 3, 2))(hidden[:6])
    torch.testing.assert_close(both[:6], first)


def test_the_jitter_teacher_gets_other_colours(pair: ModelPair) -> None:
    policy = pair.policy
    (block,) = IMAGE.blocks
    assert recoloured(block).digest == recoloured(block).digest != block.digest
    alone = ModelPair.of(policy.model, None, pair.processor)
    settings = config(teacher="jitter")
    hidden = visual_activations(
        policy, [IMAGE], lambda block: policy.features(recoloured(block)), 3, settings
    )
    lens = Lens(policy.norm, policy.head, 2**20)
    for method in ("token", "state"):
        with ReplaySession(alone, config(method, teacher="jitter")) as session:
            report = session.append(IMAGE)
            (record,) = session.blocks
        expected = torch.stack([lens.read(hidden_TD)[0] for hidden_TD in hidden])
        torch.testing.assert_close(record.entropy_LT, expected, atol=1e-4, rtol=0)
        assert report.kl_after < report.kl_before  # type: ignore[operator]


def variance_by_windows(policy: Any, hidden_TD: Tensor, grid: tuple[int, int]) -> Tensor:
    """The variance of full logits within windows of 3 x 3, averaged over tokens and vocabulary."""
    logits_HWV = policy.head(policy.norm(hidden_TD)).reshape(*grid, -1)
    total = torch.zeros(())
    for y in range(0, grid[0], 3):
        for x in range(0, grid[1], 3):
            window = logits_HWV[y : y + 3, x : x + 3].flatten(0, 1)
            total = total + (window - window.mean(0)).square().sum(0).mean()
    return total / len(hidden_TD)


@pytest.mark.parametrize("chunk", [2048, 3])
def test_the_local_control_evens_out_logits_within_windows(pair: ModelPair, chunk: int) -> None:
    """What enters the layer is what is measured there; no base is needed."""
    policy = pair.policy
    alone = ModelPair.of(policy.model, None, pair.processor)
    settings = config(**SMOOTHING[0], optimizer="sgd", learning_rate=10.0, query_chunk=chunk)
    hidden = visual_activations(policy, [IMAGE], policy.features, 2, settings)
    expected = variance_by_windows(policy, hidden[1], (4, 4))
    with ReplaySession(alone, settings) as session:
        report = session.append(IMAGE)
        assert session.blocks[0].chosen_LT.sum(dim=1).tolist() == [0, 0, 16]
    assert report.kl_before == pytest.approx(float(expected), rel=1e-4)
    assert report.kl_after < report.kl_before  # type: ignore[operator]


def test_the_global_control_answers_from_a_jittered_image(pair: ModelPair) -> None:
    policy = pair.policy
    alone = ModelPair.of(policy.model, None, pair.processor)
    (block,) = IMAGE.blocks
    jitter = ColourJitter.of(pair.processor)
    first, second = jitter(block), jitter(block)
    assert first.digest != second.digest != block.digest
    answer = logits(alone, config(**SMOOTHING[1], steps=0))
    plain = logits(alone, config("none"), Segment(IMAGE.token_ids, (first,)))
    torch.testing.assert_close(answer, plain, atol=1e-5, rtol=0)
    # The teacher is the policy that sees the image itself.
    hidden = visual_activations(policy, [IMAGE], policy.features, 3, config())
    lens = Lens(policy.norm, policy.head, 2**20)
    with ReplaySession(alone, config(**SMOOTHING[1], steps=6)) as session:
        report = session.append(IMAGE)
        entropy_LT = session.blocks[0].entropy_LT
    expected = torch.stack([lens.read(hidden_TD)[0] for hidden_TD in hidden])
    torch.testing.assert_close(entropy_LT, expected, atol=1e-4, rtol=0)
    assert report.kl_after < report.kl_before  # type: ignore[operator]


def test_the_jitter_is_torchvision_s_on_the_whole_image() -> None:
    """The rows of patches are jittered as the image that they were cut from."""
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    block = replace(IMAGE.blocks[0], inputs={"pixel_values": image[None] - 0.5})
    jitter = ColourJitter([0.5] * 3, [1.0] * 3)
    changed = jitter(block).inputs["pixel_values"][0] + 0.5
    draws = (2 * torch.rand(4, generator=torch.Generator().manual_seed(0)) - 1).tolist()
    expected = functional.adjust_brightness(image, 1 + 0.15 * draws[0])
    expected = functional.adjust_contrast(expected, 1 + 0.15 * draws[1])
    expected = functional.adjust_saturation(expected, 1 + 0.15 * draws[2])
    expected = functional.adjust_hue(expected, 0.03 * draws[3])
    torch.testing.assert_close(changed, expected, atol=1e-5, rtol=0)


def test_families_whose_tokens_form_no_grid_have_no_window() -> None:
    ragged = builders.pair("llava_onevision")
    image = segment(2, ("image", (1, 4, 6), 1), family="llava_onevision")
    window = ReplaySession(ragged, config(teacher="window"))
    with pytest.raises(UnsupportedModelError, match=r"llava_onevision .* do not form a grid"):
        window.append(image)
    with ReplaySession(ragged, config(teacher="jitter")) as session:
        assert session.append(image).kl_before


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *product(["token", "state"], ABLATIONS),
        *product(["token"], [*SMOOTHING, {"entry_layer": 1}]),
    ],
    ids=str,
)
def test_history_does_not_matter(whole_pair: ModelPair, method: str, options: Any) -> None:
    """Split at other places, cropped and extended again, forked: the result is the same."""
    settings = config(method, **options)
    with ReplaySession(whole_pair, settings) as straight:
        straight.append(IMAGE)
        straight.append(CROP)
        expected, records = straight.next_logits, straight.blocks
    with ReplaySession(whole_pair, settings) as session:
        for length in (2, 3):
            session.append(Segment(IMAGE.token_ids[:length]))
            session.crop(0)
        session.append(Segment(IMAGE.token_ids[:3]))
        session.append(IMAGE.after(3))
        session.fork().append(CROP)
        session.append(segment(("image", (1, 8, 4), 5)))
        session.crop(len(IMAGE))
        cut = CROP.blocks[0].stop + 2
        session.append(Segment(CROP.token_ids[:cut], CROP.blocks))
        session.append(CROP.after(cut))
        torch.testing.assert_close(session.next_logits, expected, atol=1e-4, rtol=0)
        for ours, theirs in zip(session.blocks, records, strict=True):
            assert torch.equal(ours.chosen_LT, theirs.chosen_LT)
