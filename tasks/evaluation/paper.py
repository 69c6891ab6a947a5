"""The figures that the paper publishes (arXiv 2511.19972), and the run that each of them is of.

A figure is the accuracy in percent of one greedy rollout a sample, on a whole benchmark. Tables 1
and 5, and the settings of the figure for MM-Eureka-Qwen-7B on MathVerse, are known from a public
note on the paper; the others are those of the results image in the authors' repository.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visreplay.replay_core.config import Method, ReplayConfig, Side

ACCURACY = "accuracy"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A column of the paper's tables.

    Attributes:
        label: The name in the paper.
        names: Names of tasks, or of files without their suffix, in letters and digits alone.
        samples: The number of samples that the figure is about.
        category: The beginning of the category that the figure is about; None for all samples.
        split: The beginning of the split that the figure is about; None where there is one alone.
        score: The name of the score in `Summary.metrics`.
        obstacle: The reason why no run here can be compared with the figures, if there is one.
        remark: What the released scripts score otherwise, where it is a few answers.
    """

    label: str
    names: frozenset[str]
    samples: int
    category: str | None = None
    split: str | None = None
    score: str = ACCURACY
    obstacle: str | None = None
    remark: str | None = None

    def covers(self, category: str | None, split: str | None) -> bool:
        """Tell whether the figures are about the samples of a category and a split."""
        wanted = ((self.category, category), (self.split, split))
        return all(not prefix or simplify(name or "").startswith(prefix) for prefix, name in wanted)


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a policy's answers were made, as the released code has it; None where it does not say.

    Attributes:
        repetition_penalty: The penalty of decoding; for agents and videos, the checkpoint's own.
        max_new_tokens: The largest number of tokens of a turn.
        turns: The largest number of turns of an episode, for agents.
        image_pixels: The smallest and the largest number of pixels of a picture.
        frame_pixels: The same of a frame of a video.
        frames: The number of frames of a video, the first and the last among them.
    """

    repetition_penalty: float
    max_new_tokens: int
    turns: int | None = None
    image_pixels: tuple[int | None, int | None] | None = None
    frame_pixels: tuple[int | None, int | None] | None = None
    frames: int | None = None


@dataclass(frozen=True, slots=True)
class PublishedFigure:
    """A cell of the paper's tables, and the settings of its run.

    Attributes:
        table: The name of the table.
        policy: The name of the policy, without its owner.
        base: The name of the base.
        protocol: The protocol that the policy speaks; None where the paper does not say.
        benchmark: The column.
        percent: The figure.
        replay: The settings of the replay, with method "none" for the plain policy.
        conditions: How the answers were made; None where nothing is published.
        unpublished: Fields of `replay` that are not published, and so are not compared.
        obstacle: The reason why no run can be this one, if there is one.
    """

    table: str
    policy: str
    base: str
    protocol: str | None
    benchmark: Benchmark
    percent: float
    replay: ReplayConfig
    conditions: Conditions | None = None
    unpublished: frozenset[str] = frozenset()
    obstacle: str | None = None

    @property
    def system(self) -> str:
        """The name of the row: the policy, and how it is replayed if it is."""
        if self.replay.method is Method.NONE:
            return self.policy
        name = f"{self.policy} + {self.replay.method} replay"
        if self.table == "Table 5":
            name += f", tau {self.replay.tau:g}, rate {self.replay.rate:g}"
        return name if self.replay.side is Side.LOW else f"{name}, {self.replay.side} entropy"


def _benchmark(label: str, *names: str, samples: int, **facts: Any) -> Benchmark:
    return Benchmark(label, frozenset(names), samples, **facts)


_FIRST_CAPITAL = (
    "the released script compares the first capital letter from A to G in answer and key, and "
    "takes two texts without one as equal"
)
_ANY_CAPITAL = "the released script takes the first capital letter from A to G, in any word"
_ASKS_A_MODEL = "where its rules find no answer, the released toolkit asks a model"
_AGENTS = (
    _benchmark("HR-Bench 4K FCP", "hrbench4k", samples=400, category="fcp", remark=_ANY_CAPITAL),
    _benchmark("HR-Bench 8K FCP", "hrbench8k", samples=400, category="fcp", remark=_ANY_CAPITAL),
    _benchmark("VisualProbe Medium", "visualprobemedium", samples=268, obstacle=_FIRST_CAPITAL),
    _benchmark("VisualProbe Hard", "visualprobehard", samples=106, obstacle=_FIRST_CAPITAL),
)
_VIDEOS = (
    _benchmark(
        "VideoMMMU",
        "videommmu",
        samples=900,
        remark="any number counts as right there for 18 of 900 keys, which are not letters",
    ),
    _benchmark("MLVU", "mlvu", samples=2175),
    _benchmark("MMVU(mc)", "mmvu", samples=625, category="multiplechoice"),
    _benchmark("Video-Holmes", "videoholmes", samples=1837),
)
_MATHEMATICS = (
    _benchmark(
        "MathVerse(VO)",
        *("mathversevo", "mathversevisiononly", "mathverseminivisiononly", "mathverseminivonly"),
        samples=788,
        remark=_ASKS_A_MODEL,
    ),
    _benchmark("MathVision", "mathvision", samples=3040, remark=_ASKS_A_MODEL),
    _benchmark("MathVista", "mathvista", "mathvistamini", samples=1000, remark=_ASKS_A_MODEL),
    _benchmark("DynaMath", "dynamath", samples=5010, remark=_ASKS_A_MODEL),
    _benchmark("WeMath", "wemath", samples=1740, score="strict score"),
    _benchmark("LogicVista", "logicvista", samples=447),
    _benchmark("MMMU", "mmmu", "mmmudevval", "mmmuval", samples=900, split="val"),
    _benchmark(
        "MMMU-Pro",
        *("mmmupro", "mmmupro10c", "mmmuprov", "mmmupro10ccot", "mmmuprovcot"),
        samples=1730,
        obstacle="the paper does not say whether it is of the standard questions with ten "
        "options, of those in pictures, or the mean of both",
    ),
)
BENCHMARKS = (*_AGENTS, *_VIDEOS, *_MATHEMATICS)

BASE_7B = "Qwen2.5-VL-7B-Instruct"
BASE_32B = "Qwen2.5-VL-32B-Instruct"

NO_REPLAY = ReplayConfig(Method.NONE)
STATE = ReplayConfig.paper(Method.STATE)
TOKEN = ReplayConfig.paper(Method.TOKEN)
TOKEN_24 = ReplayConfig.paper(Method.TOKEN, replay_layers=24)
PAPER_REPLAY: Mapping[str, ReplayConfig] = {
    "DeepEyes-7B": STATE,
    "Video-R1-7B": STATE,
    "MM-Eureka-Qwen-7B": TOKEN,
    "VL-Rethinker-7B": TOKEN_24,
    "MMR1-Math-v0-7B": TOKEN,
    "MM-Eureka-Qwen-32B": TOKEN,
}
"""The replay of each policy's main row; L is 24 for VL-Rethinker-7B, 16 for MM-Eureka-Qwen-7B."""

