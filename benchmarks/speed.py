"""Speed and memory against the authors' algorithm: `make bench`.

Runs replay_core and `reference.py` in one process, in turns, on random weights of real sizes,
prints a table and writes `benchmarks/latest.json`. A ratio is reference / ours unless its row says
otherwise: the quotient of the medians, with its spread from the smallest to the largest quotient
that the repeats allow. Every row and every measurement is written as soon as it is there: a
stopped run goes on where it was.

One number is extrapolated. All steps of the opponent in a turn cost the same, so one is timed and
counted 25 times. Decoding is left out, because it is the same on both sides. The opponent takes the
authors' released alignment. How much divergence either side leaves is measured on the embedded
pair (`divergence.py`): random weights would say nothing about it.
"""

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import costs
import counted
import divergence
import memory
import startup
import torch
from reference import Reference
from rich.console import Console
from rows import Kept, Row, table, timed, write
from sizes import Models, Sizes

from visreplay import replay_core
from visreplay.replay_core import Method, ReplayConfig, ReplaySession

TURNS = 5
STEPS = divergence.STEPS


class Bench:
    """The timed work, on one set of models."""

    def __init__(self, models: Models, kept: Kept, repeats: int, console: Console) -> None:
        """Build nothing yet."""
        self.models, self.kept, self.repeats, self.console = models, kept, repeats, console

    def say(self, text: str) -> None:
        """Print a line of progress."""
        self.console.print(text, markup=False, highlight=False)

    # The opponent.

    def opponent(self, method: Method, turn: int) -> Reference:
        """Make the opponent as it is before a turn; its costs do not depend on its offsets."""
        config = self.models.config(method, alignment="reference", optimizer="sgd")
        reference = Reference(self.models.policy, self.models.base, config)
        for seed in range(turn):
            reference.extend(self.models.segment(seed))
        return reference

    def reference_turn(self, turn: int, repeat: int) -> dict[str, float]:
        """Time the preparation, one step and the prefill of a turn of token replay, in seconds."""

        def measure() -> dict[str, float]:
            reference = self.opponent(Method.TOKEN, turn)
            (image,) = reference.extend(self.models.segment(turn))
            readings = []
            return {
                "preparation": timed(lambda: readings.append(reference.read(reference.base))),
                "step": timed(lambda: reference.step(image, readings[0])),
                "prefill": timed(lambda: reference.prefill(readings[0])),
            }

        parts: dict[str, float] = self.kept.get(
            f"reference, turn {turn + 1}, run {repeat}", measure
        )
        whole = parts["preparation"] + STEPS * parts["step"] + parts["prefill"]
        return {**parts, "whole": whole}

    def reference_state_turn(self, turn: int, repeat: int) -> float:
        """Time a turn of state replay, in seconds."""

        def measure() -> float:
            reference = self.opponent(Method.STATE, turn)
            return timed(partial(reference.turn, self.models.segment(turn)))

        seconds: float = self.kept.get(f"reference, state turn {turn + 1}, run {repeat}", measure)
        return seconds

    # Ours.

    def turns(self, name: str, config: ReplayConfig, repeat: int, turns: int) -> dict[str, Any]:
        """Time the first turns of a session, in seconds, and count the steps for each image."""

        def measure() -> dict[str, Any]:
            with ReplaySession(self.models.pair, config) as session:
                segments = [self.models.segment(seed) for seed in range(turns)]
                seconds = [timed(partial(session.append, segment)) for segment in segments]
                steps = [len(block.kl_path) for block in session.blocks]
            return {"seconds": seconds, "steps": steps}

        result: dict[str, Any] = self.kept.get(f"ours, {name}, run {repeat}", measure)
        return result

    # Rows.

    def one_image(self) -> Iterator[Row]:
        """Compare token replay of one image."""
        configs = {
            "default": self.models.config(),
            "enough": self.models.config(steps=divergence.steps_enough()),
            "no step": self.models.config(steps=0),
            "plain": self.models.config(Method.NONE),
        }
        theirs: dict[str, list[float]] = {}
        ours: dict[str, list[float]] = {}
        for repeat in range(self.repeats):
            for part, seconds in self.reference_turn(0, repeat).items():
                theirs.setdefault(part, []).append(seconds)
            results = {
                name: self.turns(f"one image, {name}", config, repeat, 1)
                for name, config in configs.items()
            }
            once = {name: result["seconds"][0] for name, result in results.items()}
            (steps,) = results["default"]["steps"]
            # Without the plain policy's own work, this is the base pass and its targets.
            once["preparation"] = once["no step"] - once["plain"]
            once["step"] = (once["default"] - once["no step"]) / steps
            for name, seconds in once.items():
                ours.setdefault(name, []).append(seconds)
            self.say(
                f"one image, run {repeat}: authors {theirs['whole'][-1]:.1f} s, of which a step "
                f"{theirs['step'][-1]:.1f} s; ours {once['default']:.1f} s with {steps} steps"
            )
        yield Row.of("token replay, one step", theirs["step"], ours["step"], 8)
        name = "token replay, one image, authors' 25 steps / our default"
        yield Row.of(name, theirs["whole"], ours["default"], 13)
        name = "token replay, one image, until the authors' divergence"
        yield Row.of(name, theirs["whole"], ours["enough"], 27)
        name = "token replay, one image, preparation"
        yield Row.of(name, theirs["preparation"], ours["preparation"], None)

    def token_episode(self) -> Iterator[Row]:
        """Compare episodes of token replay, of five turns with an image each."""
        configs = {
            "default": self.models.config(),
            "enough": self.models.config(steps=divergence.steps_enough()),
        }
        theirs: list[float] = []
        ours: dict[str, list[list[float]]] = {name: [] for name in configs}
        for repeat in range(self.repeats):
            turns = [self.reference_turn(turn, repeat)["whole"] for turn in range(TURNS)]
            theirs.append(sum(turns))
            for name, config in configs.items():
                result = self.turns(f"token episode, {name}", config, repeat, TURNS)
                ours[name].append(result["seconds"])
            self.say_turns("token replay", repeat, turns, ours["default"][-1])
        name = "token replay, episode of 5 turns, authors' 25 steps / our default"
        yield Row.of(name, theirs, [sum(each) for each in ours["default"]], 20)
        name = "token replay, episode of 5 turns, until the authors' divergence"
        yield Row.of(name, theirs, [sum(each) for each in ours["enough"]], 44)
        yield self.growth("token", ours["default"])

    def state_episode(self) -> Iterator[Row]:
        """Compare episodes of state replay, of five turns with an image each."""
        theirs, ours = [], []
        for repeat in range(self.repeats):
            turns = [self.reference_state_turn(turn, repeat) for turn in range(TURNS)]
            theirs.append(sum(turns))
            config = self.models.config(Method.STATE)
            ours.append(self.turns("state episode", config, repeat, TURNS)["seconds"])
            self.say_turns("state replay", repeat, turns, ours[-1])
        name = "state replay, episode of 5 turns"
        yield Row.of(name, theirs, [sum(each) for each in ours], 4)
        yield self.growth("state", ours)

    def say_turns(self, what: str, repeat: int, theirs: list[float], ours: list[float]) -> None:
        """Print the seconds of each turn of both sides."""
        each = (", ".join(f"{seconds:.1f}" for seconds in side) for side in (theirs, ours))
        self.say(f"{what}, run {repeat}, turns: authors {next(each)} s; ours {next(each)} s")

    def growth(self, method: str, episodes: list[list[float]]) -> Row:
        """Compare our fifth turn with our second one."""
        fifth, second = ([turns[index] for turns in episodes] for index in (4, 1))
        name = f"{method} replay, our turn 5 / our turn 2"
        return Row.of(name, fifth, second, 1.25, at_most=True)


