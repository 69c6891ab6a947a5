"""The closed forms of an episode's work, against what torch counts in sessions of small models."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from costs import count, layer_flops, tower_flops
from episode_costs import (
    Costs,
    Episode,
    Piece,
    Terms,
    Work,
    add_up,
    kv_bytes,
    layer_weights,
    total,
)
from episode_costs import tower_flops as tower_form
from published import MAX_PIXELS, PUBLISHED, SEVEN, PublishedSizes, visual_grid
from sizes import Models, meta_pair
from torch import nn

from visreplay.replay_core import Method, ReplaySession
from visreplay.replay_core.lens import Lens

SIZES = PublishedSizes(
    hidden=128,
    inner=512,
    heads=2,
    kv_heads=1,
    layers=6,
    vocabulary=8000,
    vision_layers=9,
    vision_hidden=64,
    vision_inner=128,
    side=12,
    replay_layers=4,
    state_layers=3,
)
# On a CPU attention computes what causality excludes, and nothing is computed again.
ON_CPU = Terms(shares_tower=True, recompute=False, skips=False)
METHODS = [method for method in Method if method is not Method.TOKEN]


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(SIZES, torch.float32)


def turn(before: int = 0, side: int = SIZES.side) -> list[Piece]:
    """A turn of `Models.segment`: 16 tokens, one picture, 16 tokens."""
    picture = side * side
    return [
        Piece("text", 16, before, before > 0),
        Piece("picture", picture, before + 16, before > 0),
        Piece("text", 16, before + 16 + picture, True),
    ]


def expected(costs: Costs, pieces: list[Piece]) -> float:
    """The FLOPs of some pieces."""
    return total(add_up(map(costs.append, pieces))).flops


@pytest.mark.parametrize("method", METHODS)
def test_a_turn_costs_what_torch_counts(models: Models, method: Method) -> None:
    config = models.config(method, feature_layers=1)
    costs = Costs(SIZES, method, replace(ON_CPU, share=0.4))
    with ReplaySession(models.pair, config) as session:
        first = count(lambda: session.append(models.segment(0)))
        # A quantile: two fifths are low in a picture. In text, as many as there happen to be.
        assert first == pytest.approx(expected(costs, turn()), rel=0.02)
        second = count(lambda: session.append(models.segment(1, side=6)))
    assert second == pytest.approx(expected(costs, turn(SIZES.side**2 + 32, side=6)), rel=0.04)


@pytest.mark.parametrize("steps", [0, 2])
def test_token_replay_costs_what_torch_counts(models: Models, steps: int) -> None:
    config = models.config(Method.TOKEN, steps=steps, plateau=0.0, recompute_activations=False)
    costs = Costs(SIZES, Method.TOKEN, ON_CPU, steps)
    with ReplaySession(models.pair, config) as session:
        counted = count(lambda: session.append(models.segment(0)))
    assert counted == pytest.approx(expected(costs, turn()), rel=0.02)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_step_costs_what_torch_counts(models: Models, recompute: bool) -> None:
    def run(steps: int) -> float:
        settings = {"steps": steps, "plateau": 0.0, "recompute_activations": recompute}
        with ReplaySession(models.pair, models.config(Method.TOKEN, **settings)) as session:
            return count(lambda: session.append(models.segment(0)))

    costs = Costs(SIZES, Method.TOKEN, replace(ON_CPU, recompute=recompute))
    assert run(2) - run(1) == pytest.approx(costs.step(turn()[1]).flops, rel=0.02)


def test_generated_tokens_are_read_again_without_a_lens(models: Models) -> None:
    with ReplaySession(models.pair, models.config(Method.STATE)) as session:
        session.append(models.segment(0))
        plain = count(lambda: session.fork().append(models.segment(1, side=6)))
        session.extend_generated([5] * 32)
        more = count(lambda: session.fork().append(models.segment(1, side=6))) - plain
    before = SIZES.side**2 + 32
    piece = Piece("generated", 32, before, True)
    parts = Costs(SIZES, Method.STATE, ON_CPU).append(piece)
    assert set(parts) == {"policy", "base", "plain"}
    # And what comes behind attends to them.
    behind = 4.0 * 32 * (36 + 32) * SIZES.hidden * (SIZES.layers + 2 * SIZES.state_layers)
    assert more == pytest.approx(total(parts).flops + behind, rel=0.02)


def test_the_parts_at_7b_are_those_of_the_meta_device() -> None:
    piece = Piece("text", 256, 0, False)
    costs = Costs(SEVEN, Method.NONE, ON_CPU)
    counted = layer_flops(SEVEN, piece.tokens, 2)
    assert costs.layers(2, piece).flops == pytest.approx(counted, rel=0.001)
    # 32 x 32 visual tokens are whole windows.
    assert tower_form(SEVEN, 1024) == pytest.approx(tower_flops(SEVEN, 32, 32), rel=0.001)


def test_the_sizes_have_as_many_weights_as_they_say() -> None:
    for sizes, billions in zip(PUBLISHED.values(), (8.29, 33.5, 73.4), strict=True):
        model = meta_pair(sizes).policy.model
        assert sum(weight.numel() for weight in model.parameters()) / 1e9 == pytest.approx(
            billions, rel=0.005
        )
        layer = sum(w.numel() for w in model.model.language_model.layers[0].parameters())
        # Biases and norms are no products.
        assert layer_weights(sizes) == pytest.approx(layer, rel=0.001)


def test_keys_and_values_have_as_many_bytes_as_a_session_exports(models: Models) -> None:
    with ReplaySession(models.pair, models.config(Method.STATE)) as session:
        session.append(models.segment(0))
        keys, values = session.export(8, 20)
    # The models are in float32, the sum is for bfloat16.
    assert keys.nbytes + values.nbytes == 12 * 2 * kv_bytes(SIZES)


def test_an_episode_reads_every_token_once_but_the_last_turn() -> None:
    episode = Episode()
    pieces = [piece for turn in episode.pieces() for piece in turn]
    assert all(after.before == one.before + one.tokens for one, after in pairwise(pieces))
    assert sum(piece.tokens for piece in pieces) == episode.contexts()[-1]
    generated = sum(piece.tokens for piece in pieces if piece.kind == "generated")
    assert generated == (episode.turns - 1) * episode.generated


def test_a_picture_of_8k_fills_the_budget() -> None:
    rows, columns = visual_grid(7680, 4320)
    assert (rows, columns) == (96, 170)
    assert 0.98 * MAX_PIXELS < rows * columns * 28 * 28 <= MAX_PIXELS


def work(
    method: Method = Method.STATE, episode: Episode | None = None, **terms: float | bool
) -> Work:
    """All work of an episode at 7B."""
    turns = Costs(SEVEN, method, Terms(**terms)).episode(episode or Episode())  # type: ignore[arg-type]
    return total(add_up(parts for turn in turns for parts in turn))


def test_more_of_anything_is_more_work() -> None:
    assert work(Method.NONE).flops < work(Method.FEATURE).flops < work(Method.STATE).flops
    assert work(Method.STATE).flops < work(Method.TOKEN).flops
    assert work(shares_tower=True).flops < work().flops
    assert work(skips=False).flops > work().flops
    assert work(share=0.1).flops < work().flops
    assert work(episode=Episode(turns=4)).flops > work().flops
    assert work(episode=Episode(crop=(16, 16))).flops < work().flops
    assert work(Method.TOKEN, recompute=False).flops < work(Method.TOKEN).flops


@torch.no_grad()
def test_a_lens_of_lower_rank_costs_what_torch_counts() -> None:
    rank, rows = SIZES.hidden // 8, 50
    project = nn.Linear(SIZES.hidden, rank, bias=False, device="meta")
    head = nn.Linear(rank, SIZES.vocabulary, bias=False, device="meta")
    hidden_ND = torch.empty(rows, SIZES.hidden, device="meta")
    counted = count(lambda: Lens(project, head, 2**20).read(hidden_ND))
    assert Costs(SIZES, Method.STATE).lens(rows, rank=1 / 8).flops == counted


def test_a_sketch_saves_work_unless_it_fits_badly() -> None:
    assert work(sketch=1 / 8).flops < work().flops
    assert work(sketch=1 / 8).traffic < work().traffic
    assert work(sketch=1 / 8, base_again=1.0, policy_again=1.0).flops > work().flops
