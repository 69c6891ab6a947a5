"""The claims about the embedded pair, on held-out samples."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from shared import MakeAgent

from visreplay.agent import get_protocol
from visreplay.agent.episode.embedded_agent import embedded_agent
from visreplay.agent.policy.encoder import ContextEncoder, token_grid
from visreplay.replay_core import (
    EMBEDDED,
    Method,
    ModelPair,
    ReplayConfig,
    ReplaySession,
    embedded_config,
)
from visreplay.tasks.evaluation.evaluate import evaluate
from visreplay.tasks.evaluation.summary import replays, summarise
from visreplay.tasks.registry import get_task
from visreplay.tasks.synthetic.sprites import CHARACTERS
from visreplay.tasks.types import Sample, Split, ids_of
from visreplay.tools import ImageStore

TASKS = {"visual-search-easy": 0.95, "visual-search-medium": 0.90, "video-search": 0.95}
SAMPLES = range(Split.HELD_OUT, Split.HELD_OUT + 30)


@pytest.mark.parametrize(("name", "reach"), TASKS.items())
def test_the_policy_is_as_accurate_as_claimed(
    make_agent: MakeAgent, name: str, reach: float
) -> None:
    task = get_task(name)
    summary = summarise(evaluate(make_agent(Method.NONE), task, ids_of(task.name, SAMPLES)))
    assert not summary.errors
    assert summary.accuracy.high >= reach, summary
    assert summary.accuracy.value >= reach - 0.1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", TASKS)
def test_the_base_is_far_below(name: str, temperature: float) -> None:
    task, agent = get_task(name), embedded_agent("base", temperature=temperature)
    summary = summarise(evaluate(agent, task, ids_of(task.name, SAMPLES)))
    assert not summary.errors
    assert summary.accuracy.value <= 0.6


Forced = Callable[[Sample], str]


@pytest.fixture
def without_tools(embedded_pair: ModelPair) -> Forced:
    """Answers of the policy when it can look at the overview only."""
    store = ImageStore()
    grid = get_protocol("embedded", token_grid(embedded_pair.processor), store).grid
    encoder = ContextEncoder(embedded_pair.processor, store, grid=grid)
    tokenizer = embedded_pair.tokenizer
    letters = [tokenizer.encode(character)[0] for character in CHARACTERS]

    def answer(sample: Sample) -> str:
        with ReplaySession(embedded_pair, ReplayConfig(Method.NONE)) as session:
            image = {"type": "image", "image": store.put(sample.images[0])}
            question = {"type": "text", "text": sample.question}
            session.append(encoder.encode([{"role": "user", "content": [image, question]}]))  # type: ignore[list-item]
            session.generate(max_new_tokens=40, stop_strings=["</think>"])
            session.extend_generated(tokenizer.encode("<answer>"))
            return CHARACTERS[int(session.next_logits[letters].argmax())]

    return answer


@pytest.mark.parametrize("name", ["visual-search-easy", "visual-search-medium"])
def test_without_tools_the_policy_is_at_chance(without_tools: Forced, name: str) -> None:
    """The overview hides the answer: 60 samples, chance 5 %; 10 right would be 1 in 1,000."""
    samples = [get_task(name).sample(Split.HELD_OUT + seed) for seed in range(60)]
    assert sum(without_tools(sample) == sample.answer for sample in samples) < 10


def test_token_replay_lowers_the_loss_on_every_sample(make_agent: MakeAgent) -> None:
    agent = make_agent(Method.TOKEN)
    for task in map(get_task, TASKS):
        records = list(evaluate(agent, task, ids_of(task.name, SAMPLES[:10])))
        reports = replays(records)
        assert len(reports) == sum(
            len(rollout["trajectory"]["steps"]) for each in records for rollout in each["rollouts"]
        )
        assert len(records) == summarise(records).n == 10
        for report in reports:
            assert report["kl_after"] < report["kl_before"]


def test_no_optimisation_step_is_exactly_the_plain_policy(
    make_agent: MakeAgent, embedded_pair: ModelPair
) -> None:
    sample = get_task("visual-search-medium").sample(Split.HELD_OUT)
    logits = []
    for config in (ReplayConfig(Method.NONE), embedded_config(Method.TOKEN, steps=0)):
        agent = make_agent()
        start = agent.start(sample.question, images=sample.images)
        encoder = ContextEncoder(embedded_pair.processor, agent.store, grid=agent.protocol.grid)
        with ReplaySession(embedded_pair, config) as session:
            session.append(encoder.encode(start["messages"]))
            logits.append(session.next_logits)
    assert torch.equal(*logits)


def test_the_pair_is_small_and_has_a_card() -> None:
    size = sum(path.stat().st_size for path in Path(EMBEDDED).rglob("*") if path.is_file())
    assert size < 20 * 2**20
    assert "not" in (EMBEDDED / "README.md").read_text("utf-8")
