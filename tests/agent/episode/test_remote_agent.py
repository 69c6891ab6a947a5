"""Whole episodes of a model behind a URL: a real server, real tools, real media."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from endpoints import Answer, completion, little_endpoint
from shared import MakeAgent

from visreplay.agent import RemoteAgent, Sampling, StopReason, Trajectory
from visreplay.agent.episode.remote_agent import REMOTE_GRID
from visreplay.agent.policy.endpoint import Endpoint, EndpointError
from visreplay.agent.state import Step
from visreplay.replay_core import ConfigError, Method
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Sample, Split
from visreplay.tools import ImageStore

EMBEDDED_PIXELS = {"min_pixels": 56 * 56, "max_pixels": 224 * 224}
"""The sizes of images of the embedded pair's processor."""


def samples(name: str, count: int) -> list[Sample]:
    return [get_task(name).sample(Split.TUNING + n) for n in range(count)]


@pytest.fixture
def remote(openai_url: str) -> Iterator[RemoteAgent]:
    """The embedded policy behind a URL."""
    agent = RemoteAgent.at(
        f"{openai_url}/v1",
        "policy",
        protocol="embedded",
        sampling=Sampling(max_new_tokens=96),
        **EMBEDDED_PIXELS,
    )
    yield agent
    agent.close()


def untimed(steps: Iterable[Step]) -> list[tuple[str, object]]:
    """Texts, calls and observations of an episode."""
    return [
        (step["text"], [(use["arguments"], use["observation"]) for use in step["tool_calls"]])
        for step in steps
    ]


def test_episodes_through_the_url_are_those_of_the_pair_without_replay(
    remote: RemoteAgent, make_agent: MakeAgent
) -> None:
    here = make_agent(Method.NONE)
    right = 0
    for sample in samples("visual-search-medium", 5):
        expected = here.run(sample.question, images=sample.images)
        found = remote.run(sample.question, images=sample.images)
        assert (found.answer, found.stop_reason) == (expected.answer, expected.stop_reason)
        assert untimed(found.steps) == untimed(expected.steps)
        assert len(found.steps) > 1, "the episode has a zoom"
        right += found.answer == sample.answer
    assert right >= 3


def test_a_video_is_played_as_its_frames(remote: RemoteAgent) -> None:
    """The pair has read videos as videos: frames one by one are new to it, and may mislead it."""
    for sample in samples("video-search", 2):
        assert sample.video is not None
        found = remote.run(sample.question, video=sample.video)
        assert found.stop_reason in set(StopReason) and found.steps[0]["text"]


def test_rollouts_are_the_episodes_of_their_seeds(remote: RemoteAgent) -> None:
    (sample,) = samples("visual-search-medium", 1)
    agent = RemoteAgent(
        remote.policy.endpoint,
        "policy",
        remote.protocol,
        sampling=Sampling(temperature=2.0, max_new_tokens=96),
        parallel=2,
    )
    together = agent.rollouts(sample.question, range(4), images=sample.images)
    alone = [agent.run(sample.question, images=sample.images, seed=seed) for seed in range(4)]
    assert [untimed(each.steps) for each in together] == [untimed(each.steps) for each in alone]
    assert len({each.steps[0]["text"] for each in together}) > 1
    assert [each.settings["driver"] for each in (together[0], alone[0])] == ["rollouts", "graph"]


def test_the_record_says_where_the_policy_was(remote: RemoteAgent, tmp_path: Path) -> None:
    (sample,) = samples("visual-search-medium", 1)
    found: Trajectory = remote.run(sample.question, images=sample.images)
    host = remote.policy.endpoint.host
    assert host.startswith("127.0.0.1:")
    assert (found.policy, found.base) == (f"policy at {host}", None)
    assert found.settings["replay"]["method"] == "none"
    assert found.settings["policy_url"] == f"http://{host}/v1"
    # What is None was not sent: the endpoint decided on it.
    assert found.settings["sampling"] == {
        "temperature": 0.0,
        "top_p": None,
        "top_k": None,
        "repetition_penalty": None,
        "max_new_tokens": 96,
    }
    assert all(step["replay"] is None for step in found.steps)
    saved = json.loads(found.save(tmp_path, remote.store).read_text("utf-8"))
    assert "token_ids" not in json.dumps(saved)


def test_without_a_recipe_the_protocol_is_the_one_for_any_model() -> None:
    with little_endpoint(models=["some-model"]) as server:
        agent = RemoteAgent.at(server.url)
        assert agent.names == (f"some-model at 127.0.0.1:{server.server_port}", None)
        assert agent.protocol.name == "hermes" and agent.protocol.grid == REMOTE_GRID
        assert RemoteAgent.at(server.url, "Qwen3-VL-8B").protocol.name == "qwen3-vl"
        small = RemoteAgent.at(server.url, max_pixels=100_000)
        assert small.protocol.grid.max_pixels == 100_000
        mm_eureka = RemoteAgent.at(server.url, recipe="mm-eureka")
        assert mm_eureka.protocol.grid.max_pixels == 501_760


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["one", "two"], "has the models one, two: name one by --policy"),
        ([], "lists no model: name one by --policy"),
        ([f"m{n}" for n in range(30)], "m18, m19 and 10 more: name one"),
    ],
)
def test_a_model_that_is_not_named_must_be_the_only_one(models: list[str], message: str) -> None:
    with little_endpoint(models=models) as server, pytest.raises(ConfigError, match=message):
        RemoteAgent.at(server.url)


def test_an_endpoint_without_a_list_of_models_wants_a_name() -> None:
    with little_endpoint(models=Answer("nothing here", 404)) as server:
        endpoint = Endpoint(server.url, retries=0)
        with pytest.raises(EndpointError, match=r"/models answered with status 404 .*--policy"):
            RemoteAgent.at(endpoint)
        assert RemoteAgent.at(endpoint, "named").names[0].startswith("named at ")


def test_a_rollout_that_fails_ends_them_all() -> None:
    answers = [Answer(completion("<answer>B</answer>")), Answer("gone", 500)]
    with little_endpoint(*answers) as server:
        agent = RemoteAgent.at(Endpoint(server.url, retries=0), store=ImageStore())
        (sample,) = samples("visual-search-medium", 1)
        with pytest.raises(EndpointError, match="status 500"):
            agent.rollouts(sample.question, range(3), images=sample.images)
