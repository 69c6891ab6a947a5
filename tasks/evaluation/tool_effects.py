"""What tools changed: the same samples without and with tools, each without and with replay.

Gain and harm of tools, and their parts with and without a call, are those of arXiv 2602.01334
("Measure" and "Explain"). The cross with replay, the interaction and all intervals are this
project's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from visreplay.agent.protocols.turns import NOTHING_TO_CALL
from visreplay.tasks.evaluation.comparison import paired_samples
from visreplay.tasks.evaluation.runs import Run, SampleRecord
from visreplay.tasks.evaluation.summary import groups_of, pass_rates, summarise
from visreplay.tasks.evaluation.tables import TextTable, counted
from visreplay.tasks.statistics import Estimate, Floats, estimates

INTERACTION = (-2.0, 2.0)
"""The bounds of a difference of differences of shares."""


@dataclass(frozen=True)
class ToolChange:
    """What tools changed under one method of replay.

    A sample with several rollouts is right, or calls a tool, if most of its rollouts do.

    Attributes:
        method: The method of replay; "none" for the plain policy.
        without: The accuracy without tools.
        with_tools: The accuracy with tools.
        difference: The accuracy with tools less that without them.
        gain: The share of samples that are right with tools only.
        harm: The share of samples that are right without tools only.
        transitions: The ids of the samples, by what happened to them: "right both ways", "gain",
            "harm" and "wrong both ways".
        called: The ids of the samples in which the policy called a tool, where it was offered some.
        calls: Mean number of calls in an episode with tools, failed ones included.
        calls_for_nothing: Mean number of turns in an episode without tools that tried to call one.
    """

    method: str
    without: Estimate
    with_tools: Estimate
    difference: Estimate
    gain: Estimate
    harm: Estimate
    transitions: Mapping[str, list[str]]
    called: list[str]
    calls: float
    calls_for_nothing: float

    @property
    def name(self) -> str:
        """The name of the row."""
        return "no replay" if self.method == "none" else f"{self.method} replay"


@dataclass(frozen=True)
class ToolEffects:
    """What tools changed, without and with replay.

    Attributes:
        task: The task.
        samples: The ids of the samples that all runs have scored.
        left_out: Number of samples that some run has not scored.
        rows: What tools changed: for the plain policy, and then under replay.
        replay: What replay changed without tools, and with tools; None for a single row.
        interaction: What tools changed more under replay than for the plain policy; None for a
            single row.
    """

    task: str
    samples: list[str]
    left_out: int
    rows: Sequence[ToolChange]
    replay: tuple[Estimate, Estimate] | None
    interaction: Estimate | None

    @property
    def warnings(self) -> list[str]:
        """What makes the table say less than it seems to."""
        lines = []
        for row in self.rows:
            if not row.calls:
                lines.append(
                    f"{row.name}: the policy never called a tool, so that all that tools changed "
                    "here is what describing them to it changed"
                )
            if row.calls_for_nothing:
                lines.append(
                    f"{row.name}: without tools, the policy tried to call one all the same, in "
                    f"{row.calls_for_nothing:.2f} turns an episode; such a turn is an error, and "
                    "no answer"
                )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON values, with the ids of all samples."""
        return {**asdict(self), "warnings": self.warnings}


def tool_effects(runs: Sequence[tuple[Run, Run]]) -> ToolEffects:
    """Compare runs without and with tools.

    Args:
        runs: A run without and one with tools: of the plain policy, and perhaps of replay.

    Raises:
        ValueError: The runs are of different tasks or data, or have no scored sample in common.
    """
    cells = [run for row in runs for run in row]
    samples = paired_samples(cells)
    records = [[run.records[each] for each in samples] for run in cells]
    rates = [pass_rates(each, 1) for each in records]
    groups = groups_of(records[0])
    rows = []
    for row, (run, _) in enumerate(runs):
        pair = slice(2 * row, 2 * row + 2)
        rows.append(
            _change(run.settings["replay"]["method"], samples, records[pair], rates[pair], groups)
        )
    replay, interaction = None, None
    if len(rows) > 1:
        plain_without, plain_with, replay_without, replay_with = rates
        changes = np.stack([replay_without - plain_without, replay_with - plain_with], axis=1)
        without, with_tools = estimates(changes, groups, bounds=(-1.0, 1.0))
        replay = without, with_tools
        (interaction,) = estimates(changes[:, 1:] - changes[:, :1], groups, bounds=INTERACTION)
    played = {each for run in cells for each in run.records}
    return ToolEffects(
        task=str(cells[0].settings["task"]),
        samples=samples,
        left_out=len(played) - len(samples),
        rows=rows,
        replay=replay,
        interaction=interaction,
    )