CONDITIONS: Mapping[str, Conditions] = {
    "DeepEyes-7B": Conditions(1.05, 8192, turns=11),
    "Video-R1-7B": Conditions(1.05, 2048, frame_pixels=(100_352, 200_704), frames=16),
    "MM-Eureka-Qwen-7B": Conditions(1.0, 2048, image_pixels=(3_136, 501_760)),
    "VL-Rethinker-7B": Conditions(1.0, 2048, image_pixels=(200_704, 1_003_520)),
    "MMR1-Math-v0-7B": Conditions(1.0, 2048),
    "MM-Eureka-Qwen-32B": Conditions(1.0, 2048),
}
"""The conditions of all figures of a policy."""

_UNPUBLISHED_LAYERS = ("MMR1-Math-v0-7B", "MM-Eureka-Qwen-32B")
"""The policies whose L is not published."""

_UNKNOWN_LIMITS = "its entropy limits are not published"
_UNKNOWN_BASE = "how the base was asked (prompt, tools, decoding) is not published"
_HEADLINE = ReplayConfig.paper(Method.TOKEN, tau=0.2, learning_rate=40.0)
"""The settings behind MM-Eureka-Qwen-7B's figure on MathVerse, by the paper's Table 5."""

_MAIN: tuple[tuple[str, str, str | None, tuple[Benchmark, ...], str, str], ...] = (
    ("Agents", BASE_7B, None, _AGENTS, "52.2 51.8 72.0 67.9", ""),
    ("Videos", BASE_7B, None, _VIDEOS, "47.4 48.4 50.1 27.8", ""),
    ("Table 2, mathematics", BASE_7B, None, _MATHEMATICS,
     "41.1 25.5 69.1 53.2 24.5 35.6 58.6 38.3", ""),
    ("Agents", "DeepEyes-7B", "deepeyes", _AGENTS,
     "53.7 53.5 82.1 75.4", "56.3 53.8 84.7 75.9"),
    ("Videos", "Video-R1-7B", "video-r1", _VIDEOS,
     "49.8 55.7 64.2 36.5", "53.8 57.4 65.0 40.9"),
    ("Table 2, mathematics", "MM-Eureka-Qwen-7B", "boxed", _MATHEMATICS,
     "45.1 30.6 73.0 51.8 36.8 49.2 58.7 39.5", "47.7 31.5 73.5 52.4 38.0 51.0 62.0 40.0"),
    ("Table 2, mathematics", "VL-Rethinker-7B", "boxed", _MATHEMATICS,
     "47.0 30.3 72.0 54.7 34.8 46.1 58.7 41.7", "49.2 33.2 72.4 54.9 36.7 49.7 60.0 42.7"),
    ("Table 2, mathematics", "MMR1-Math-v0-7B", "boxed", _MATHEMATICS,
     "41.1 32.6 71.0 53.8 40.7 43.6 56.7 41.3", "43.3 33.9 71.9 54.2 41.8 44.5 58.7 41.3"),
    ("Table 2, mathematics", "MM-Eureka-Qwen-32B", "boxed", _MATHEMATICS,
     "50.5 35.2 72.1 62.1 36.9 52.8 59.3 49.6", "52.4 35.5 74.0 61.8 37.6 54.6 63.2 51.0"),
)  # fmt: skip
"""Table, policy, protocol, columns, and the figures without and with replay."""