GROUPS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "start-up": lambda bench: startup.help_page(bench.repeats),
    "weights": lambda bench: counted.weights(),
    "divergence": lambda bench: divergence.rows(),
    "costs": lambda bench: costs.rows(),
    "sketch": lambda bench: counted.agreement(),
    "flops": lambda bench: counted.flops(),
    "one-image": Bench.one_image,
    "state-episode": Bench.state_episode,
    "token-episode": Bench.token_episode,
    "memory": lambda bench: memory.peaks(bench.models, bench.kept, bench.repeats, bench.say),
    "4096": lambda bench: memory.large(bench.models, bench.kept, bench.repeats),
}
"""The values of `--only`, the cheapest first; the rows of a group come from the same runs."""


def code() -> str:
    """Compute a digest of the code: measurements of other code are made again."""
    digest = hashlib.sha256()
    for folder in (Path(__file__).parent, Path(str(replay_core.__file__)).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def main() -> None:
    """Run the chosen groups."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=GROUPS, nargs="+", default=list(GROUPS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="below 1: a trial, not written")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--kept", type=Path, default=Path("runs/speed.json"))
    chosen = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    dtype = getattr(torch, chosen.dtype)
    models = Models(Sizes().scaled(chosen.scale), dtype)
    settings = {
        "sizes": asdict(models.sizes),
        "dtype": chosen.dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "code": code(),
    }
    bench = Bench(models, Kept(chosen.kept, settings), chosen.repeats, console)
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
