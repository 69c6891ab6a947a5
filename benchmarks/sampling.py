"""Measure the draw of the next tokens of a batch, against the processors of transformers.

The vocabulary is Qwen2.5-VL's. The logits fall with the logarithm of a token's rank, so that
probabilities follow a power of it, as those of language models do: steeply, or so flatly that
top-p keeps half of the vocabulary. On a CPU the time of the process counts.
"""

import argparse
import time
from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Console
from rows import Row, table, write
from torch import Tensor
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from visreplay.replay_core.sampling import Sampler, draw

VOCABULARY = 152_064
ROWS = 32
CONTEXT = 2000

STEEP, FLAT = 1.5, 1.0
"""Powers of a token's rank: top-p 0.95 keeps some hundred tokens, or tens of thousands."""

SETTINGS: dict[str, tuple[float, dict[str, Any]]] = {
    "temperature 1": (STEEP, {"temperature": 1.0}),
    "top-p 0.95": (STEEP, {"temperature": 1.0, "top_p": 0.95}),
    "top-k 20, top-p 0.8": (STEEP, {"temperature": 0.7, "top_k": 20, "top_p": 0.8}),
    "top-p 0.95 of a flat distribution": (FLAT, {"temperature": 1.0, "top_p": 0.95}),
    "greedy, repetition penalty 1.05": (STEEP, {"repetition_penalty": 1.05}),
}


def logits(power: float, device: str) -> Tensor:
    """Make logits `(ROWS, VOCABULARY)` of tokens in a random order."""
    torch.manual_seed(0)
    ranks = torch.stack([torch.randperm(VOCABULARY) for _ in range(ROWS)]) + 1
    return (-power * ranks.float().log()).to(device)


def theirs(settings: dict[str, Any], ids: Tensor, scores: Tensor) -> list[int]:
    """Draw the tokens as `generate` of transformers does."""
    processors = LogitsProcessorList()
    if "repetition_penalty" in settings:
        processors.append(RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]))
    if "temperature" in settings:
        processors.append(TemperatureLogitsWarper(settings["temperature"]))
    if "top_k" in settings:
        processors.append(TopKLogitsWarper(settings["top_k"]))
    if "top_p" in settings:
        processors.append(TopPLogitsWarper(settings["top_p"]))
    scores = processors(ids, scores.clone())
    if "temperature" not in settings:
        drawn = scores.argmax(-1)
    else:
        drawn = torch.multinomial(scores.softmax(-1), 1)[:, 0]
    tokens: list[int] = drawn.tolist()
    return tokens


def draws(repeats: int, device: str) -> Iterator[Row]:
    """Measure one step of a batch with each of the settings, in milliseconds for a row."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    torch.manual_seed(0)
    ids = torch.randint(VOCABULARY, (ROWS, CONTEXT), device=device)
    for name, (power, settings) in SETTINGS.items():
        scores = logits(power, device)
        samplers = [
            Sampler(**settings, seed=row, context_ids=ids[row].tolist()) for row in range(ROWS)
        ]
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(repeats + 1):
            start = clock()
            theirs(settings, ids, scores)
            middle = clock()
            draw(scores, samplers)
            seconds[0].append(middle - start)
            seconds[1].append(clock() - middle)
        above, below = ([1000 * each / ROWS for each in side[1:]] for side in seconds)
        yield Row.of(f"a token of {ROWS} rows, {name}", above, below, None, unit="ms a row")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--write", action="store_true", help="write the rows into latest.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = list(draws(arguments.repeats, arguments.device))
    Console().print(table(rows))
    if arguments.write:
        write(rows)
