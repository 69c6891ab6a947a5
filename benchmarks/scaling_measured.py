"""Measurements beside the arithmetic of `scaling.py`: ratios on a CPU, stages on a GPU, files.

Random models of three sizes, in float32 on one thread. Ratios are of CPU time, and both sides of a
ratio are measured in turn, so that other programs on the machine disturb them little.
"""

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cluster import H200, Deployment, Shares
from episode_costs import Costs, Piece, Terms, add_up, layer_weights, total
from gpu import THREE_B
from PIL import Image
from published import MAX_PIXELS, MERGED, SEVEN
from safetensors import safe_open
from safetensors.torch import save_file
from sizes import Models, Sizes
from transformers import Qwen2VLImageProcessor

from visreplay.replay_core import Method, ReplaySession, Segment

HERE = Path(__file__).parent
OUT, GPU = HERE / "scaling.json", HERE / "gpu.json"

REPEATS = 5
STEPS = 2
"""Steps of token replay here."""

SIDE = 8
"""Side of the second turn's picture in visual tokens, and half of the tokens generated before."""

SMALL = replace(
    SEVEN,
    hidden=256,
    inner=1408,
    heads=4,
    kv_heads=1,
    layers=8,
    vocabulary=12_000,
    vision_layers=8,
    vision_hidden=256,
    vision_inner=684,
    side=16,
    replay_layers=5,
    state_layers=2,
)
MIDDLE = replace(
    SMALL,
    hidden=384,
    inner=2048,
    heads=6,
    kv_heads=2,
    layers=12,
    vocabulary=18_000,
    replay_layers=7,
    state_layers=3,
)
LARGE = replace(
    MIDDLE,
    hidden=640,
    inner=3456,
    heads=10,
    layers=16,
    vocabulary=28_000,
    replay_layers=9,
    state_layers=4,
)
THREE = (SMALL, MIDDLE, LARGE)
"""Sizes with the proportions of 7B: there, a position's product with the head costs 2.3 layers."""

ON_CPU = Terms(shares_tower=True, recompute=False, skips=False)

TEXTS = (16, 256)
"""Tokens of two texts, which tell the time of reading the weights from that of the products."""

RATIOS = {
    "state replay / plain, first turn": ("state", "none"),
    "token replay / plain, first turn": ("token", "none"),
    "feature replay / plain, first turn": ("feature", "none"),
    "plain, second turn / first": ("none, second", "none"),
    "state replay, second turn / first": ("state, second", "state"),
}
"""The ratios: which work above which."""


def turn(side: int, before: int) -> list[Piece]:
    """Make the pieces of `Models.segment`: 16 tokens, a picture, 16 tokens."""
    return [
        Piece("text", 16, before, before > 0),
        Piece("picture", side * side, before + 16, before > 0),
        Piece("text", 16, before + 16 + side * side, True),
    ]


def predicted(sizes: Sizes, reading: float = 0.0) -> dict[str, float]:
    """Compute the FLOPs of the turns that are measured.

    Args:
        sizes: The sizes of both models.
        reading: Tokens whose products take as long as reading the weights, which each run over
            each piece does once.
    """
    first = turn(sizes.side, 0)
    length = sum(piece.tokens for piece in first)
    second = [Piece("generated", 2 * SIDE, length, True), *turn(SIDE, length + 2 * SIDE)]
    found = {}
    for method in Method:
        costs = Costs(sizes, method, ON_CPU, STEPS)
        depths = {"policy": sizes.layers, "base": costs.depth, "plain": costs.depth}
        for name, pieces in ((f"{method}", first), (f"{method}, second", second)):
            each = list(map(costs.append, pieces))
            layers = sum(depths.get(part, 0) for parts in each for part in parts)
            layers += 2 * STEPS * costs.depth * sum("steps" in parts for parts in each)
            read = 2.0 * reading * layers * layer_weights(sizes)
            found[name] = total(add_up(each)).flops + read
    return found


def measured(sizes: Sizes, repeats: int = REPEATS) -> dict[str, list[float]]:
    """Measure the CPU seconds of the same turns, in turn, after one round that warms up.

    Returns:
        Seconds of each round, by the work; texts behind a plain turn too.
    """
    models = Models(sizes, torch.float32)
    first, second = models.segment(0), models.segment(1, SIDE)
    seconds: dict[str, list[float]] = {}
    for number in range(repeats + 1):
        spent: dict[str, float] = {}
        for method in Method:
            config = models.config(method, steps=STEPS, plateau=0.0, recompute_activations=False)
            with ReplaySession(models.pair, config) as session:
                spent[f"{method}"] = cpu_seconds(partial(session.append, first))
                if method is Method.NONE:
                    for tokens in TEXTS:
                        text = Segment(torch.arange(tokens), ())
                        spent[f"text, {tokens}"] = cpu_seconds(partial(session.fork().append, text))
                if method in (Method.NONE, Method.STATE):
                    session.extend_generated([5] * (2 * SIDE))
                    spent[f"{method}, second"] = cpu_seconds(partial(session.append, second))
        if number:
            for name, value in spent.items():
                seconds.setdefault(name, []).append(value)
    return seconds


