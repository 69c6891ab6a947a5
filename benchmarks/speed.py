"""Speed and memory against the reference's algorithm: `make bench`.

Runs replay_core and `reference.py` in one process, in turns, on random weights of real sizes,
prints a table and writes `benchmarks/latest.json`. A ratio is reference / ours unless its row says
otherwise: the quotient of the medians, with its spread from the smallest to the largest quotient
that the repeats allow.

Two numbers are extrapolated. All steps of the reference cost the same, so one is timed and counted
25 times. The last turns of its token-replay episode follow from the first (`REFERENCE_TURNS`). Its
divergence after 25 steps comes from replay_core's plain descent, which takes the same steps
(`tests/benchmarks/test_reference.py`). Decoding is left out, because it is the same on both sides.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial

import counted
import memory
import startup
import torch
from reference import Reference
from rich.console import Console
from rows import Row, table, timed, write
from sizes import Models, Sizes

from visreplay.replay_core import Method, ReplayConfig, ReplaySession, Segment

TURNS = 5
REFERENCE_STEPS = 25
REFERENCE_TURNS = 3
"""Token replay's gradient keeps the full logits of every replayed layer: the reference's fourth
turn does not fit into 24 GB. Later turns continue the straight line through the last two."""


class Bench:
    """The timed work, on one set of models."""

    def __init__(self, models: Models, repeats: int, console: Console) -> None:
        """Build nothing yet."""
        self.models, self.repeats, self.console = models, repeats, console

    @cached_property
    def fast(self) -> ReplayConfig:
        """Our settings, with just enough steps to reach the reference's divergence."""
        paper = self.models.config(optimizer="sgd", learning_rate=10.0, steps=REFERENCE_STEPS)
        with ReplaySession(self.models.pair, paper) as session:
            plain = session.append(self.models.segment(0))
        ours = self.models.config()
        with ReplaySession(self.models.pair, ours) as session:
            last = session.append(self.models.segment(0)).kl_after
            path = [*session.blocks[0].kl_path[1:], last]
        assert plain.kl_after is not None
        reached = (n for n, kl in enumerate(path, 1) if kl and kl <= plain.kl_after)
        steps = next(reached, None)
        if steps is None:
            raise RuntimeError(f"{plain.kl_after} nats are not reached: {path}")
        self.say(
            f"divergence {plain.kl_before:.4g} nats; the reference's {REFERENCE_STEPS} steps: "
            f"{plain.kl_after:.4g}; ours, step by step: "
            + ", ".join(f"{kl or 0:.4g}" for kl in path)
        )
        return replace(ours, steps=steps)

    def say(self, text: str) -> None:
        """Print a line of progress."""
        self.console.print(text, markup=False, highlight=False)

    # One image.

    def ours(self, config: ReplayConfig) -> float:
        """Time the first image, in seconds."""
        segment = self.models.segment(0)
        with ReplaySession(self.models.pair, config) as session:
            return timed(partial(session.append, segment))

    def reference_turn(self, reference: Reference, segment: Segment) -> tuple[float, float, float]:
        """Time the reference's preparation, one step, and its prefill, in seconds."""
        pieces = list(segment.pieces())
        for ids_T, block in pieces[:2]:
            reference.extend(ids_T, block)
        readings = []
        prepare = timed(lambda: readings.append(reference.read(reference.base)))
        step = timed(lambda: reference.step(readings[0]))
        reference.extend(*pieces[2])
        return prepare, step, timed(reference.prefill)

    def one_image(self) -> Iterator[Row]:
        """Compare token replay of one image."""
        fast, more = self.fast, 2
        longer = replace(fast, steps=fast.steps + more)
        whole: tuple[list[float], list[float]] = ([], [])
        default: list[float] = []
        step: tuple[list[float], list[float]] = ([], [])
        preparation: tuple[list[float], list[float]] = ([], [])
        for _ in range(self.repeats):
            reference = Reference(self.models.policy, self.models.base, fast)
            prepare, once, prefill = self.reference_turn(reference, self.models.segment(0))
            ours, ours_longer = self.ours(fast), self.ours(longer)
            unoptimised, plain = (
                self.ours(replace(fast, steps=0)),
                self.ours(self.models.config(Method.NONE)),
            )
            whole[0].append(prepare + REFERENCE_STEPS * once + prefill)
            whole[1].append(ours)
            default.append(self.ours(self.models.config()))
            step[0].append(once)
            step[1].append((ours_longer - ours) / more)
            preparation[0].append(prepare)
            # Without the plain policy's own work, this is the base pass and its targets.
            preparation[1].append(unoptimised - plain)
            self.say(
                f"one image: reference {prepare:.2f} + 25 x {once:.2f} + {prefill:.2f} s, ours "
                f"{ours:.2f} s with {fast.steps} steps, of which plain prefill {plain:.2f} s"
            )
        yield Row.of("token replay, one image, to the reference's KL", *whole, 20)
        name = "token replay, one image, our default of 10 steps"
        yield Row.of(name, whole[0], default, None)
        yield Row.of("token replay, one step", *step, 7)
        yield Row.of("preparation", *preparation, 3)

    # An episode.

    def our_episode(self, config: ReplayConfig) -> list[float]:
        """Time each turn, in seconds."""
        with ReplaySession(self.models.pair, config) as session:
            turns = [self.models.segment(seed) for seed in range(TURNS)]
            return [timed(partial(session.append, turn)) for turn in turns]

    def episode(self, method: Method) -> Iterator[Row]:
        """Compare episodes of five turns of one image each."""
        config = self.fast if method is Method.TOKEN else self.models.config(method)
        theirs, ours, second, fifth = [], [], [], []
        default: list[float] = []
        for _ in range(self.repeats):
            reference = Reference(self.models.policy, self.models.base, config)
            opponent = []
            for seed in range(REFERENCE_TURNS if method is Method.TOKEN else TURNS):
                segment = self.models.segment(seed)
                if method is Method.TOKEN:
                    prepare, step, prefill = self.reference_turn(reference, segment)
                    opponent.append(prepare + REFERENCE_STEPS * step + prefill)
                else:
                    opponent.append(timed(partial(reference.turn, segment)))
            while len(opponent) < TURNS:
                opponent.append(2 * opponent[-1] - opponent[-2])
            turns = self.our_episode(config)
            theirs.append(sum(opponent))
            ours.append(sum(turns))
            second.append(turns[1])
            fifth.append(turns[4])
            if method is Method.TOKEN:
                default.append(sum(self.our_episode(self.models.config())))
            opponent_times, our_times = (
                ", ".join(f"{seconds:.1f}" for seconds in each) for each in (opponent, turns)
            )
            self.say(f"{method} replay, 5 turns: reference {opponent_times} s, ours {our_times} s")
        target = 40 if method is Method.TOKEN else 4
        yield Row.of(f"{method} replay, episode of 5 turns", theirs, ours, target)
        if default:
            name = "token replay, episode of 5 turns, our default of 10 steps"
            yield Row.of(name, theirs, default, None)
        yield Row.of(f"{method} replay, our turn 5 / our turn 2", fifth, second, 1.25, at_most=True)


GROUPS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "start-up": lambda bench: startup.help_page(bench.repeats),
    "weights": lambda bench: counted.weights(),
    "sketch": lambda bench: counted.agreement(),
    "flops": lambda bench: counted.flops(),
    "one-image": Bench.one_image,
    "state-episode": lambda bench: bench.episode(Method.STATE),
    "token-episode": lambda bench: bench.episode(Method.TOKEN),
    "memory": lambda bench: memory.peaks(bench.models, bench.fast.steps, bench.repeats, bench.say),
    "4096": lambda bench: memory.large(bench.models, bench.repeats),
}
"""The values of `--only`, the cheapest first; the rows of a group come from the same runs."""


def main() -> None:
    """Run the chosen groups."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=GROUPS, nargs="+", default=list(GROUPS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="below 1: a trial, not written")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    chosen = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    dtype = getattr(torch, chosen.dtype)
    models = Models(Sizes().scaled(chosen.scale), dtype)
    bench = Bench(models, chosen.repeats, console)
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
