"""Speed and memory against the reference's algorithm: `make bench`.

Runs replay_core and `reference.py` in one process, alternating, on random weights of real sizes,
prints a table and writes `benchmarks/latest.json`. A ratio is reference / ours unless its row says
otherwise: the quotient of the medians, with its spread from the smallest to the largest quotient
that the repeats allow.

What is extrapolated: the reference's steps cost the same each, so one is timed and counted 25
times. Its divergence after them comes from replay_core's plain descent, which takes the same steps
(`tests/benchmarks/test_reference.py`). Decoding is the same on both sides and left out.
"""

import argparse
import copy
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch
from reference import Reference
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from visreplay.replay_core import (
    Method,
    ModelPair,
    ReplayConfig,
    ReplaySession,
    Segment,
    VisualBlock,
    adapter_for,
)
from visreplay.replay_core.context import Context

OUT = Path(__file__).parent / "latest.json"
TURNS = 5
REFERENCE_STEPS = 25
RATES = (0.003, 0.01, 0.03)
"""Of Adam, our best optimiser so far. The rate and the number of steps that reach the reference's
divergence soonest are found on the first image, before anything is timed (`Bench.fast`)."""


@dataclass(frozen=True)
class Sizes:
    """What is built and run.

    Attributes:
        hidden: Width of the language model; `heads`, `kv_heads`, `inner` belong to it.
        vision_layers: Depth of the vision tower, of Qwen2.5-VL's width.
        side: An image is `side * side` visual tokens.
        head_scale: Random weights of the usual size give flat predictions, on which replay finds
            nothing to do; the LM head is this many times larger.
        noise: The policy's decoder weights differ from the base's by this share of their spread.
    """

    hidden: int = 896
    inner: int = 4864
    heads: int = 14
    kv_heads: int = 2
    layers: int = 24
    vocabulary: int = 152_064
    vision_layers: int = 6
    side: int = 20
    replay_layers: int = 16
    state_layers: int = 7
    head_scale: float = 4.0
    noise: float = 0.1

    def scaled(self, scale: float) -> "Sizes":
        """Fewer layers, words and visual tokens, for a quick trial."""
        return replace(
            self,
            layers=max(2, round(self.layers * scale)),
            replay_layers=max(1, round(self.replay_layers * scale)),
            state_layers=max(1, round(self.state_layers * scale)),
            vocabulary=round(self.vocabulary * scale),
            side=max(2, round(self.side * scale**0.5)),
        )

    @property
    def image_token_id(self) -> int:
        """The last entry of the vocabulary."""
        return self.vocabulary - 1

    def config(self) -> Any:
        """The real class's configuration of these sizes."""
        head = self.hidden // self.heads
        third = head // 8 * 3 // 2
        sections = [head // 2 - 2 * third, third, third]
        text = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 128_000,
            "bos_token_id": None,
            "eos_token_id": None,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": sections,
            },
        }
        vision = {
            "depth": self.vision_layers,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": self.hidden,
            "fullatt_block_indexes": list(range(2, self.vision_layers, 3)),
        }
        return Qwen2_5_VLConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=self.image_token_id,
            video_token_id=self.vocabulary - 2,
            vision_start_token_id=self.vocabulary - 3,
            tie_word_embeddings=False,
        )


SEVEN_B = Sizes(
    hidden=3584, inner=18_944, heads=28, kv_heads=4, layers=28, vision_layers=32, side=32
)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: What was measured.
        ratio: Reference / ours, unless the name says otherwise.
        low: Smallest ratio that the repeats allow.
        high: Largest.
        target: What is aimed at; None for a row that is only for information.
        at_most: Whether the target is an upper bound.
        note: Absolute values.
    """

    name: str
    ratio: float
    low: float
    high: float
    target: float | None
    at_most: bool = False
    note: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        above: Sequence[float],
        below: Sequence[float],
        target: float | None,
        unit: str = "s",
        at_most: bool = False,
    ) -> "Row":
        """The row of two series of measurements."""
        upper, lower = statistics.median(above), statistics.median(below)
        return cls(
            name,
            upper / lower,
            min(above) / max(below),
            max(above) / min(below),
            target,
            at_most,
            f"{upper:.3g} {unit} / {lower:.3g} {unit}",
        )

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached, if there is one."""
        if self.target is None:
            return None
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target

    def as_json(self) -> dict[str, Any]:
        """The line of `latest.json`."""
        numbers = {key: round(getattr(self, key), 4) for key in ("ratio", "low", "high")}
        return {"name": self.name, **numbers, "target": self.target}


