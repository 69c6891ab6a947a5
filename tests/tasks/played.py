"""Run folders of real episodes of the embedded pair, as `visreplay eval` writes them."""

import json
from collections.abc import Sequence
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visreplay.agent import Trajectory, VisualAgent
from visreplay.agent.encoding import ContextEncoder
from visreplay.replay_core import Method, ReplaySession
from visreplay.tasks.demo import embedded_agent
from visreplay.tasks.types import Sample
from visreplay.tools import ImageStore


def play(folder: Path, row: str, samples: Sequence[Sample], rollouts: int = 1) -> Path:
    """Play samples with a row of the demo's table, and write the run."""
    agent = embedded_agent(row, ImageStore(folder / "images"), temperature=float(rollouts > 1))
    lines: list[Any] = []
    for sample in samples:
        played = agent.rollouts(
            sample.question, range(rollouts), images=sample.images, video=sample.video
        )
        settings = dict(played[0].settings)
        lines.append(record(sample, [as_recorded(t, agent) for t in played]))
    agent.close()
    return write(folder, {"task": "embedded", "row": row, **settings}, lines)


def write(folder: Path, settings: dict[str, Any], lines: Sequence[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in [{"settings": settings}, *lines])
    (folder / "run.jsonl").write_text(text, "utf-8")
    return folder


def record(sample: Sample, trajectories: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "sample_id": sample.sample_id,
        "question": sample.question,
        "expected": sample.answer,
        "category": sample.sample_id.rpartition("-")[0],
        "error": None,
        "rollouts": [
            {"right": t["answer"] == sample.answer, "cot_right": None, "trajectory": t}
            for t in trajectories
        ],
    }


def as_recorded(trajectory: Trajectory, agent: VisualAgent) -> dict[str, Any]:
    """A trajectory as a run has it: calls as a list, and what replay did block by block."""
    told = trajectory.to_json()
    is_plain = agent.config.method is Method.NONE
    blocks = [[]] * len(told["steps"]) if is_plain else replayed(trajectory, agent)
    for step, of_step in zip(told["steps"], blocks, strict=True):
        if "tool_calls" not in step:
            call, seen = step.pop("tool_call"), step.pop("observation")
            error = step["error"] if call else None
            step["tool_calls"] = [{**call, "observation": seen, "error": error}] if call else []
            step["error"] = None if call else step["error"]
            if seen and "box" in seen:
                seen.setdefault("source", told["images"][0])
        if step["replay"]:
            step["replay"].setdefault("blocks", of_step)
    return {k: v for k, v in told.items() if k not in ("policy", "base", "protocol", "settings")}


def replayed(trajectory: Trajectory, agent: VisualAgent) -> list[list[dict[str, Any]]]:
    """Read a trajectory again, and map entropies and replayed tokens of each step's new blocks."""
    messages = trajectory.messages
    encoder = ContextEncoder(agent.pair.processor, agent.store, agent.pair.policy)
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    most = log(agent.pair.policy.model.config.get_text_config().vocab_size)
    steps = []
    with ReplaySession(agent.pair, agent.config) as session:
        for before, turn in pairwise([-1, *turns]):
            if before >= 0:
                session.extend_generated(messages[before]["token_ids"])
            segment = encoder.encode(messages[:turn], before + 1)
            known = len(session.blocks)
            session.append(segment)
            of_step = []
            for block, seen in zip(segment.blocks, session.blocks[known:], strict=True):
                time, height, width = block.inputs[f"{block.kind}_grid_thw"][0].tolist()
                grid = [time, height // 2, width // 2]
                entropy = seen.entropy_LT.mean(0).numpy() / most
                share = seen.chosen_LT.float().mean(0).numpy()
                rgb = np.stack([entropy, share, 0 * share], -1).reshape(-1, grid[2], 3)
                picture = Image.fromarray((255 * rgb).round().clip(0, 255).astype(np.uint8))
                of_step.append(
                    {
                        "kind": block.kind,
                        "grid": grid,
                        "map": agent.store.put(picture),
                        "max_entropy": most,
                    }
                )
            steps.append(of_step)
    return steps
