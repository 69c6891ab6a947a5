"""Check and time both methods on a GPU: `python benchmarks/gpu.py [--out FILE]`, some minutes.

On the embedded pair and on a pair with the shape of Qwen2.5-VL-3B and random weights, which is made
on the device: no files are needed. Prints, as lines of Markdown,

- whether the positions that both methods choose, and the texts of whole episodes, are those on the
  CPU;
- which attention ran, and how far its results and those of a dense mask are from float32's;
- seconds by stage: vision tower, the base with the lens, one step, prefill, decoding;
- the peak of memory beside the arithmetic of `memory_counted.py`, with and without recomputation.

`--small` runs all of it on the CPU with tiny sizes, as a test does.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gpu_alike
import torch
from memory import resident, sampled_peak
from memory_counted import GIB, estimate
from sizes import Models, Sizes
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from visreplay.replay_core import (
    Method,
    ModelPair,
    ReplayConfig,
    ReplaySession,
    Segment,
    embedded_config,
    load_pair,
)
from visreplay.replay_core.cache import KVCache
from visreplay.replay_core.families import adapter as adapter_module
from visreplay.replay_core.families.adapter import Features
from visreplay.replay_core.families.attention import MASKS
from visreplay.replay_core.model_run import ModelRun, without_autograd
from visreplay.replay_core.objectives import Divergence
from visreplay.replay_core.replay import token_replay
from visreplay.replay_core.visitors import LensReader

Report = dict[str, Any]


class TiedSizes(Sizes):
    """Sizes of a model whose LM head is its embedding."""

    def config(self) -> Any:
        """Make the transformers configuration."""
        config = super().config()
        config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
        return config


THREE_B = TiedSizes(2048, 11_008, 16, 2, 36, 151_936, vision_layers=32, side=32)
TINY = TiedSizes(128, 256, 4, 2, 3, 600, vision_layers=1, side=4, replay_layers=2, state_layers=2)


@dataclass(frozen=True)
class Scale:
    """How much to run, and where.

    Attributes:
        device: The device.
        dtype: Data type of the random pair.
        sizes: Sizes of the random pair.
        sides: Images of so many visual tokens a side, whose peak of memory is measured.
        scenes: Pictures of the embedded pair, and episodes about them.
        tokens: Number of tokens to decode.
        repeats: Runs of every stage, of which the median counts.
    """

    device: str
    dtype: torch.dtype
    sizes: Sizes
    sides: tuple[int, ...]
    scenes: int
    tokens: int
    repeats: int


FULL = Scale("cuda", torch.bfloat16, THREE_B, (32, 64, 96, 128), 20, 64, 3)
SMALL = Scale("cpu", torch.float32, TINY, (4, 8), 1, 3, 1)


def main() -> None:
    """Print the report, and write it as JSON if a file is named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument("--out", type=Path, help="file for the report, as JSON")
    arguments = parser.parse_args()
    lines = []
    for part in parts(SMALL if arguments.small else FULL):
        print(line(part), flush=True)
        lines.append(part)
    if arguments.out:
        arguments.out.write_text(json.dumps(lines, indent=1), "utf-8")


def line(part: Report) -> str:
    """Write a part of the report as one line."""
    rest = (f"{name} {_short(value)}" for name, value in part.items() if name != "what")
    return f"- **{part['what']}**: " + ", ".join(rest)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def parts(scale: Scale) -> Iterator[Report]:
    """Make the report, part by part."""
    cuda = scale.device == "cuda"
    name = torch.cuda.get_device_name() if cuda else "CPU"
    yield {"what": "device", "name": name, "torch": torch.__version__}
    embedded = load_pair("embedded", device=scale.device)
    on_cpu = load_pair("embedded", device="cpu")
    yield from gpu_alike.positions(embedded, on_cpu, scale.scenes)
    yield from gpu_alike.episodes(embedded, on_cpu, scale.scenes)
    first = gpu_alike.segment(embedded, 0)
    yield from stages("embedded pair", embedded, first, embedded_config, scale)
    del embedded
    models = random_models(scale)
    pair, config = models.pair, models.config
    # Everything but the layers that the pair took over may go.
    for name in ("base", "policy"):
        del models.__dict__[name]
    yield attention(pair, scale)
    yield from stages("random pair", pair, models.segment(0), config, scale)
    for side in scale.sides:
        for recompute in (True, False):
            yield memory(pair, models.segment(0, side), config, recompute, scale)


def random_models(scale: Scale) -> Models:
    """Make the random pair on the device."""
    models = Models(scale.sizes, scale.dtype)
    with torch.device(scale.device):
        models.pair  # noqa: B018 -- it is made at the first use
    return models


def attention(pair: ModelPair, scale: Scale) -> Report:
    """Find out which attention runs over an image, and how far its results are from float32's.

    A dense mask in the place of the causal one has rounding errors too: they are the measure.
    """
    adapter, tokens = pair.policy, scale.sizes.side**2

    def there_and_back(dtype: torch.dtype = scale.dtype) -> tuple[Tensor, Tensor]:
        adapter.language_model.layers.to(dtype)
        context = KVCache(adapter.depth)
        with torch.no_grad():
            text = Features(adapter.embed(torch.arange(16)).embeds_TD.to(dtype))
            adapter.run(text, adapter.text_positions(16, 0), context)
        embeds_TD = adapter.embed(torch.arange(tokens) % 500).embeds_TD
        leaf_TD = embeds_TD.detach().to(dtype).requires_grad_()
        positions_3T = adapter.text_positions(tokens, 16)
        hidden_TD = adapter.run(Features(leaf_TD), positions_3T, context.frozen(adapter.depth))
        (gradient_TD,) = torch.autograd.grad(hidden_TD.float().square().mean(), leaf_TD)
        return hidden_TD.detach().float(), gradient_TD.float()

    activities = [ProfilerActivity.CPU]
    if scale.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        found = there_and_back()
    kernels = {event.key: event.count for event in profiler.key_averages() if _attends(event.key)}
    with patch.object(adapter_module, "attention_mask", _dense):
        dense = there_and_back()
    exact = there_and_back(torch.float32)
    adapter.language_model.layers.to(scale.dtype)

    def error(results: tuple[Tensor, Tensor]) -> str:
        pairs = zip(results, exact, strict=True)
        outputs, gradients = (float((ours - right).norm() / right.norm()) for ours, right in pairs)
        return f"outputs {outputs:.4f}, gradients {gradients:.4f}"

    return {
        "what": "attention",
        "layers": adapter.depth,
        "flash": any("flash" in name for name in kernels),
        "kernels": kernels,
        "relative difference from float32": error(found),
        "the same with a dense mask": error(dense),
    }