def timed(work: Callable[[], Any]) -> float:
    """Seconds that something takes."""
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Bench:
    """The models, and what is measured on them.

    The reference has two complete models; the pair shares their memory, and what it drops of the
    base it drops from a copy of the module tree.
    """

    def __init__(self, sizes: Sizes, dtype: torch.dtype, repeats: int, console: Console) -> None:
        """Build nothing yet."""
        self.sizes, self.dtype, self.repeats, self.console = sizes, dtype, repeats, console

    @cached_property
    def base(self) -> Any:
        """The complete base."""
        self.say("building the models")
        torch.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration._from_config(
            self.sizes.config(), dtype=self.dtype
        )
        with torch.no_grad():
            model.lm_head.weight *= self.sizes.head_scale
        return model.eval().requires_grad_(False)

    @cached_property
    def policy(self) -> Any:
        """The base with noise on the decoder's weights; all else is the same memory."""
        layers = self.base.model.language_model.layers
        changed = {id(weight) for weight in layers.parameters()}
        policy = _twin(self.base, lambda weight: id(weight) not in changed)
        torch.manual_seed(1)
        with torch.no_grad():
            for weight in policy.model.language_model.layers.parameters():
                weight += self.sizes.noise * weight.std() * torch.randn_like(weight)
        return policy

    @cached_property
    def pair(self) -> ModelPair:
        """Ours."""
        depth = max(self.sizes.replay_layers, self.sizes.state_layers)
        return ModelPair.of(self.policy, _twin(self.base, lambda weight: True), None, depth)

    def config(self, method: Method = Method.TOKEN, **changes: Any) -> ReplayConfig:
        """The paper's settings, but with a threshold that random weights have positions below."""
        return ReplayConfig(
            **{
                "method": method,
                "replay_layers": self.sizes.replay_layers,
                "state_layers": self.sizes.state_layers,
                "threshold": "quantile",
                **changes,
            }
        )

    def segment(self, seed: int, side: int | None = None) -> Segment:
        """One turn: 16 tokens, one image, 16 tokens."""
        side = side or self.sizes.side
        generator = torch.Generator().manual_seed(seed)
        text_T = torch.randint(0, self.sizes.vocabulary - 8, (32,), generator=generator)
        image_T = torch.full((side * side,), self.sizes.image_token_id)
        pixels = torch.randn(4 * side * side, 3 * 2 * 14 * 14, generator=generator)
        block = VisualBlock(
            start=16,
            length=side * side,
            kind="image",
            inputs={
                "pixel_values": pixels.to(self.dtype),
                "image_grid_thw": torch.tensor([[1, 2 * side, 2 * side]]),
            },
        )
        return Segment(torch.cat([text_T[:16], image_T, text_T[16:]]), (block,))

    @cached_property
    def fast(self) -> ReplayConfig:
        """Our setting: as many steps as it takes to the reference's divergence, and no more."""
        with ReplaySession(self.pair, self.config(steps=REFERENCE_STEPS)) as session:
            plain = session.append(self.segment(0))
        assert plain.kl_after is not None
        found: list[tuple[int, float, float]] = []
        for rate in RATES:
            trial = self.config(steps=6, optimizer="adam", learning_rate=rate)
            with ReplaySession(self.pair, trial) as session:
                last = session.append(self.segment(0)).kl_after
                path = [*session.blocks[0].kl_path[1:], last]
            reached = (n for n, kl in enumerate(path, 1) if kl and kl <= plain.kl_after)
            found += [(steps, path[steps - 1] or 0.0, rate) for steps in reached][:1]
        if not found:
            raise RuntimeError(f"Adam reaches {plain.kl_after} nats at none of {RATES} in 6 steps")
        steps, after, rate = min(found)
        self.say(
            f"plain descent: {plain.kl_before:.4g} -> {plain.kl_after:.4g} nats in "
            f"{REFERENCE_STEPS} steps; Adam at {rate}: {after:.4g} after {steps}"
        )
        return self.config(steps=steps, optimizer="adam", learning_rate=rate)

    def say(self, text: str) -> None:
        """Tell how far we are."""
        self.console.print(text, markup=False, highlight=False)

    # One image.

    def ours(self, config: ReplayConfig) -> float:
        """Seconds that the first image takes."""
        segment = self.segment(0)
        with ReplaySession(self.pair, config) as session:
            return timed(partial(session.append, segment))

    def reference_turn(self, reference: Reference, segment: Segment) -> tuple[float, float, float]:
        """Seconds of the reference's preparation, of one step, and of its prefill."""
        pieces = list(segment.pieces())
        for ids_T, block in pieces[:2]:
            reference.extend(ids_T, block)
        readings = []
        prepare = timed(lambda: readings.append(reference.read(reference.base)))
        step = timed(lambda: reference.step(readings[0]))
        reference.extend(*pieces[2])
        return prepare, step, timed(reference.prefill)

    def one_image(self) -> Iterator[Row]:
        """Token replay of one image."""
        fast, more = self.fast, 2
        longer = replace(fast, steps=fast.steps + more)
        whole: tuple[list[float], list[float]] = ([], [])
        step: tuple[list[float], list[float]] = ([], [])
        preparation: tuple[list[float], list[float]] = ([], [])
        for _ in range(self.repeats):
            reference = Reference(self.policy, self.base, fast)
            prepare, once, prefill = self.reference_turn(reference, self.segment(0))
            ours, ours_longer = self.ours(fast), self.ours(longer)
            unoptimised, plain = (
                self.ours(replace(fast, steps=0)),
                self.ours(self.config(Method.NONE)),
            )
            whole[0].append(prepare + REFERENCE_STEPS * once + prefill)
            whole[1].append(ours)
            step[0].append(once)
            step[1].append((ours_longer - ours) / more)
            preparation[0].append(prepare)
            # What is left without the plain policy's own work is the base pass and its targets.
            preparation[1].append(unoptimised - plain)
            self.say(
                f"one image: reference {prepare:.2f} + 25 x {once:.2f} + {prefill:.2f} s, ours "
                f"{ours:.2f} s with {fast.steps} steps, of which plain prefill {plain:.2f} s"
            )
        yield Row.of("token replay, one image, to the reference's KL", *whole, 20)
        yield Row.of("token replay, one step", *step, 7)
        yield Row.of("preparation", *preparation, 3)

    # An episode.

    def our_episode(self, config: ReplayConfig) -> list[float]:
        """Seconds of each turn."""
        with ReplaySession(self.pair, config) as session:
            turns = [self.segment(seed) for seed in range(TURNS)]
            return [timed(partial(session.append, turn)) for turn in turns]

    def episode(self, method: Method) -> Iterator[Row]:
        """Five turns of one image each."""
        config = self.fast if method is Method.TOKEN else self.config(method)
        theirs, ours, second, fifth = [], [], [], []
        for _ in range(self.repeats):
            reference = Reference(self.policy, self.base, config)
            total = 0.0
            for seed in range(TURNS):
                segment = self.segment(seed)
                if method is Method.TOKEN:
                    prepare, step, prefill = self.reference_turn(reference, segment)
                    total += prepare + REFERENCE_STEPS * step + prefill
                else:
                    total += timed(partial(reference.turn, segment))
            turns = self.our_episode(config)
            theirs.append(total)
            ours.append(sum(turns))
            second.append(turns[1])
            fifth.append(turns[4])
            shown = ", ".join(f"{seconds:.2f}" for seconds in turns)
            self.say(f"{method} replay, 5 turns: reference {total:.1f} s, ours {shown} s")
        target = 40 if method is Method.TOKEN else 4
        yield Row.of(f"{method} replay, episode of 5 turns", theirs, ours, target)
        yield Row.of(f"{method} replay, our turn 5 / our turn 2", fifth, second, 1.25, at_most=True)

    # Memory.

    def memory(self) -> Iterator[Row]:
        """Peak above the weights, each side in a process of its own."""
        steps = self.fast.steps
        measured: dict[str, list[float]] = {name: [] for name in PROBES if name != "large"}
        for _ in range(self.repeats):
            for name, values in measured.items():
                values.append(self.probe(name, steps)["above"])
        self.say(f"memory in GB: {measured}")
        reference = measured["reference"]
        yield Row.of("peak memory above the weights", reference, measured["ours"], 4, "GB")
        name = "peak memory, reference one layer's logits at a time"
        yield Row.of(name, measured["layerwise"], measured["ours"], None, "GB")
        name = "peak memory, ours with recompute_activations"
        yield Row.of(name, reference, measured["recompute"], None, "GB")

    def large(self) -> Iterator[Row]:
        """4,096 visual tokens at once."""
        found = self.probe("large", 1)
        peak = found["peak"]
        note = f"{peak:.3g} GB, of which weights {peak - found['above']:.3g} GB"
        yield Row("4,096 visual tokens, our GB in all", peak, peak, peak, 12, True, note)

    def probe(self, name: str, steps: int) -> dict[str, float]:
        """Run `run_probe` in another process."""
        arguments = [
            name,
            str(steps),
            str(self.dtype).removeprefix("torch."),
            json.dumps(vars(self.sizes)),
        ]
        ran = subprocess.run(
            [sys.executable, __file__, "--probe", *arguments], stdout=subprocess.PIPE, check=True
        )
        found: dict[str, float] = json.loads(ran.stdout)
        return found

    def run_probe(self, name: str, steps: int) -> dict[str, float]:
        """GB in all at the peak, and above what the models take."""
        run = PROBES[name](self, self.config(steps=steps, optimizer="adam", learning_rate=0.003))
        gc.collect()
        # Building models took more than having them does; glibc would hand out what is left of it.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = resident()
        with sampled_peak() as peak:
            run()
        return {"peak": peak[0], "above": peak[0] - before}

    def probe_ours(self, config: ReplayConfig, side: int | None = None) -> Callable[[], object]:
        """Append one image, in a session."""
        session, segment = ReplaySession(self.pair, config), self.segment(0, side)
        del self.base  # what the pair does not need
        return lambda: session.append(segment)

    def probe_reference(self, config: ReplayConfig, at_once: bool) -> Callable[[], object]:
        """One turn of the reference, which needs the same memory at every step."""
        reference = Reference(
            self.policy, self.base, replace(config, steps=1, learning_rate=10.0), at_once=at_once
        )
        segment = self.segment(0)
        return lambda: reference.turn(segment)

    # Counted, not measured.

    def flops(self) -> Iterator[Row]:
        """State replay against a plain prefill at 7B proportions, behind 1,024 tokens."""
        plain, state = self.prefill_flops(Method.NONE), self.prefill_flops(Method.STATE)
        ratio = state / plain
        note = f"{state / 1e12:.4g} / {plain / 1e12:.4g} TFLOP for 1,024 tokens"
        name = "state replay / plain prefill, FLOPs at 7B, exact"
        yield Row(name, ratio, ratio, ratio, 3, True, note)

    def prefill_flops(self, method: Method) -> float:
        """FLOPs of 1,024 more tokens and of the next token's logits."""
        config = self.config(method, state_layers=7)
        context = Context(meta_pair(SEVEN_B), config)
        tokens_T = torch.zeros(1024, dtype=torch.long)
        with torch.no_grad():
            context.append(tokens_T)
            with FlopCounterMode(display=False) as counter:
                context.append(tokens_T)
                context.next_logits()
        return float(counter.get_total_flops())

    def weights(self) -> Iterator[Row]:
        """What policy and base take, if they have no language weights in common."""
        pair = meta_pair(SEVEN_B)
        assert pair.base is not None
        pair.base.keep_layers(7)
        pair.base.drop_vision()
        policy, base = (
            sum(weight.nbytes for weight in adapter.model.parameters())
            for adapter in (pair.policy, pair.base)
        )
        ratio = (policy + base) / policy
        note = f"({policy / 1e9:.3g} + {base / 1e9:.3g}) GB / {policy / 1e9:.3g} GB in bfloat16"
        name = "resident weights, policy + base / policy, 7 of 28 layers"
        yield Row(name, ratio, ratio, ratio, 1.35, True, note)


