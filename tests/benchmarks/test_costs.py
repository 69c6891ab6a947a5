"""The opponent's FLOPs and memory, and the sums of `costs.py`, against runs that torch counts."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from builders import config, model, segment
from costs import Case, OurCosts, ReferenceCosts, count
from reference import Reference
from sizes import Models, Sizes
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from visreplay.replay_core import Alignment, Method, ReplayConfig, ReplaySession

ALIGNMENTS = list(Alignment)
VOCABULARIES = (1000, 3000)
PART = segment(7, ("image", (1, 12, 8), 1), 6)
LAYERS, DEPTH = 4, 3
WIDTH = config().text_config.hidden_size


def opponent(
    alignment: Alignment = Alignment.REFERENCE, vocabulary: int = VOCABULARIES[0]
) -> Reference:
    """Make an opponent that has extended its context by `PART`."""
    settings = ReplayConfig.paper(
        alignment=alignment,
        replay_layers=DEPTH,
        state_layers=DEPTH,
        threshold="quantile",
        tau=0.4,
    )
    policy, base = (model(noise=noise, vocab_size=vocabulary) for noise in (0.02, 0.0))
    reference = Reference(policy.requires_grad_(False), base.requires_grad_(False), settings)
    reference.extend(PART)
    return reference


def flops(reference: Reference) -> dict[str, float]:
    """Count the parts of token replay, and a turn of state replay."""
    state = Reference(
        reference.policy, reference.base, replace(reference.config, method=Method.STATE)
    )
    state.extend(PART)
    image, reading = reference.images[0], reference.read(reference.base)
    return {
        "preparation": count(lambda: reference.read(reference.base)),
        "step": count(lambda: reference.step(image, reading)),
        "prefill": count(lambda: reference.prefill(reading)),
        "state": count(state.prefill),
    }


def chosen(reference: Reference) -> int:
    """Count the positions in all sets, nL of the closed form."""
    reading = reference.read(reference.base)
    return int(reference.low_entropy(reference.images[0], reading).sum())


def head_rows(positions: int, in_sets: int) -> dict[str, int]:
    """The closed form: positions that the authors' code multiplies with the LM head."""
    return {
        "preparation": positions + positions * DEPTH,
        "step": positions + 2 * in_sets + in_sets,
        "prefill": 1 + 2 * in_sets,
        "state": 2 * positions + 2 * DEPTH * positions + 1,
    }


def layer_flops(positions: int) -> float:
    """The closed form of one decoder layer: its linear maps, and two products of attention."""
    text = config().text_config
    keys = WIDTH // text.num_attention_heads * text.num_key_value_heads
    weights = 2 * WIDTH**2 + 2 * WIDTH * keys + 3 * WIDTH * text.intermediate_size
    return 2 * positions * weights + 4 * positions**2 * WIDTH


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_the_opponent_multiplies_as_many_rows_with_the_lm_head_as_the_authors(
    alignment: Alignment,
) -> None:
    """The LM head's FLOPs are what grows with the vocabulary."""
    small, large = (opponent(alignment=alignment, vocabulary=each) for each in VOCABULARIES)
    assert chosen(small) == chosen(large)
    few, many = flops(small), flops(large)
    row = 2 * WIDTH * (VOCABULARIES[1] - VOCABULARIES[0])
    rows = {part: (many[part] - few[part]) / row for part in few}
    assert rows == head_rows(len(small.ids), chosen(small))


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_the_opponent_costs_what_the_authors_code_costs(alignment: Alignment) -> None:
    """The closed form, to within 5 %."""
    reference = opponent(alignment=alignment)
    positions, rows = len(reference.ids), head_rows(len(reference.ids), chosen(reference))
    tower = count(partial(reference.policy.get_image_features, **PART.blocks[0].inputs))
    layer, row = layer_flops(positions), 2 * WIDTH * VOCABULARIES[0]
    whole = tower + LAYERS * layer
    # Gradients of inputs alone cost as much as the way there, and twice as much in attention.
    back = layer + 4 * positions**2 * WIDTH
    layers_back = DEPTH - 1 if alignment is Alignment.REFERENCE else DEPTH
    expected = {
        "preparation": whole + row * rows["preparation"],
        "step": whole + layers_back * back + row * rows["step"],
        "prefill": whole + row * rows["prefill"],
        "state": 3 * whole + row * rows["state"],
    }
    assert flops(reference) == pytest.approx(expected, rel=0.05)


def test_the_opponent_keeps_nothing_of_the_vocabulary_s_width_for_the_way_back() -> None:
    reference = opponent()
    image, reading = reference.images[0], reference.read(reference.base)
    weights = {weight.untyped_storage().data_ptr() for weight in reference.policy.parameters()}
    kept: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept.append(tuple(tensor.shape))
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        reference.step(image, reading)
    assert any(WIDTH in shape for shape in kept)
    assert not [shape for shape in kept if max(shape, default=0) >= VOCABULARIES[0]]


def test_the_opponent_does_not_freeze_the_weights_in_a_step() -> None:
    """So it keeps the activations of the vision tower and of the layers above the loss, too."""
    reference = opponent()
    image, reading = reference.images[0], reference.read(reference.base)
    seen: list[bool] = []
    modules = (
        reference.policy.model.visual.blocks[0],
        reference.policy.model.language_model.layers[-1],
    )
    handles = [
        module.register_forward_hook(lambda module, args, out: seen.append(out.requires_grad))
        for module in modules
    ]
    reference.step(image, reading)
    for handle in handles:
        handle.remove()
    assert seen == [True, True]
    assert not any(weight.requires_grad for weight in reference.policy.parameters())


SIZES = Sizes(
    hidden=64,
    inner=256,
    heads=2,
    kv_heads=1,
    layers=6,
    vocabulary=8000,
    vision_layers=3,
    vision_hidden=64,
    vision_inner=128,
    side=10,
    replay_layers=4,
)
CASE = Case(SIZES, height=10, width=10, text=32, share=0.4, shares_vision=True)


@pytest.fixture(scope="module")
def models() -> Models:
    """Random models of which `CASE` is an image in its context; the tower is shared."""
    return Models(SIZES, torch.float32)


def close(counted: float, run: float) -> None:
    """Assert that a sum agrees with a run to within 5 %."""
    assert counted == pytest.approx(run, rel=0.05)


def test_the_counted_opponent_costs_what_it_costs_in_a_run(models: Models) -> None:
    config = models.config(alignment="reference")
    reference, costs = Reference(models.policy, models.base, config), ReferenceCosts(CASE)
    (image,) = reference.extend(models.segment(0))
    reading = reference.read(reference.base)
    in_sets = int(reference.low_entropy(image, reading).sum())
    assert in_sets == pytest.approx(CASE.chosen * SIZES.replay_layers, rel=0.01)
    close(costs.preparation, count(lambda: reference.read(reference.base)))
    close(costs.step, count(lambda: reference.step(image, reading)))
    close(costs.prefill, count(lambda: reference.prefill(reading)))


def test_our_counted_costs_are_those_of_a_session(models: Models) -> None:
    def run(steps: int) -> tuple[int, float]:
        with ReplaySession(models.pair, models.config(steps=steps, plateau=0.0)) as session:
            total = count(lambda: session.append(models.segment(0)))
            return len(session.blocks[0].kl_path), total

    costs, (_, without), (taken, total) = OurCosts(CASE), run(0), run(2)
    assert taken == 2
    close(costs.image(0), without)
    close(costs.step, (total - without) / taken)
    close(costs.image(taken), total)
