"""Measure `visreplay --help`: CPU seconds and peak memory of a child process."""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator

from rows import Row

MB = 10**6

# A process between: the kernel counts a parent's memory as its child's, and this one's is large.
MEASURE = """
import json, resource, subprocess, sys
command = [sys.executable, "-m", "visreplay.tasks", "--help"]
subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]))
"""


def help_page(repeats: int) -> Iterator[Row]:
    """Measure the help page of the command line.

    Args:
        repeats: Number of measurements; a first one, which writes bytecode, is left out.
    """
    results = [
        json.loads(subprocess.check_output([sys.executable, "-c", MEASURE]))
        for _ in range(repeats + 1)
    ][1:]
    for name, values, target in (
        ("visreplay --help, CPU seconds", [seconds for seconds, _ in results], 0.5),
        ("visreplay --help, MB of memory at its peak", [size / MB for _, size in results], 100),
    ):
        yield Row(
            name,
            statistics.median(values),
            min(values),
            max(values),
            target,
            at_most=True,
            note="a child process",
            runs=repeats,
        )