def reading_of(seconds: Mapping[str, Sequence[float]]) -> float:
    """Compute the tokens whose products take as long as reading the weights once."""
    few, many = (statistics.median(seconds[f"text, {tokens}"]) for tokens in TEXTS)
    each = (many - few) / (TEXTS[1] - TEXTS[0])
    return few / each - TEXTS[0]


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Measure the CPU seconds of a function call, in all threads of the process."""
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def ratios(seconds: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Divide what was measured in the same round."""
    return {
        name: [upper / lower for upper, lower in zip(seconds[above], seconds[below], strict=True)]
        for name, (above, below) in RATIOS.items()
    }


def host() -> dict[str, float]:
    """Measure what a picture of 8K and files of keys and values cost the machine's processor.

    Returns:
        CPU seconds: of a picture from JPEG to patches, and of a gigabyte written and read.
    """
    processor = Qwen2VLImageProcessor(min_pixels=4 * MERGED**2, max_pixels=MAX_PIXELS)
    noise_HWC = torch.randint(0, 256, (270, 480, 3), dtype=torch.uint8).numpy()
    picture = Image.fromarray(noise_HWC).resize((7680, 4320), Image.Resampling.BICUBIC)
    # 448 MiB: 8,192 tokens of 7B.
    tensors = {name: torch.zeros(28, 8192, 4, 128, dtype=torch.bfloat16) for name in "kv"}
    gigabytes = sum(tensor.nbytes for tensor in tensors.values()) / 1e9
    with tempfile.TemporaryDirectory() as folder:
        jpeg, file = Path(folder) / "picture.jpg", Path(folder) / "kv.safetensors"
        picture.save(jpeg, quality=90)

        def read_picture() -> None:
            with Image.open(jpeg) as image:
                processor(images=[image.convert("RGB")], return_tensors="pt")

        def read() -> None:
            with safe_open(file, "pt") as content:
                for name in "kv":
                    content.get_slice(name)[:, 1:].contiguous()

        def median(work: Callable[[], Any]) -> float:
            return statistics.median(cpu_seconds(work) for _ in range(3))

        return {
            "a picture": median(read_picture),
            "a gigabyte written": median(lambda: save_file(tensors, file)) / gigabytes,
            "a gigabyte read": median(read) / gigabytes,
        }


def measure() -> None:
    """Measure everything, and write `scaling.json`."""
    with one_thread():
        seconds = [measured(sizes) for sizes in THREE]
        found = {
            "host": host(),
            "reading": list(map(reading_of, seconds)),
            "ratios": list(map(ratios, seconds)),
        }
    OUT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def on_a_gpu(shares: Shares) -> Iterator[tuple[str, float, float]]:
    """Compare what `gpu.py` timed on an H200 with the arithmetic.

    Args:
        shares: How much of the card is reached.

    Yields:
        What it is, seconds by arithmetic, and seconds measured.
    """
    stages = {part["what"]: part for part in json.loads(GPU.read_text("utf-8"))}
    stage = stages["random pair, seconds"]
    deployment = Deployment(THREE_B, Method.TOKEN, shares=shares, card=H200)
    # There every position is in every set.
    costs = Costs(THREE_B, Method.TOKEN, Terms(share=1.0, shares_tower=True, recompute=False))
    piece = Piece("picture", stage["visual tokens"], 16, False)
    lens = costs.lens(piece.tokens, targets=True)
    works = {
        "vision": (costs.tower(piece.tokens),),
        "base and lens": (costs.layers(costs.depth, piece), lens * costs.depth),
        "a step": (costs.step(piece),),
        "prefill": (costs.layers(THREE_B.layers, piece),),
    }
    for name, parts in works.items():
        yield f"{name}, the picture", sum(map(deployment.seconds, parts)), stage[name]
    for method in (Method.NONE, Method.STATE, Method.TOKEN):
        costs = Costs(THREE_B, method, Terms(shares_tower=True, recompute=False))
        pieces = map(costs.append, turn(THREE_B.side, 0))
        seconds = sum(deployment.seconds(work) for parts in pieces for work in parts.values())
        found = stages[f"random pair, method {method}, seconds"]["append"]
        yield f"a turn, method {method}", seconds, found