_TABLE_1 = (
    ("MM-Eureka-Qwen-7B", Side.LOW, (45.1, 31.6, 36.6)),
    ("MM-Eureka-Qwen-7B", Side.HIGH, (42.1, 27.6, 32.8)),
    ("VL-Rethinker-7B", Side.LOW, (47.5, 33.5, 35.3)),
    ("VL-Rethinker-7B", Side.HIGH, (44.4, 29.7, 34.3)),
)
"""State replay on MathVerse(VO), MathVision and WeMath."""

_TABLE_5 = (
    ("MMR1-Math-v0-7B", 0.4, (43.3, 41.8, 42.1)),
    ("MMR1-Math-v0-7B", 0.2, (42.3, 42.5, 40.7)),
    ("MM-Eureka-Qwen-7B", 0.4, (47.1, 47.5, 46.5)),
    ("MM-Eureka-Qwen-7B", 0.2, (45.4, 46.1, 47.7)),
)
"""MathVerse(VO) by tau, at the rates 10, 20 and 40."""

REMARKS = (
    "Table 2's figure for MM-Eureka-Qwen-7B on MathVerse(VO), 47.7, is the cell of Table 5 at tau "
    "0.2 and rate 40; at tau 0.4 and rate 10, the settings of the other figures, it is 47.1.",
    "Three gains that Tables 2 to 4 print (0.6, 0.8 and 3.8) are 0.4, 0.6 and 3.6 by the figures "
    "of their own rows. Tables here hold those figures.",
    "The paper's radar chart has 49.9 where Table 2 has 49.2: VL-Rethinker-7B with replay on "
    "MathVerse(VO).",
    "Four figures of Qwen2.5-VL-7B-Instruct (VideoMMMU 47.4, MMVU 50.1, MMMU 58.6, MMMU-Pro 38.3) "
    "are those of the model's own report (arXiv 2502.13923), where 50.1 is of all questions of "
    "MMVU's validation set.",
    "Table 2 has figures of two closed models too, whose columns MMMU and MMMU-Pro look exchanged.",
    "The number of layers L is published for MM-Eureka-Qwen-7B (16) and VL-Rethinker-7B (24).",
)
"""What is inconsistent or open in the published figures."""