PROBES: dict[str, Callable[[Bench, ReplayConfig], Callable[[], object]]] = {
    "reference": lambda bench, config: bench.probe_reference(config, at_once=True),
    "layerwise": lambda bench, config: bench.probe_reference(config, at_once=False),
    "ours": lambda bench, config: bench.probe_ours(config),
    "recompute": lambda bench, config: bench.probe_ours(
        replace(config, recompute_activations=True)
    ),
    "large": lambda bench, config: bench.probe_ours(
        replace(config, recompute_activations=True), side=64
    ),
}

GROUPS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "weights": Bench.weights,
    "flops": Bench.flops,
    "one-image": Bench.one_image,
    "state-episode": lambda bench: bench.episode(Method.STATE),
    "token-episode": lambda bench: bench.episode(Method.TOKEN),
    "memory": Bench.memory,
    "4096": Bench.large,
}
"""What `--only` takes, cheapest first; a group's rows come from the same runs."""


def _twin(model: Any, shares: Callable[[Tensor], bool]) -> Any:
    """A second module tree; the weights that are to be shared are the same tensors."""
    shared = {id(weight): weight for weight in model.parameters() if shares(weight)}
    return copy.deepcopy(model, shared)


@cache
def _meta(sizes: Sizes) -> Any:
    with torch.device("meta"):
        return Qwen2_5_VLForConditionalGeneration._from_config(sizes.config(), dtype=torch.bfloat16)


