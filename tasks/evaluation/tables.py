"""The command `visreplay table`: runs as the paper's table has them, and all of their figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from visreplay.tasks.evaluation.evaluate import by_category, summarise
from visreplay.tasks.evaluation.paper import Benchmark, benchmark_of, figure
from visreplay.tasks.evaluation.runs import Record, Run


@dataclass(frozen=True)
class TextTable:
    """A table of texts.

    Attributes:
        title: What stands above it.
        headings: Of the columns.
        rows: Cells, as many as there are headings.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def show(self, console: Console, *, markdown: bool = False) -> None:
        """Print it."""
        if markdown:
            lines = [self.headings, ["---"] * len(self.headings), *self.rows]
            cells = [
                [cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines
            ]
            print(f"{self.title}\n", *(f"| {' | '.join(line)} |" for line in cells), sep="\n")
            print()
            return
        # A table's own title would be folded to the table's width.
        console.print(self.title, style="italic", markup=False, soft_wrap=True)
        table = Table(box=box.SIMPLE_HEAD)
        for heading in self.headings:
            table.add_column(escape(heading), overflow="fold")
        for row in self.rows:
            table.add_row(*map(escape, row))
        console.print(table)


def tables(runs: Sequence[Run]) -> list[TextTable]:
    """The paper's layout, then the figures of every run."""
    return [layout(runs), *(grid for run in runs for grid in details(run))]


def layout(runs: Sequence[Run]) -> TextTable:
    """A row a system, a column a benchmark; ours, and the paper's where it reports one."""
    columns: list[str] = []
    rows: dict[str, dict[str, str]] = {}
    for run in runs:
        column, cell = _cell(run)
        if column not in columns:
            columns.append(column)
        # Runs of one system on one benchmark, with other settings: told apart by their folders.
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
    """A run's benchmark, and its accuracy beside the paper's."""
    benchmark = benchmark_of(run.settings)
    records = list(run.records.values())
    column = str(run.settings["task"])
    if benchmark and (part := _part(records, benchmark)):
        records, column = part, benchmark.label
    if not any(record["error"] is None for record in records):
        return column, f"{len(records)} errors"
    found = summarise(records)
    cell = found.accuracy.percent
    if found.errors:
        cell += f", {found.errors} errors"
    if benchmark and column == benchmark.label:
        replayed = run.settings["replay"]["method"] != "none"
        known = figure(str(run.settings["policy"]), benchmark, replayed=replayed)
        cell += "" if known is None else f"; paper {known}"
    return column, cell


def _part(records: list[Record], benchmark: Benchmark) -> list[Record]:
    """The records that the paper's figure is about."""
    if benchmark.category is None:
        return records
    return [each for each in records if benchmark.covers(each["category"] or "")]


def details(run: Run) -> list[TextTable]:
    """All figures of a run, and the main ones of every category."""
    rollouts = run.settings["rollouts"]
    records = list(run.records.values())
    about = (
        f"{run.name}: {run.system} on {run.settings['task']}, {rollouts} "
        f"rollout{'s' if rollouts > 1 else ''} a sample, in % (95 % interval)"
    )
    errors = sum(record["error"] is not None for record in records)
    rows = [("samples", str(len(records) - errors)), ("errors", str(errors))]
    if len(records) == errors:
        return [TextTable(about, ("", "all"), rows)]
    with_cot = bool(run.settings.get("cot_checker"))
    everything = summarise(records, with_cot=with_cot)
    rows += [(name, found.percent) for name, found in everything.metrics.items()]
    rows += [
        ("turns an episode", f"{everything.mean_steps:.2f}"),
        ("seconds a sample", f"{everything.seconds:.2f}"),
    ]
    grids = [TextTable(about, ("", "all"), rows)]
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
        grids.append(TextTable(f"{run.name}, by category", headings, lines))
    return grids
