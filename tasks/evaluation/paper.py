"""The accuracies that the paper reports (arXiv 2511.19972), which tables show beside the runs.

They are in percent, of 7B policies without and with replay.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A column of the paper's tables.

    Attributes:
        label: The name in the paper.
        names: Names of tasks, or of files without their suffix, in letters and digits alone.
        category: The beginning of the category that the accuracy is about; None for all samples.
    """

    label: str
    names: frozenset[str]
    category: str | None = None

    def covers(self, category: str) -> bool:
        """Tell whether the accuracy is about the samples of a category."""
        return self.category is not None and _simplify(category).startswith(self.category)


def _benchmark(label: str, *names: str, category: str | None = None) -> Benchmark:
    return Benchmark(label, frozenset(names), category)


_AGENT = (
    _benchmark("HR-Bench 4K FCP", "hrbench4k", category="fcp"),
    _benchmark("HR-Bench 8K FCP", "hrbench8k", category="fcp"),
    _benchmark("VisualProbe Medium", "visualprobemedium"),
    _benchmark("VisualProbe Hard", "visualprobehard"),
)
_VIDEO = (
    _benchmark("VideoMMMU", "videommmu"),
    _benchmark("MLVU", "mlvu"),
    _benchmark("MMVU(mc)", "mmvu", category="multiplechoice"),
    _benchmark("Video-Holmes", "videoholmes"),
)
_MATHEMATICS = (
    _benchmark("MathVerse(VO)", "mathversevo", "mathversevisiononly", "mathverseminivisiononly"),
    _benchmark("MathVision", "mathvision"),
    _benchmark("MathVista", "mathvista", "mathvistamini"),
    _benchmark("DynaMath", "dynamath"),
    _benchmark("WeMath", "wemath"),
    _benchmark("LogicVista", "logicvista"),
    _benchmark("MMMU", "mmmu", "mmmudevval"),
    _benchmark("MMMU-Pro", "mmmupro"),
)
BENCHMARKS = (*_AGENT, *_VIDEO, *_MATHEMATICS)

_REPORTED: tuple[tuple[str, tuple[Benchmark, ...], tuple[float, ...], tuple[float, ...]], ...] = (
    ("DeepEyes-7B", _AGENT, (53.7, 53.5, 82.1, 75.4), (56.3, 53.8, 84.7, 75.9)),
    ("Video-R1-7B", _VIDEO, (49.8, 55.7, 64.2, 36.5), (53.8, 57.4, 65.0, 40.9)),
    (
        "MM-Eureka-Qwen-7B",
        _MATHEMATICS,
        (45.1, 30.6, 73.0, 51.8, 36.8, 49.2, 58.7, 39.5),
        (47.7, 31.5, 73.5, 52.4, 38.0, 51.0, 62.0, 40.0),
    ),
    (
        "VL-Rethinker-7B",
        _MATHEMATICS,
        (47.0, 30.3, 72.0, 54.7, 34.8, 46.1, 58.7, 41.7),
        (49.2, 33.2, 72.4, 54.9, 36.7, 49.7, 60.0, 42.7),
    ),
    (
        "MMR1-Math-v0-7B",
        _MATHEMATICS,
        (41.1, 32.6, 71.0, 53.8, 40.7, 43.6, 56.7, 41.3),
        (43.3, 33.9, 71.9, 54.2, 41.8, 44.5, 58.7, 41.3),
    ),
)


def benchmark_of(settings: Mapping[str, Any]) -> Benchmark | None:
    """Find the benchmark of a run by its task, or by its file for a task that reads many."""
    data = settings.get("data")
    names = {
        _simplify(str(settings["task"])),
        _simplify(Path(data).stem) if data else "",
    }
    return next((each for each in BENCHMARKS if each.names & names), None)


def reported_accuracy(policy: str, benchmark: Benchmark, *, replayed: bool) -> float | None:
    """Look up the accuracy of a policy in the paper, in percent; None if there is none.

    Args:
        policy: Folder or hub id of the policy.
        benchmark: One of `BENCHMARKS`.
        replayed: Whether the policy ran with replay.
    """
    for name, columns, plain, with_replay in _REPORTED:
        if _simplify(name) == _simplify(Path(policy).name) and benchmark in columns:
            return (with_replay if replayed else plain)[columns.index(benchmark)]
    return None


def _simplify(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())
