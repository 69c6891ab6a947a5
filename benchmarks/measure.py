"""The README's numbers on the embedded pair: `python benchmarks/measure.py`.

For base, policy, and policy with each replay method, on held-out samples of the generated tasks:
accuracy with greedy decoding (Wilson interval), and pass@1 and pass@8 at temperature 1 from 8
rollouts a sample (bootstrap interval over samples). And KL(base || policy) at the visual tokens
of the overview, by layer and quartile of base entropy. Writes `benchmarks/embedded_pair.json`.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from visreplay.agent.encoding import ContextEncoder
from visreplay.replay_core import EMBEDDED, load_pair
from visreplay.tasks.demo import ROWS, TABLE, embedded_agent, prepare_process
from visreplay.tasks.evaluate import evaluate, is_correct, pass_at_k, summarise
from visreplay.tasks.registry import task_named
from visreplay.tasks.types import Split
from visreplay.tools import ImageStore

ROLLOUTS = 8
OUT = Path(__file__).parent / "embedded_pair.json"


def measure(unit: tuple[str, str], samples: int, rollouts: int) -> dict[str, Any]:
    """All numbers of one system on one task."""
    row, task_name = unit
    prepare_process()
    task = task_named(task_name)
    seeds = range(Split.HELD_OUT, Split.HELD_OUT + samples)
    greedy = embedded_agent(row)
    records = evaluate(greedy, task, seeds)
    greedy.close()
    sampled = embedded_agent(row, temperature=1.0)
    right = []
    for seed in seeds[:rollouts]:
        sample = task.sample(seed)
        answers = [
            sampled.run(
                sample.question, images=sample.images, video=sample.video, seed=number
            ).answer
            # Of its own for every sample: a shared seed draws the same habit for all of them.
            for number in range(ROLLOUTS * seed, ROLLOUTS * (seed + 1))
        ]
        right.append(sum(is_correct(answer, sample.answer) for answer in answers))
    sampled.close()
    summary = summarise(records)
    replays = [
        step["replay"] for record in records for step in record.trajectory.steps if step["replay"]
    ]
    return {
        "system": row,
        "task": task_name,
        "greedy": {
            "accuracy": summary.accuracy,
            "interval": [summary.low, summary.high],
            "n": summary.n,
        },
        "pass@1": _passes(right, 1),
        "pass@8": _passes(right, ROLLOUTS),
        "kl_before": fmean(r["kl_before"] for r in replays) if replays else None,
        "kl_after": fmean(r["kl_after"] for r in replays) if replays else None,
        "seconds": summary.seconds,
    }


def _passes(right: list[int], k: int) -> dict[str, Any]:
    values = np.array([pass_at_k(ROLLOUTS, count, k) for count in right])
    low, high = bootstrap_interval(values)
    return {"value": float(values.mean()), "interval": [low, high], "n": len(values)}


def bootstrap_interval(values: np.ndarray, draws: int = 10_000) -> tuple[float, float]:
    """95 % percentile interval of a mean over samples."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(draws, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@torch.no_grad()
def divergence_by_entropy(samples: int = 60) -> list[list[float]]:
    """Mean full-vocabulary KL(base || policy) in nats, per layer, by quartile of base entropy."""
    store = ImageStore()
    pair = load_pair(str(EMBEDDED / "policy"), str(EMBEDDED / "base"), device="cpu")
    assert pair.base is not None
    encoder = ContextEncoder(pair.processor, store)
    task = task_named("visual-search-medium")
    entropies: list[list[torch.Tensor]] = [[] for _ in range(pair.policy.depth)]
    divergences: list[list[torch.Tensor]] = [[] for _ in range(pair.policy.depth)]
    for seed in range(Split.HELD_OUT, Split.HELD_OUT + samples):
        sample = task.sample(seed)
        segment = encoder.encode(
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": store.put(sample.images[0])},
                        {"type": "text", "text": sample.question},
                    ],
                }
            ]
        )
        (block,) = segment.blocks
        positions, _ = pair.policy.model.model.get_rope_index(
            segment.token_ids[None],
            mm_token_type_ids=(segment.token_ids == encoder.tokens.image_token_id)[None].int(),
            image_grid_thw=block.inputs["image_grid_thw"],
        )
        read = []
        for adapter, feature in zip((pair.policy, pair.base), pair.features(block), strict=True):
            embeds = adapter.embed(segment.token_ids)
            embeds[block.start : block.stop] = feature.embeds_TD
            out = adapter.language_model(
                inputs_embeds=embeds[None], position_ids=positions, output_hidden_states=True
            )
            *early, last = out.hidden_states[1:]
            hidden = [*(adapter.norm(h) for h in early), last]  # the last is normed already
            logits = [adapter.head(h[0, block.start : block.stop]) for h in hidden]
            read.append([layer.log_softmax(-1) for layer in logits])
        for layer, (policy, base) in enumerate(zip(*read, strict=True)):
            entropies[layer].append(-(base.exp() * base).sum(-1))
            divergences[layer].append((base.exp() * (base - policy)).sum(-1))
    table = []
    for entropy, divergence in zip(entropies, divergences, strict=True):
        order = torch.cat(entropy).argsort()
        table.append([float(part.mean()) for part in torch.cat(divergence)[order].chunk(4)])
    return table


def show(console: Console, results: list[dict[str, Any]], buckets: list[list[float]]) -> None:
    """Print both tables."""
    table = Table(title="embedded pair, held-out samples (95 % intervals)")
    for heading in ("task", "system", "greedy", "pass@1", "pass@8", "KL before -> after"):
        table.add_column(heading)
    for r in results:
        cells = []
        for key, value in (("greedy", "accuracy"), ("pass@1", "value"), ("pass@8", "value")):
            low, high = r[key]["interval"]
            cells.append(f"{r[key][value]:.3f} ({low:.3f} to {high:.3f}), n={r[key]['n']}")
        moved = "-" if r["kl_before"] is None else f"{r['kl_before']:.5f} -> {r['kl_after']:.5f}"
        table.add_row(r["task"], r["system"], *cells, moved)
    console.print(table)
    layers = Table(title="KL(base || policy) in nats at visual tokens, by base entropy quartile")
    for heading in ("layer", "lowest", "second", "third", "highest"):
        layers.add_column(heading)
    for layer, row in enumerate(buckets):
        layers.add_row(str(layer), *(f"{value:.5f}" for value in row))
    console.print(layers)


def main() -> None:
    """Measure everything on `--jobs` processes and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=300, help="greedy episodes a cell")
    parser.add_argument("--rollouts", type=int, default=100, help="samples with 8 rollouts a cell")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    prepare_process()
    console = Console(highlight=False, width=150)
    units = [(row, task) for task, row in product(TABLE, ROWS)]
    sizes = ([arguments.samples] * len(units), [arguments.rollouts] * len(units))
    results = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for number, result in enumerate(pool.map(measure, units, *sizes), 1):
            results.append(result)
            console.print(
                f"[{number}/{len(units)}] {result['task']} {result['system']}", markup=False
            )
    buckets = divergence_by_entropy()
    OUT.write_text(
        json.dumps({"results": results, "kl_by_entropy_quartile": buckets}, indent=1), "utf-8"
    )
    show(console, results, buckets)


if __name__ == "__main__":
    main()
