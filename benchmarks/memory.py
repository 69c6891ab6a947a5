"""Peak memory of both sides, each in a process of its own.

`python benchmarks/memory.py NAME STEPS DTYPE SIZES` is one such process; `speed.py` starts them.
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
from rows import Row
from sizes import Models, Sizes

from visreplay.replay_core import ReplayConfig, ReplaySession

Work = Callable[[], object]


def ours(models: Models, config: ReplayConfig, side: int | None = None) -> Work:
    """Append one image, in a session."""
    session, segment = ReplaySession(models.pair, config), models.segment(0, side)
    del models.base  # what the pair does not need
    return lambda: session.append(segment)


def reference(models: Models, config: ReplayConfig, at_once: bool) -> Work:
    """One turn of the reference, which needs the same memory at every step."""
    plain = replace(config, steps=1, optimizer="sgd")
    opponent = Reference(models.policy, models.base, plain, at_once=at_once)
    segment = models.segment(0)
    return lambda: opponent.turn(segment)


PROBES: dict[str, Callable[[Models, ReplayConfig], Work]] = {
    "reference": lambda models, config: reference(models, config, at_once=True),
    "layerwise": lambda models, config: reference(models, config, at_once=False),
    "ours": ours,
    "recompute": lambda models, config: ours(models, replace(config, recompute_activations=True)),
    "large": lambda models, config: ours(
        models, replace(config, recompute_activations=True), side=64
    ),
}


def peaks(models: Models, steps: int, repeats: int, say: Callable[[str], None]) -> Iterator[Row]:
    """Peak above the weights, one image."""
    models.forget()  # the reference needs the room
    measured: dict[str, list[float]] = {name: [] for name in PROBES if name != "large"}
    for _ in range(repeats):
        for name, values in measured.items():
            values.append(probe(models, name, steps)["above"])
    say(f"memory in GB: {measured}")
    opponent = measured["reference"]
    yield Row.of("peak memory above the weights", opponent, measured["ours"], 4, "GB")
    name = "peak memory, reference one layer's logits at a time"
    yield Row.of(name, measured["layerwise"], measured["ours"], None, "GB")
    name = "peak memory, ours with recompute_activations"
    yield Row.of(name, opponent, measured["recompute"], None, "GB")


def large(models: Models, repeats: int) -> Iterator[Row]:
    """4,096 visual tokens at once: our memory in all."""
    models.forget()
    found = [probe(models, "large", 1) for _ in range(repeats)]
    peak = [each["peak"] for each in found]
    middle = statistics.median(peak)
    note = f"{middle:.3g} GB, of which weights {middle - found[0]['above']:.3g} GB"
    yield Row(
        "4,096 visual tokens, our GB in all", middle, min(peak), max(peak), 12, True, note, repeats
    )


def probe(models: Models, name: str, steps: int) -> dict[str, float]:
    """Run one side in another process."""
    dtype = str(models.dtype).removeprefix("torch.")
    arguments = [name, str(steps), dtype, json.dumps(vars(models.sizes))]
    ran = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(ran.stdout)
    return found


def resident(process: int | str = "self") -> float:
    """GB of a process, this one or another, that are in memory now."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
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


def main() -> None:
    """Print the GB in all at the peak, and those above what the models take, as JSON."""
    name, steps, dtype, sizes = sys.argv[1:]
    models = Models(Sizes(**json.loads(sizes)), getattr(torch, dtype))
    work = PROBES[name](models, models.config(steps=int(steps)))
    gc.collect()
    # Building models took more than having them does; glibc would hand out what is left of it.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident()
    with sampled_peak() as peak:
        work()
    print(json.dumps({"peak": peak[0], "above": peak[0] - before}))


if __name__ == "__main__":
    main()
