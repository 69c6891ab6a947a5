"""What a request gets wrong fails that request alone: others go on, and the engine too."""

import copy
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch
from on_vllm import SCENES, first_turn, samples, written
from shared import MakeAgent

from visreplay.agent.vllm.process import EngineProcess
from visreplay.agent.vllm.request import request_body, sizes_item
from visreplay.agent.vllm.writer import VllmWriter
from visreplay.replay_core import Method, ReplaySession
from visreplay.replay_core.generation import TokenWriter

Body = dict[str, Any]


@pytest.fixture
def session(make_agent: MakeAgent) -> ReplaySession:
    return first_turn(make_agent(Method.STATE), samples(SCENES, 1)[0])


@pytest.fixture
def body(session: ReplaySession, writer: VllmWriter) -> Body:
    """A good request; its files stay for the test."""
    lease = writer.exports.lease(session)
    built = request_body(session, lease.__enter__(), begun(session), None)
    return {**built, "stream": False, "stream_options": None}


def begun(session: ReplaySession) -> TokenWriter:
    continuation = session.writer(max_new_tokens=9)
    continuation.write(session.next_logits)
    return continuation


def post(engine: EngineProcess, body: Body) -> httpx.Response:
    return httpx.post(f"{engine.url}/inference/v1/generate", json=body, timeout=120)


def without_handle(body: Body) -> None:
    del body["kv_transfer_params"]


def without_handle_or_prefix(body: Body) -> None:
    del body["kv_transfer_params"]
    body["features"]["mm_hashes"]["image"] = ["somebody's"]


def other_picture(body: Body) -> None:
    body["features"]["mm_hashes"]["image"][0] += "0"


def other_identifier(body: Body) -> None:
    body["features"]["mm_hashes"]["image"] = ["a cat"]


def other_tokens(body: Body) -> None:
    body["token_ids"][-3] = body["token_ids"][-4]


def other_salt(body: Body) -> None:
    body["cache_salt"] = "another"


def no_salt(body: Body) -> None:
    del body["cache_salt"]


def prompt_logprobs(body: Body) -> None:
    body["sampling_params"]["prompt_logprobs"] = 0


def more_tokens(body: Body) -> None:
    body["token_ids"] += body["token_ids"][-40:]


def picture_at_the_end(body: Body) -> None:
    place = body["features"]["mm_placeholders"]["image"][0]
    body["token_ids"] = body["token_ids"][: place["offset"] + place["length"]]


def with_sizes(body: Body, **sizes: torch.Tensor) -> None:
    body["features"]["kwargs_data"]["image"] = [sizes_item({n: x[None] for n, x in sizes.items()})]


def grid_of_another_size(body: Body) -> None:
    with_sizes(body, image_grid_thw=torch.tensor([1, 2, 2]))


def grid_that_is_none(body: Body) -> None:
    with_sizes(body, image_grid_thw=torch.tensor([[1, 16, 16]]))


def negative_grid(body: Body) -> None:
    with_sizes(body, image_grid_thw=torch.tensor([1, -16, -16]))


def grid_of_fractions(body: Body) -> None:
    with_sizes(body, image_grid_thw=torch.tensor([1.0, 16.0, 16.0]))


def no_grid(body: Body) -> None:
    with_sizes(body, second_per_grid_ts=torch.tensor(1.0))


def pixels_beside_the_grid(body: Body) -> None:
    grid = torch.tensor([1, 16, 16])
    with_sizes(body, image_grid_thw=grid, pixel_values=torch.zeros(256, 1176))


def video_without_end(body: Body) -> None:
    features = body["features"]
    for part in ("mm_hashes", "mm_placeholders"):
        features[part] = {"video": features[part]["image"]}
    sizes = {
        "video_grid_thw": torch.tensor([[1, 16, 16]]),
        "second_per_grid_ts": torch.tensor([1e30]),
    }
    features["kwargs_data"] = {"video": [sizes_item(sizes)]}


def path_for_a_name(body: Body) -> None:
    body["kv_transfer_params"]["visreplay"]["files"] = ["../../etc/passwd"]


def lost_file(body: Body) -> None:
    body["kv_transfer_params"]["visreplay"]["files"] = ["0" * 32 + ".safetensors"]


def no_files(body: Body) -> None:
    body["kv_transfer_params"]["visreplay"]["files"] = []


def stranger(body: Body) -> None:
    body["kv_transfer_params"]["visreplay"]["source"] = "http://169.254.169.254"


WRONG = [
    without_handle,
    without_handle_or_prefix,
    other_picture,
    other_identifier,
    other_tokens,
    other_salt,
    no_salt,
    prompt_logprobs,
    more_tokens,
    picture_at_the_end,
    grid_of_another_size,
    grid_that_is_none,
    negative_grid,
    grid_of_fractions,
    no_grid,
    pixels_beside_the_grid,
    video_without_end,
    path_for_a_name,
    lost_file,
    no_files,
    stranger,
]


@pytest.mark.parametrize("damage", WRONG)
def test_it_fails_alone(
    engine: EngineProcess, writer: VllmWriter, session: ReplaySession, body: Body, damage: Any
) -> None:
    wrong = copy.deepcopy(body)
    damage(wrong)
    with ThreadPoolExecutor(4) as threads:
        bad = [threads.submit(post, engine, wrong) for _ in range(2)]
        good = threads.submit(written, writer, session)
        assert [each.result().status_code for each in bad] == [500, 500]
        _, theirs = good.result()
    ours = session.fork().generate(max_new_tokens=24)
    assert theirs.token_ids == ours.token_ids
    assert post(engine, body).json()["choices"][0]["token_ids"] == list(ours.token_ids[1:9])


def test_files_of_other_weights_are_refused(
    engine: EngineProcess, writer: VllmWriter, session: ReplaySession
) -> None:
    writer.exports._model = "0" * 64
    with writer.exports.lease(session) as lease:
        body = request_body(session, lease, begun(session), None)
        assert post(engine, {**body, "stream": False, "stream_options": None}).status_code == 500
    assert "is of other weights than the engine's" in engine.log.read_text()


def test_plain_requests_are_served_beside(engine: EngineProcess, body: Body) -> None:
    answer = post(
        engine,
        {
            "token_ids": body["token_ids"][:4],
            "sampling_params": {"max_tokens": 3, "temperature": 0},
        },
    )
    assert len(answer.json()["choices"][0]["token_ids"]) == 3


def damaged(value: Any, rng: random.Random) -> Any:
    """Put something odd in one place of a JSON value."""
    odd = [None, 0, -1, 2**63, 1.5, "", "x" * 5000, [], {}, True, [[]], {"files": None}]
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {name: each for name, each in value.items() if name != key}
        return {**value, key: damaged(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        return [*value[:place], damaged(value[place], rng), *value[place + 1 :]]
    return rng.choice(odd)


def test_no_odd_handle_ends_the_engine(
    engine: EngineProcess, writer: VllmWriter, session: ReplaySession, body: Body
) -> None:
    rng = random.Random(0)
    ours = session.fork().generate(max_new_tokens=9)
    parts = ("kv_transfer_params", "features", "token_ids", "cache_salt")
    with ThreadPoolExecutor(8) as threads:
        wrong = []
        for _ in range(60):
            part = rng.choice(parts)
            wrong.append({**body, part: damaged(body[part], rng)})
        codes = list(threads.map(lambda each: post(engine, each).status_code, wrong))
    assert set(codes) <= {200, 400, 422, 500}
    assert post(engine, body).json()["choices"][0]["token_ids"] == list(ours.token_ids[1:])