def _change(
    method: str,
    samples: Sequence[str],
    records: Sequence[Sequence[SampleRecord]],
    rates: Sequence[Floats],
    groups: Sequence[str] | None,
) -> ToolChange:
    """Compare two runs of the same samples, without and with tools."""
    right, right_with = (rate > 0.5 for rate in rates)
    gain, harm = right_with & ~right, right & ~right_with
    kinds = {
        "right both ways": right & right_with,
        "gain": gain,
        "harm": harm,
        "wrong both ways": ~right & ~right_with,
    }
    (difference,) = estimates((rates[1] - rates[0])[:, None], groups, bounds=(-1.0, 1.0))
    gain_share, harm_share = estimates(np.stack([gain, harm], axis=1).astype(float), groups)
    return ToolChange(
        method=str(method),
        without=summarise(records[0]).accuracy,
        with_tools=summarise(records[1]).accuracy,
        difference=difference,
        gain=gain_share,
        harm=harm_share,
        transitions={name: _chosen(samples, mask) for name, mask in kinds.items()},
        called=[
            each["sample_id"]
            for each in records[1]
            if fmean(bool(calls) for calls in _calls(each)) > 0.5
        ],
        calls=fmean(calls for each in records[1] for calls in _calls(each)),
        calls_for_nothing=fmean(turns for each in records[0] for turns in _refused_turns(each)),
    )


def _chosen(samples: Sequence[str], mask: Iterable[Any]) -> list[str]:
    return [sample for sample, is_one in zip(samples, mask, strict=True) if is_one]


def _calls(record: SampleRecord) -> list[int]:
    """Count the calls in each rollout of a sample."""
    return [
        sum(len(step["tool_calls"]) for step in rollout["trajectory"]["steps"])
        for rollout in record["rollouts"]
    ]


def _refused_turns(record: SampleRecord) -> list[int]:
    """Count the turns of each rollout that called a tool where none was offered."""
    return [
        sum(step["error"] == NOTHING_TO_CALL for step in rollout["trajectory"]["steps"])
        for rollout in record["rollouts"]
    ]


def effect_tables(effects: ToolEffects) -> list[TextTable]:
    """Make the table of accuracies, and that of what happened to the samples."""
    rows = [
        [row.name, row.without.percent, row.with_tools.percent, row.difference.percent]
        for row in effects.rows
    ]
    notes = []
    if effects.replay is not None and effects.interaction is not None:
        names = [row.name for row in effects.rows]
        cells = [each.percent for each in (*effects.replay, effects.interaction)]
        rows.append([f"{names[1]} - {names[0]}", *cells])
        notes.append("Last row and column: differences on the same samples, and of differences.")
    if effects.left_out:
        notes.append(f"Left out: {counted(effects.left_out, 'sample')} not scored in every run.")
    return [
        TextTable(
            f"{counted(len(effects.samples), 'sample')} of {effects.task}, accuracy in % "
            "(95 % interval)",
            ["", "without tools", "with tools", "with - without"],
            rows,
            notes,
        ),
        _transitions(effects),
    ]


def _transitions(effects: ToolEffects) -> TextTable:
    """Make the table of transitions: a column for each row of the table of accuracies."""
    shares = {"gain": "right with tools only", "harm": "right without tools only"}
    lines = []
    for kind in effects.rows[0].transitions:
        cells = []
        for row in effects.rows:
            ids = row.transitions[kind]
            cells.append(f"{len(ids)} ({len(set(ids) & set(row.called))} with a call)")
        lines.append([f"{kind}: {shares[kind]}" if kind in shares else kind, *cells])
    for kind in shares:
        lines.append([f"{kind}, in %", *(getattr(row, kind).percent for row in effects.rows)])
    lines.append(["calls an episode", *(f"{row.calls:.2f}" for row in effects.rows)])
    lines.append(
        [
            "calls tried an episode, without tools",
            *(f"{row.calls_for_nothing:.2f}" for row in effects.rows),
        ]
    )
    return TextTable(
        "what tools changed, in samples; gain and harm also in % (95 % interval)",
        ["", *(row.name for row in effects.rows)],
        lines,
    )
