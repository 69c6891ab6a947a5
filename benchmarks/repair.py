"""Measure what replay repairs on the narrow pair: `python benchmarks/repair.py --pairs DIR`.

Each DIR holds a base and the policies that RLVR made of it, each with a seed of its own, as
`recipes/train.py --pair narrow` writes them. Systems, sizes, hypotheses and tests were
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
from perception import perceived
from repair_tables import Results, contrasts, policies, shifts, systems
from rich.console import Console
from transformers import Qwen2_5_VLForConditionalGeneration

from visreplay.agent import Sampling, VisualAgent
from visreplay.agent.episode.embedded_agent import prepare_process
from visreplay.agent.episode.rollouts import play_rollouts
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.protocols import choose_recipe, get_protocol
from visreplay.replay_core import Method, ModelPair, ReplayConfig, embedded_config, load_pair
from visreplay.tasks.analysis.diagnosis import quarters
from visreplay.tasks.analysis.prompt import Prompt
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Sample, Split, Task, ids_of
from visreplay.tools import ImageStore

ROLLOUTS = 8
TOGETHER = 48
"""The number of episodes that are played as one batch."""
OUT = Path(__file__).parent / "results" / "narrow"
TASK = "visual-search-medium"
RELEASED = {"alignment": "reference", "optimizer": "sgd", "steps": 25, "plateau": 0.0}

SYSTEMS: dict[str, tuple[Method, dict[str, Any]]] = {
    "base": (Method.NONE, {}),
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
"""Base and policy, the methods with their sides, bounds, and the policy with its base's tower."""

QUARTERS = "divergence by quarter"
"""No system, but how far the policy is from the base."""

WITH_ROLLOUTS = ("policy", "state, low", "state, high", "token, low", "feature, low")
TRAINED_ON = ("visual-search-easy", "video-search")

Unit = tuple[Path, str, str, str]
"""A folder of pairs, a policy in it, a system and a task."""


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
    elif config.method is Method.NONE:
        pair = load_pair(str(folder / policy), device="cpu")
    else:
        pair = load_pair(str(folder / policy), str(folder / "base"), replay=config, device="cpu")
    protocol = get_protocol(
        choose_recipe("embedded", "embedded", None), token_grid(pair.processor), ImageStore()
    )
    sampling = Sampling(temperature, max_new_tokens=128)
    return VisualAgent(pair, protocol, config, sampling=sampling)


Measured = dict[str, list[int]]
"""What came out of every scene."""


def played(
    player: VisualAgent, task: Task, samples: Sequence[Sample], seeds: Sequence[Sequence[int]]
) -> Measured:
    """Play an episode for each seed of each sample, and count what is right in each sample.

    Right are answers; and, of scenes, first thoughts that list every marker at its place, and those
    that name the place in question.
    """
    counts: Measured = {"right": [], "listed": [], "placed": []}
    each = len(seeds[0])
    for first in range(0, len(samples), TOGETHER // each):
        some = slice(first, first + TOGETHER // each)
        drawn = [
            (sample, seed)
            for sample, own in zip(samples[some], seeds[some], strict=True)
            for seed in own
        ]
        one = player.with_store(ImageStore())
        starts = [
            one.start(sample.question, images=sample.images, video=sample.video, seed=seed)
            for sample, seed in drawn
        ]
        ends = play_rollouts(one.loop, starts, one.policy)
        one.close()
        verdicts = []
        for (sample, _), end in zip(drawn, ends, strict=True):
            seen = (False, False)
            if "markers" in sample.facts:
                seen = perceived(sample, end["steps"][0]["thought"])
            verdicts.append((task.is_right(sample, end["answer"]), *seen))
        sums = np.reshape(verdicts, (-1, each, len(counts))).sum(axis=1)
        for kept, column in zip(counts.values(), sums.T, strict=True):
            kept += column.tolist()
    return counts


def measure(unit: Unit, first: int, count: int) -> dict[str, Any]:
    """Measure a system of a policy on a task."""
    prepare_process()
    folder, policy, system, task_name = unit
    task, seeds = get_task(task_name), range(first, first + count)
    samples = [task.load(sample_id) for sample_id in ids_of(task_name, seeds)]
    named = {"pair": folder.name, "policy": policy, "system": system, "task": task_name}
    if system == QUARTERS:
        pair = load_pair(str(folder / policy), str(folder / "base"), device="cpu")
        prompts = (Prompt.of(sample, "embedded", pair) for sample in samples)
        return {**named, "first": first, "kl": [quarters(pair, each.segment) for each in prompts]}
    method, changes = SYSTEMS[system]
    config = embedded_config(method, **changes)
    sampled: Measured = {}
    greedy = played(agent(folder, policy, system, config, 0.0), task, samples, [[0]] * count)
    if system in WITH_ROLLOUTS and task_name == TASK:
        player = agent(folder, policy, system, config, 1.0)
        numbers = [range(ROLLOUTS * seed, ROLLOUTS * (seed + 1)) for seed in seeds]
        sampled = played(player, task, samples, numbers)
    return {
        **named,
        "first": first,
        "replay": json.loads(json.dumps(asdict(config))),
        "greedy": greedy,
        "sampled": sampled,
    }


def units(folders: Sequence[Path]) -> list[Unit]:
    """List what is measured: the systems in turn, so that all policies come equally far."""
    trained = [(f, p.name) for f in folders for p in sorted(f.glob("policy-*")) if p.is_dir()]
    bases = [(folder, "base", "base", TASK) for folder in folders]
    return [
        *bases,
        *((*each, "policy", task) for task in TRAINED_ON for each in trained),
        *((*each, system, TASK) for system in (*SYSTEMS, QUARTERS)[1:] for each in trained),
    ]


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=Path, nargs="+", required=True)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--tuning", action="store_true", help="on the tuning split, not kept")
    measured = (*SYSTEMS, QUARTERS)
    parser.add_argument("--systems", nargs="+", choices=measured, default=measured)
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
            console.print(f"[{number}/{len(missing)}]", *_words(running[done]), markup=False)
    results = [json.loads(path.read_text("utf-8")) for path in paths.values()]
    of_task = Results(results, TASK)
    for table in (
        policies(results, TRAINED_ON, TASK),
        systems(of_task, list(SYSTEMS), ROLLOUTS),
        contrasts(of_task, ROLLOUTS),
        shifts([result for result in results if result["system"] == QUARTERS]),
    ):
        table.show(console, markdown=True)


def _file_name(unit: Unit) -> str:
    return "-".join(" ".join(_words(unit)).replace(",", "").split()) + ".json"


def _words(unit: Unit) -> tuple[str, ...]:
    folder, policy, system, task = unit
    return folder.name, policy, task, system


if __name__ == "__main__":
    main()
