"""Measure what replay repairs on the narrow pair: `python benchmarks/repair.py --pairs DIR`.

Each DIR holds a base and the policies that RLVR made of it, each with a seed of its own, as
`recipes/train.py --pair narrow --policies 5` writes them. Systems, sizes, hypotheses and tests were
registered before anything was measured on held-out scenes (`docs/registered.md`). What came out of
every scene is kept in `benchmarks/results/narrow`, so that a stopped run can go on; the tables are
made from all that is there.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import Qwen2_5_VLForConditionalGeneration

from visreplay.agent import Sampling, VisualAgent
from visreplay.agent.episode.embedded_agent import prepare_process
from visreplay.agent.episode.rollouts import play_rollouts
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.protocols import choose_recipe, get_protocol
from visreplay.replay_core import Method, ModelPair, ReplayConfig, embedded_config, load_pair
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Sample, Split, Task, ids_of
from visreplay.tools import ImageStore

ROLLOUTS = 8
TOGETHER = 48
"""How many episodes are played as one batch."""
OUT = Path(__file__).parent / "results" / "narrow"
TASK = "visual-search-medium"
RELEASED = {"alignment": "reference", "optimizer": "sgd", "steps": 25, "plateau": 0.0}

SYSTEMS: dict[str, tuple[Method, dict[str, Any]]] = {
    "policy": (Method.NONE, {}),
    "state, low": (Method.STATE, {}),
    "state, high": (Method.STATE, {"side": "high"}),
    "state, random": (Method.STATE, {"side": "random"}),
    "state, all": (Method.STATE, {"side": "all"}),
    "state, released alignment": (Method.STATE, {"alignment": "reference"}),
    "token, low": (Method.TOKEN, {}),
    "token, high": (Method.TOKEN, {"side": "high"}),
    "token, random": (Method.TOKEN, {"side": "random"}),
    "token, all": (Method.TOKEN, {"side": "all"}),
    "token, released objective": (Method.TOKEN, RELEASED),
    "feature, low": (Method.FEATURE, {}),
    "feature, high": (Method.FEATURE, {"side": "high"}),
    "feature, random": (Method.FEATURE, {"side": "random"}),
    "feature, all": (Method.FEATURE, {"side": "all"}),
    "all visual activations": (Method.FEATURE, {"side": "all", "patched_layers": 4}),
    "graft": (Method.NONE, {}),
}
"""The policy, the methods with their sides, the bounds, and the base's tower in the policy."""

WITH_ROLLOUTS = ("policy", "state, low", "state, high", "token, low", "feature, low")
TRAINED_ON = ("visual-search-easy", "video-search")


def grafted(folder: Path, policy: str) -> ModelPair:
    """Load a policy with the vision tower of its base."""
    pair = load_pair(str(folder / policy), device="cpu")
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "base")
    with torch.no_grad():
        theirs = dict(base.model.visual.named_parameters())
        for name, weight in pair.policy.model.model.visual.named_parameters():
            weight.copy_(theirs[name])
    return pair


def agent(
    folder: Path, policy: str, system: str, config: ReplayConfig, temperature: float
) -> VisualAgent:
    """Make the agent of a system."""
    if system == "graft":
        pair = grafted(folder, policy)
    else:
        pair = load_pair(str(folder / policy), str(folder / "base"), replay=config, device="cpu")
    protocol = get_protocol(
        choose_recipe("embedded", "embedded", None), token_grid(pair.processor), ImageStore()
    )
    sampling = Sampling(temperature, max_new_tokens=128)
    return VisualAgent(pair, protocol, config, sampling=sampling)


def rights(
    player: VisualAgent, task: Task, samples: Sequence[Sample], seeds: Sequence[Sequence[int]]
) -> list[int]:
    """Play an episode for each seed of each sample, and count the right ones of each sample."""
    counts = []
    together = TOGETHER // len(seeds[0])
    for first in range(0, len(samples), together):
        one = player.with_store(ImageStore())
        drawn = [
            (
                sample,
                one.start(sample.question, images=sample.images, video=sample.video, seed=seed),
            )
            for sample, own in zip(samples[first:], seeds[first : first + together], strict=False)
            for seed in own
        ]
        ends = play_rollouts(one.loop, [start for _, start in drawn], one.policy)
        right = [
            task.is_right(sample, end["answer"])
            for (sample, _), end in zip(drawn, ends, strict=True)
        ]
        counts += np.reshape(right, (-1, len(seeds[0]))).sum(axis=1).tolist()
        one.close()
    return counts


def measure(unit: tuple[Path, str, str, str], first: int, count: int) -> dict[str, Any]:
    """Measure a system of a policy on a task."""
    prepare_process()
    folder, policy, system, task_name = unit
    method, changes = SYSTEMS[system]
    config = embedded_config(method, **changes)
    task, seeds = get_task(task_name), range(first, first + count)
    samples = [task.load(sample_id) for sample_id in ids_of(task_name, seeds)]
    player = agent(folder, policy, system, config, 0.0)
    greedy = rights(player, task, samples, [[0]] * count)
    right = []
    if system in WITH_ROLLOUTS and task_name == TASK:
        player = agent(folder, policy, system, config, 1.0)
        numbers = [range(ROLLOUTS * seed, ROLLOUTS * (seed + 1)) for seed in seeds]
        right = rights(player, task, samples, numbers)
    return {
        "pair": folder.name,
        "policy": policy,
        "system": system,
        "task": task_name,
        "first": first,
        "replay": json.loads(json.dumps(asdict(config))),
        "greedy": greedy,
        "right": right,
    }


def units(folders: list[Path]) -> list[tuple[Path, str, str, str]]:
    """List what is measured: the systems in turn, so that all policies come equally far."""
    policies = [(f, p.name) for f in folders for p in sorted(f.glob("policy-*")) if p.is_dir()]
    trained = [(*each, "policy", task) for task in TRAINED_ON for each in policies]
    return [*trained, *((*each, system, TASK) for system in SYSTEMS for each in policies)]


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=Path, nargs="+", required=True)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--tuning", action="store_true", help="on the tuning split, not kept")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    console = Console(highlight=False, width=160)
    out = Path("runs/tuning") if arguments.tuning else OUT
    out.mkdir(parents=True, exist_ok=True)
    first = Split.TUNING if arguments.tuning else Split.HELD_OUT
    wanted = [unit for unit in units(arguments.pairs) if unit[2] in arguments.systems]
    paths = {unit: out / _file_name(unit) for unit in wanted}
    missing = [unit for unit, path in paths.items() if not path.exists()]
    work = partial(measure, first=int(first), count=arguments.samples)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        running = {pool.submit(work, unit): unit for unit in missing}
        for number, done in enumerate(as_completed(running), 1):
            result = done.result()
            paths[running[done]].write_text(json.dumps(result) + "\n", "utf-8")
            share = sum(result["greedy"]) / len(result["greedy"])
            names = " ".join(str(result[key]) for key in ("pair", "policy", "task", "system"))
            console.print(f"[{number}/{len(missing)}] {names}: {share:.3f}", markup=False)


def _file_name(unit: tuple[Path, str, str, str]) -> str:
    folder, policy, system, task = unit
    words = f"{folder.name} {policy} {task} {system}".replace(",", "")
    return "-".join(words.split()) + ".json"


if __name__ == "__main__":
    main()
