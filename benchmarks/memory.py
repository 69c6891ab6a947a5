"""Peak memory of both sides, each in its own process.

`python benchmarks/memory.py NAME DTYPE SIZES` runs one of them; `speed.py` starts them.
"""

import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from reference import Reference
from rows import Kept, Row
from sizes import Models, Sizes

from visreplay.replay_core import ReplayConfig, ReplaySession

Work = Callable[[], object]


def ours(models: Models, config: ReplayConfig, side: int | None = None) -> Work:
    """Prepare to append one image to a session."""
    session, segment = ReplaySession(models.pair, config), models.segment(0, side)
    del models.base  # the pair does not need it
    return lambda: session.append(segment)


def reference(models: Models, config: ReplayConfig) -> Work:
    """Prepare one turn of the reference, which needs the same memory at every step."""
    plain = replace(config, steps=1, optimizer="sgd", alignment="reference")
    opponent = Reference(models.policy, models.base, plain)
    segment = models.segment(0)
    return lambda: opponent.turn(segment)


def recomputing(config: ReplayConfig) -> ReplayConfig:
    """Return the settings with the inner activations of the layers computed again."""
    return replace(config, recompute_activations=True)


PROBES: dict[str, Callable[[Models, ReplayConfig], Work]] = {
    "reference": reference,
    "ours": lambda models, config: ours(models, replace(config, recompute_activations=False)),
    "recompute": lambda models, config: ours(models, recomputing(config)),
    "large": lambda models, config: ours(models, recomputing(config), side=64),
}
STEPS = 2
"""Number of our steps, which all need the same memory."""


def peaks(models: Models, kept: Kept, repeats: int, say: Callable[[str], None]) -> Iterator[Row]:
    """Measure the peak above the weights, for one image."""
    models.forget()  # the reference needs the memory
    measured = {
        name: [result["above"] for result in results(models, kept, repeats, name)]
        for name in ("reference", "ours", "recompute")
    }
    say(f"memory in GB: {measured}")
    opponent = measured["reference"]
    yield Row.of("peak memory above the weights", opponent, measured["ours"], 4, "GB")
    name = "peak memory, ours with recompute_activations"
    yield Row.of(name, opponent, measured["recompute"], None, "GB")


def large(models: Models, kept: Kept, repeats: int) -> Iterator[Row]:
    """Measure our whole memory for 4,096 visual tokens at once."""
    models.forget()
    measured = results(models, kept, repeats, "large")
    peak = [each["peak"] for each in measured]
    middle = statistics.median(peak)
    note = f"{middle:.3g} GB, of which weights {middle - measured[0]['above']:.3g} GB"
    name = "4,096 visual tokens, our GB in all"
    yield Row(name, middle, min(peak), max(peak), 12, True, note, repeats)


def results(models: Models, kept: Kept, repeats: int, name: str) -> list[dict[str, float]]:
    """Run one side several times."""
    return [
        kept.get(f"memory, {name}, run {repeat}", lambda: probe(models, name))
        for repeat in range(repeats)
    ]


def probe(models: Models, name: str) -> dict[str, float]:
    """Run one side in another process."""
    dtype = str(models.dtype).removeprefix("torch.")
    arguments = [name, dtype, json.dumps(vars(models.sizes))]
    run = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, check=True)
    result: dict[str, float] = json.loads(run.stdout)
    return result


def resident(process: int | str = "self") -> float:
    """Read how many GB of a process, this one or another, are in memory now."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


@contextmanager
def sampled_peak() -> Iterator[list[float]]:
    """Sample `resident()` every 2 ms; gives a list whose only entry is the largest value."""
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


def main() -> None:
    """Print as JSON the peak in GB, and the part of it above the memory of the models."""
    name, dtype, sizes = sys.argv[1:]
    models = Models(Sizes(**json.loads(sizes)), getattr(torch, dtype))
    work = PROBES[name](models, models.config(steps=STEPS))
    gc.collect()
    # Building models takes more memory than having them: return the freed memory first.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident()
    with sampled_peak() as peak:
        work()
    print(json.dumps({"peak": peak[0], "above": peak[0] - before}))


if __name__ == "__main__":
    main()
