"""Episodes on vLLM, for the tests that need a real server."""

from collections.abc import Sequence
from typing import Any

import httpx

from visreplay.agent import VisualAgent
from visreplay.agent.episode.rollouts import play_rollouts
from visreplay.agent.state import EpisodeState
from visreplay.agent.vllm.process import EngineProcess
from visreplay.agent.vllm.writer import VllmWriter
from visreplay.replay_core import Generation, ReplaySession
from visreplay.replay_core.generation import run_to_end
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Sample, Split, ids_of

# Few blocks of the cache: requests are preempted, and what is cached goes.
BLOCKS = 48
BLOCK_TOKENS = 32
OPTIONS = [
    *("--dtype", "float32", "--enforce-eager", "--max-num-seqs", "16"),
    *("--block-size", str(BLOCK_TOKENS), "--num-gpu-blocks-override", str(BLOCKS)),
    *("--max-model-len", "1024"),
]
CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


SCENES, VIDEOS = "visual-search-medium", "video-search"


def samples(task: str, count: int) -> list[Sample]:
    seeds = range(Split.TUNING, Split.TUNING + count)
    return [get_task(task).load(sample_id) for sample_id in ids_of(task, seeds)]


def play(agent: VisualAgent, chosen: Sequence[Sample], more: int = 0) -> list[EpisodeState]:
    """Play an episode of each sample, all turns at once, with `more` other pictures in each."""
    starts = [
        agent.start(
            sample.question,
            images=(*sample.images, *(other.images[0] for other in chosen[:more])),
            video=sample.video,
        )
        for sample in chosen
    ]
    return play_rollouts(agent.loop, starts, agent.policy)


def tokens(states: Sequence[EpisodeState]) -> list[list[Any]]:
    """List what was written in each turn of each episode."""
    return [
        [message["token_ids"] for message in state["messages"] if "token_ids" in message]
        for state in states
    ]


def on_vllm(agent: VisualAgent, writer: VllmWriter) -> VisualAgent:
    agent.policy.writer = writer
    return agent


def metric(engine: EngineProcess, name: str) -> float:
    lines = httpx.get(f"{engine.url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{name}"))


def first_turn(agent: VisualAgent, sample: Sample) -> ReplaySession:
    """Read a question."""
    session = ReplaySession(agent.pair, agent.replay)
    session.append(sample.question, images=sample.images)
    return session


def written(
    writer: VllmWriter, session: ReplaySession, **options: Any
) -> tuple[ReplaySession, Generation]:
    wishes = [(session, {"max_new_tokens": 24, **options})]
    ((twin, generation),) = run_to_end(writer.together(wishes))
    return twin, generation