def _attends(name: str) -> bool:
    return any(word in name for word in ("dot_product", "flash", "fmha", "efficient_attention"))


def _dense(kind: str, config: Any, hidden_BTD: Tensor, cache: Any, seen_BS: Tensor | None) -> Any:
    return MASKS[kind](config=config, inputs_embeds=hidden_BTD, attention_mask=seen_BS, cache=cache)


@without_autograd()
def stages(
    name: str,
    pair: ModelPair,
    segment: Segment,
    config_of: Callable[..., ReplayConfig],
    scale: Scale,
) -> list[Report]:
    """Time what both methods do with one image, stage by stage."""
    config, base = config_of(Method.TOKEN), pair.base
    assert base is not None
    (text_T, _), (_, block), *_ = segment.pieces()
    assert block is not None
    runs = [
        ModelRun(pair.policy, pair.policy.depth, config),
        ModelRun(base, config.depth, config),
    ]
    for run in runs:
        run.advance(run.adapter.embed(text_T), run.adapter.text_positions(len(text_T), 0))
    policy_run, base_run = runs
    positions_3T = pair.policy.block_positions(block, len(text_T))
    ours, theirs = pair.features(block)

    def read() -> LensReader:
        reader = LensReader(base_run.lens, config.depth, top_k=config.top_k)
        base_run.prefix(len(text_T)).advance(theirs, positions_3T, reader)
        return reader

    reader = read()
    everything_LT = torch.ones_like(reader.entropy_LT, dtype=torch.bool).cpu()
    divergence = Divergence(policy_run.lens, reader.targets(everything_LT), everything_LT)

    def optimise(steps: int) -> None:
        settings = replace(config, steps=steps)
        context = policy_run.cache
        token_replay(pair.policy, divergence.fresh(), ours, positions_3T, context, settings)

    def seconds(work: Callable[[], object]) -> float:
        return timed(work, scale)

    one, three = (seconds(lambda steps=steps: optimise(steps)) for steps in (1, 3))  # type: ignore[misc]
    stage = {
        "what": f"{name}, seconds",
        "visual tokens": block.length,
        "vision": seconds(lambda: pair.features(block)),
        "base and lens": seconds(read),
        "a step": (three - one) / 2,
        "prefill": seconds(lambda: policy_run.prefix(len(text_T)).advance(ours, positions_3T)),
    }
    methods = (Method.NONE, Method.TOKEN, Method.STATE)
    return [stage, *(whole(name, pair, segment, config_of(method), scale) for method in methods)]


def whole(
    name: str, pair: ModelPair, segment: Segment, config: ReplayConfig, scale: Scale
) -> Report:
    """Time a session: to append an image between texts, and to decode."""

    def decode(session: ReplaySession) -> None:
        for _ in range(scale.tokens):
            session.extend_generated([int(session.next_logits.argmax())])

    with ReplaySession(pair, config) as session:
        append = timed(lambda: session.fork().append(segment), scale)
        session.append(segment)
        seconds = timed(lambda: decode(session.fork()), scale)
    return {
        "what": f"{name}, method {config.method}, seconds",
        "append": append,
        "tokens a second": scale.tokens / seconds,
    }


def timed(work: Callable[[], object], scale: Scale) -> float:
    """Return the median seconds of some runs, after one that warms up."""
    seconds = []
    for _ in range(scale.repeats + 1):
        start = time.perf_counter()
        work()
        if scale.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def memory(
    pair: ModelPair,
    segment: Segment,
    config_of: Callable[..., ReplayConfig],
    recompute: bool,
    scale: Scale,
) -> Report:
    """Measure the peak of memory of token replay on one image, beside the arithmetic."""
    config = config_of(Method.TOKEN, steps=2, tau=1.0, recompute_activations=recompute)
    tokens = segment.blocks[0].length
    expected = estimate(tokens, sizes=scale.sizes, config=config, recompute=recompute, shared=True)
    with ReplaySession(pair, config) as session:
        above = peak_above(lambda: session.append(segment), scale)
        steps = len(session.blocks[0].kl_path)
    return {
        "what": f"peak of memory, {tokens:,} visual tokens, recomputation {recompute}",
        "GiB above the weights": above / GIB,
        "by arithmetic": (expected.total - expected.weights) / GIB,
        "steps": steps,
    }


def peak_above(work: Callable[[], object], scale: Scale) -> float:
    """Run something, and return the bytes that it takes at its peak above what there was."""
    if scale.device != "cuda":
        before = resident()
        with sampled_peak() as peak:
            work()
        return (peak[0] - before) * 1e9
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    already = torch.cuda.memory_allocated()
    work()
    return torch.cuda.max_memory_allocated() - already


if __name__ == "__main__":
    main()