def _figures() -> list[PublishedFigure]:
    result: list[PublishedFigure] = []

    def add(
        table: str,
        policy: str,
        protocol: str | None,
        benchmark: Benchmark,
        percent: float,
        replay: ReplayConfig,
        obstacle: str | None = None,
    ) -> None:
        base = BASE_32B if policy.endswith("32B") else BASE_7B
        layers = {"replay_layers"} if policy in _UNPUBLISHED_LAYERS else ()
        result.append(
            PublishedFigure(
                *(table, policy, base, protocol, benchmark, percent, replay),
                conditions=CONDITIONS.get(policy),
                unpublished=frozenset(layers),
                obstacle=obstacle,
            )
        )

    by_label = {benchmark.label: benchmark for benchmark in BENCHMARKS}
    mathverse = by_label["MathVerse(VO)"]
    for table, policy, protocol, columns, plain, replayed in _MAIN:
        for benchmark, percent in zip(columns, plain.split(), strict=True):
            obstacle = _UNKNOWN_BASE if policy == BASE_7B else None
            add(table, policy, protocol, benchmark, float(percent), NO_REPLAY, obstacle)
        for benchmark, percent in zip(columns, replayed.split(), strict=False):
            is_headline = policy == "MM-Eureka-Qwen-7B" and benchmark == mathverse
            replay = _HEADLINE if is_headline else PAPER_REPLAY[policy]
            add(table, policy, protocol, benchmark, float(percent), replay)
    for policy, side, cells in _TABLE_1:
        replay = ReplayConfig.paper(Method.STATE, side=side)
        for label, figure in zip(("MathVerse(VO)", "MathVision", "WeMath"), cells, strict=True):
            add("Table 1", policy, "boxed", by_label[label], figure, replay, _UNKNOWN_LIMITS)
    for policy, tau, cells in _TABLE_5:
        for rate, figure in zip((10.0, 20.0, 40.0), cells, strict=True):
            replay = ReplayConfig.paper(Method.TOKEN, tau=tau, learning_rate=rate)
            add("Table 5", policy, "boxed", mathverse, figure, replay)
    return result


def paper_replay(policy: str) -> ReplayConfig:
    """Return the settings of a policy's main row.

    Args:
        policy: Folder or hub id of the policy.

    Raises:
        ValueError: The paper has no row of this policy.
    """
    for name, replay in PAPER_REPLAY.items():
        if same_name(name, policy):
            return replay
    raise ValueError(
        f"the paper has no row of {policy!r}; it has rows of {', '.join(PAPER_REPLAY)}, which are "
        "known by the last part of the policy's path"
    )


def same_name(name: str, model: str) -> bool:
    """Tell whether a folder or hub id ends in a model's name; only letters and digits count."""
    return simplify(name) == simplify(Path(model).name)


def simplify(name: str) -> str:
    """Reduce a name to its letters and digits, in lower case."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


FIGURES = tuple(_figures())
"""All figures, table by table."""
