"""Memory, seconds and layouts of episodes on GPUs."""

from dataclasses import replace

import pytest
import torch
from cluster import H100, HIGH, LIKELY, LOW, Deployment, Shares
from episode_costs import NUMBER, Episode, Terms, Work, kv_bytes, layer_weights
from published import PUBLISHED, SEVEN, SEVENTY_TWO
from sizes import Models, Sizes

from visreplay.replay_core import Method, ReplaySession

STATE = Deployment(SEVEN, Method.STATE)
SMALL = Sizes(
    hidden=64,
    inner=128,
    heads=2,
    kv_heads=1,
    layers=6,
    vocabulary=500,
    vision_layers=2,
    vision_hidden=64,
    vision_inner=128,
    side=24,
    replay_layers=4,
    state_layers=3,
)
SIZES = pytest.mark.parametrize("sizes", PUBLISHED.values(), ids=PUBLISHED)
METHODS = pytest.mark.parametrize("method", list(Method))


def test_seconds_are_work_through_what_is_reached() -> None:
    shares = Shares(compute=0.5, traffic=0.25, call=1e-3)
    deployment = replace(STATE, shares=shares)
    assert deployment.seconds(Work(flops=H100.flops)) == 2
    assert deployment.seconds(Work(traffic=H100.bandwidth)) == 4
    assert deployment.seconds(Work(H100.flops, H100.bandwidth)) == 6
    # Python starts what comes while the GPU works.
    assert deployment.seconds(Work(H100.flops, calls=1000)) == 2
    assert deployment.seconds(Work(H100.flops, calls=3000)) == 3


def test_a_file_goes_over_the_bus_and_through_memory() -> None:
    deployment = replace(STATE, shares=Shares(bus=0.5))
    assert deployment.moved(H100.bus, rate=H100.bus) == 3


@METHODS
def test_a_conversation_takes_what_a_session_takes(method: Method) -> None:
    models = Models(SMALL, torch.float32)
    with ReplaySession(models.pair, models.config(method, steps=1)) as session:
        session.append(models.segment(0))
        taken, length = sum(session.memory.values()), session.length
    episode = Episode(picture=(24, 24), prompt=16, question=length - 592, generated=0, turns=1)
    expected = Deployment(SMALL, method, episode)
    assert expected.length == length
    # In float32; an eighth of a cache may be spare, or just used up.
    assert taken == pytest.approx(2 * expected.live, rel=0.13)


def test_a_worker_has_the_policy_and_what_of_the_base_is_its_own() -> None:
    none, state = (Deployment(SEVEN, method) for method in (Method.NONE, Method.STATE))
    assert none.worker_weights == none.policy_weights
    layers = NUMBER * SEVEN.state_layers * layer_weights(SEVEN)
    ends = 2 * NUMBER * SEVEN.hidden * SEVEN.vocabulary
    more = state.worker_weights - none.worker_weights
    assert more > layers + ends
    shared = replace(state, terms=Terms(shares_tower=True))
    assert shared.worker_weights - none.worker_weights == pytest.approx(layers, rel=0.01)


def test_only_7b_fits_on_one_card_with_its_engine() -> None:
    for name, sizes in PUBLISHED.items():
        for method in Method:
            assert bool(Deployment(sizes, method).rate(1).hourly) == (name == "7B")


@SIZES
@METHODS
def test_a_layout_fits_and_nobody_does_more_than_it_can(sizes: Sizes, method: Method) -> None:
    each = Deployment(sizes, method)
    gpus = 8 * each.machines
    rate = each.rate(gpus)
    assert rate.workers * each.worker_gpus + rate.engines * each.engine_gpus <= gpus
    assert rate.hourly <= 3600 * rate.workers / each.worker_seconds
    assert rate.hourly <= 3600 * rate.engines / each.engine_seconds(rate.batch) * 1.000001
    assert 0 < rate.busy <= 1
    assert rate.batch <= each.engine_room(each.engine_gpus)
    assert each.hourly(2 * gpus) == pytest.approx(2 * rate.hourly)


@SIZES
@METHODS
def test_better_shares_do_more(sizes: Sizes, method: Method) -> None:
    seconds = [
        Deployment(sizes, method, shares=shares).worker_seconds for shares in (LOW, LIKELY, HIGH)
    ]
    assert seconds == sorted(seconds, reverse=True)


def test_a_larger_model_does_less_and_more_cards_do_more() -> None:
    assert Deployment(SEVENTY_TWO, Method.STATE).hourly(8) < STATE.hourly(8)
    rates = [STATE.hourly(gpus) for gpus in (1, 2, 4, 8, 100)]
    assert rates == sorted(rates)


def test_a_batch_shares_the_reading_of_the_weights() -> None:
    one, many = (STATE.token_seconds(batch) for batch in (1, 32))
    assert one < many < 32 * one
    assert STATE.engine_seconds(32) < STATE.engine_seconds(1)
    assert STATE.engine_seconds(32) > STATE.load_seconds


def test_rollouts_share_the_first_turn() -> None:
    eight = replace(STATE, rollouts=8)
    assert eight.worker_parts["tower"] < STATE.worker_parts["tower"] / 4
    assert eight.load_seconds < STATE.load_seconds
    one_turn = replace(STATE, episode=Episode(turns=1))
    shared = replace(one_turn, rollouts=8)
    assert shared.worker_seconds == pytest.approx(one_turn.worker_seconds / 8)


def test_files_hold_the_conversation_before_the_last_answer() -> None:
    assert STATE.written == (STATE.length - STATE.episode.generated) * kv_bytes(SEVEN)
    assert replace(STATE, gib=8).worker_room(1) == 7
    assert replace(STATE, gib=0.5).worker_room(1) == 1


def test_one_sample_at_a_time_leaves_a_worker_waiting() -> None:
    hourly, busy = STATE.alone()
    assert hourly == pytest.approx(3600 * busy / STATE.worker_seconds)
    assert busy < 1
    slower, idle = STATE.alone(host=2.0)
    assert slower < hourly
    assert idle < busy