def meta_pair(sizes: Sizes) -> ModelPair:
    """A pair without memory, for counting.

    An adapter rightly refuses weights that are not there, so it is made for a small model, and
    gets the large one afterwards.
    """
    small = Sizes(8, 8, 1, 1, 1, 16, vision_layers=1, side=2)
    adapters = []
    for _ in range(2):
        vision = {"hidden_size": 16, "num_heads": 1, "intermediate_size": 16}
        config = small.config()
        config.vision_config.update(vision)
        adapter = adapter_for(Qwen2_5_VLForConditionalGeneration._from_config(config))
        adapter.model = copy.deepcopy(_meta(sizes)).eval().requires_grad_(False)
        adapters.append(adapter)
    return ModelPair(adapters[0], adapters[1], None, shares_vision=True)


def resident() -> float:
    """GB of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


@contextmanager
def sampled_peak() -> Iterator[list[float]]:
    """The largest `resident()` in the meantime, looked at every 2 ms, as a list of one."""
    peak, done = [resident()], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def table(rows: Sequence[Row]) -> Table:
    """What is printed."""
    printed = Table("what", "ratio", "spread", "target", "", "medians")
    for row in rows:
        sign = "<=" if row.at_most else ">="
        target = "-" if row.target is None else f"{sign} {row.target:g}"
        mark = {True: "[green]reached[/]", False: "[red]missed[/]", None: ""}[row.reached]
        spread = f"{row.low:.3g} to {row.high:.3g}"
        printed.add_row(row.name, f"{row.ratio:.3g}", spread, target, mark, row.note)
    return printed


def write(rows: Sequence[Row]) -> None:
    """Put the rows in `latest.json`, in the place of their predecessors."""
    old = json.loads(OUT.read_text("utf-8")) if OUT.exists() else []
    lines = {line["name"]: line for line in [*old, *(row.as_json() for row in rows)]}
    OUT.write_text(json.dumps(list(lines.values()), indent=1) + "\n", "utf-8")


def main() -> None:
    """Run the chosen groups."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=GROUPS, nargs="+", default=list(GROUPS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="below 1: a trial, not written")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--probe", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    if chosen.probe:
        name, steps, dtype, sizes = chosen.probe
        bench = Bench(Sizes(**json.loads(sizes)), getattr(torch, dtype), 1, Console(stderr=True))
        print(json.dumps(bench.run_probe(name, int(steps))))
        return
    dtype = getattr(torch, chosen.dtype)
    bench = Bench(Sizes().scaled(chosen.scale), dtype, chosen.repeats, console)
    bench.say(f"{torch.get_num_threads()} threads, {chosen.dtype}, torch {torch.__version__}")
    rows: list[Row] = []
    for name in chosen.only:
        for row in GROUPS[name](bench):
            suffix = "" if dtype is torch.float32 else f", {chosen.dtype}"
            rows.append(replace(row, name=row.name + suffix))
            if chosen.scale == 1:
                write(rows)
    console.print(table(rows))


if __name__ == "__main__":
    main()
