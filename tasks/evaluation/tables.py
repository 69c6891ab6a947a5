"""Tables of runs: the layout of the paper, and all metrics of each run."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from visreplay.tasks.evaluation.paper import Benchmark, benchmark_of, reported_accuracy
from visreplay.tasks.evaluation.runs import Run, SampleRecord
from visreplay.tasks.evaluation.summary import by_category, summarise


@dataclass(frozen=True)
class TextTable:
    """A table of texts.

    Attributes:
        title: The line above the table.
        headings: The headings of the columns.
        rows: The cells, as many in each row as there are headings.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def show(self, console: Console, *, markdown: bool = False) -> None:
        """Print the table, as text or as Markdown."""
        if markdown:
            lines = [self.headings, ["---"] * len(self.headings), *self.rows]
            cells = [
                [cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines
            ]
            print(f"{self.title}\n", *(f"| {' | '.join(line)} |" for line in cells), sep="\n")
            print()
            return
        # Rich would fold a table's own title to the width of the table.
        console.print(self.title, style="italic", markup=False, soft_wrap=True)
        table = Table(box=box.SIMPLE_HEAD)
        for heading in self.headings:
            table.add_column(escape(heading), overflow="fold")
        for row in self.rows:
            table.add_row(*map(escape, row))
        console.print(table)


def tables(runs: Sequence[Run]) -> list[TextTable]:
    """Make the table in the paper's layout, then those of every run."""
    return [layout(runs), *(table for run in runs for table in details(run))]


def layout(runs: Sequence[Run]) -> TextTable:
    """Make a row for each system and a column for each benchmark, beside the paper's accuracies."""
    columns: list[str] = []
    rows: dict[str, dict[str, str]] = {}
    for run in runs:
        column, cell = _cell(run)
        if column not in columns:
            columns.append(column)
        # Several runs of one system on one benchmark are distinguished by their folders.
        taken = column in rows.get(run.system, {})
        rows.setdefault(f"{run.system} ({run.name})" if taken else run.system, {})[column] = cell
    return TextTable(
        "accuracy in % (95 % interval), and the paper's",
        ["system", *columns],
        [
            [system, *(cells.get(column, "-") for column in columns)]
            for system, cells in rows.items()
        ],
    )


def _cell(run: Run) -> tuple[str, str]:
    """Make the heading and the cell of a run: its accuracy, and the paper's."""
    benchmark = benchmark_of(run.settings)
    records = list(run.records.values())
    column = str(run.settings["task"])
    if benchmark and (part := _part(records, benchmark)):
        records, column = part, benchmark.label
    if not any(record["error"] is None for record in records):
        return column, f"{len(records)} errors"
    summary = summarise(records)
    cell = summary.accuracy.percent
    if summary.errors:
        cell += f", {summary.errors} errors"
    if benchmark and column == benchmark.label:
        replayed = run.settings["replay"]["method"] != "none"
        reported = reported_accuracy(str(run.settings["policy"]), benchmark, replayed=replayed)
        cell += "" if reported is None else f"; paper {reported}"
    return column, cell


def _part(records: list[SampleRecord], benchmark: Benchmark) -> list[SampleRecord]:
    """Choose the records that the paper's accuracy is about."""
    if benchmark.category is None:
        return records
    return [each for each in records if benchmark.covers(each["category"] or "")]


def details(run: Run) -> list[TextTable]:
    """Make the table of all metrics of a run, and that of the main metrics by category."""
    rollouts = run.settings["rollouts"]
    records = list(run.records.values())
    title = (
        f"{run.name}: {run.system} on {run.settings['task']}, {rollouts} "
        f"rollout{'s' if rollouts > 1 else ''} a sample, in % (95 % interval)"
    )
    errors = sum(record["error"] is not None for record in records)
    rows = [("samples", str(len(records) - errors)), ("errors", str(errors))]
    if len(records) == errors:
        return [TextTable(title, ("", "all"), rows)]
    with_cot = bool(run.settings.get("cot_checker"))
    everything = summarise(records, with_cot=with_cot)
    rows += [(name, metric.percent) for name, metric in everything.metrics.items()]
    rows += [
        ("turns an episode", f"{everything.mean_steps:.2f}"),
        ("seconds a sample", f"{everything.seconds:.2f}"),
    ]
    result = [TextTable(title, ("", "all"), rows)]
    main = [everything.first, f"pass@{rollouts}", f"CoT-pass@{rollouts}"]
    main = [metric for metric in dict.fromkeys(main) if metric in everything.metrics]
    lines = []
    for name, part in by_category(records).items():
        errors = sum(record["error"] is not None for record in part)
        cells = [name, str(len(part) - errors), str(errors)]
        if len(part) == errors:
            lines.append([*cells, *("-" for _ in main)])
            continue
        summary = summarise(part, with_cot=with_cot)
        lines.append([*cells, *(summary.metrics[metric].percent for metric in main)])
    if lines:
        headings = ("category", "samples", "errors", *main)
        result.append(TextTable(f"{run.name}, by category", headings, lines))
    return result
