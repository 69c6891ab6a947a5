"""Tables of runs: the layout of the paper, all metrics of each run, and the paper's own figures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from visreplay.tasks.evaluation.paper import FIGURES, REMARKS, PublishedFigure
from visreplay.tasks.evaluation.reproduction import (
    benchmark_of,
    closest_figure,
    differences,
    published_part,
)
from visreplay.tasks.evaluation.runs import Run
from visreplay.tasks.evaluation.summary import by_category, summarise

LONG_WORD = 30
"""Words that are longer may be broken in a table."""


def counted(number: int, noun: str) -> str:
    """Write a number of things.

    Examples:
        >>> counted(1, "error"), counted(2, "error")
        ('1 error', '2 errors')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class TextTable:
    """A table of texts.

    Attributes:
        title: The line above the table.
        headings: The headings of the columns.
        rows: The cells, as many in each row as there are headings.
        notes: Lines below the table.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def show(self, console: Console, *, markdown: bool = False) -> None:
        """Print the table, as text or as Markdown."""
        if markdown:
            rule = ["---"] * len(self.headings)
            rows = [[_markdown(cell) for cell in row] for row in (self.headings, *self.rows)]
            lines = [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]
            texts = (self.title, *self.notes)
            title, *notes = (_markdown(text, line_breaks=True) for text in texts)
            text = "\n".join([f"{title}\n", *lines, *(f"\n{note}" for note in notes)])
            console.print(f"{text}\n", markup=False, soft_wrap=True)
            return
        # Rich would fold a table's own title to the width of the table.
        console.print(self.title, style="italic", markup=False, soft_wrap=True)
        for columns in self._parts(console.width):
            table = Table(box=box.SIMPLE_HEAD)
            for column, width in zip(columns, self._widths(columns, console.width), strict=True):
                table.add_column(escape(self.headings[column]), overflow="fold", width=width)
            for row in self.rows:
                table.add_row(*(escape(row[column]) for column in columns))
            console.print(table)
        for note in self.notes:
            console.print(f" {note}", markup=False, soft_wrap=True)
        if self.notes:
            console.print()

    def _longest(self, column: int, *, words: bool) -> int:
        """Measure the longest line or word of a column."""
        texts = (self.headings[column], *(row[column] for row in self.rows))
        parts = (text.split() if words else text.splitlines() for text in texts)
        return max((cell_len(part) for each in parts for part in each), default=0)

    def _least(self, column: int) -> int:
        """Measure the width of a column in which only very long words are broken."""
        return min(self._longest(column, words=True), LONG_WORD)

    def _parts(self, width: int) -> list[list[int]]:
        """Divide the columns into parts that fit without breaking words; each has the first."""
        parts = [[0]]
        for column in range(1, len(self.headings)):
            needed = _table_width(map(self._least, [*parts[-1], column]))
            if needed > width and len(parts[-1]) > 1:
                parts.append([0])
            parts[-1].append(column)
        return parts

    def _widths(self, columns: Sequence[int], width: int) -> list[int | None]:
        """Choose the widths of columns: narrow ones grow first. None leaves a column to Rich."""
        # Rich breaks words in one column while another has room to spare.
        widths = [self._least(column) for column in columns]
        whole = [self._longest(column, words=False) for column in columns]
        if _table_width(widths) > width:
            return [None for _ in columns]
        while _table_width(widths) < width and widths != whole:
            growing = [n for n in range(len(widths)) if widths[n] < whole[n]]
            widths[min(growing, key=widths.__getitem__)] += 1
        return [*widths]


def _markdown(text: str, *, line_breaks: bool = False) -> str:
    """Write text so that Markdown shows it as it is: no column, no HTML, no link or picture.

    Args:
        text: The text of a cell, a title or a note, which may come from data or a model.
        line_breaks: Whether lines stay apart.
    """
    text = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    text = text.replace("](", "]\\(")
    return text if line_breaks else " ".join(text.splitlines())


def _table_width(widths: Iterable[int]) -> int:
    """Add three spaces between columns, and two at each side of the table."""
    columns = list(widths)
    return sum(columns) + 3 * len(columns) + 1


def tables(runs: Sequence[Run]) -> list[TextTable]:
    """Make the table in the paper's layout, then those of every run."""
    return [layout(runs), *(table for run in runs for table in details(run))]


def layout(runs: Sequence[Run]) -> TextTable:
    """Make a row for each system and a column for each benchmark.

    The paper's figure stands beside a run if the run is the one that the figure is of, with a note
    where a few answers are scored otherwise; beside any other run, a note says what is different.
    """
    columns: list[str] = []
    rows: dict[str, dict[str, str]] = {}
    notes: list[str] = []
    for run in runs:
        column, cell, note = _cell(run)
        if note is not None:
            if note not in notes:
                notes.append(note)
            cell += f" [{notes.index(note) + 1}]"
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
        [f"[{number}] {note}" for number, note in enumerate(notes, 1)],
    )


def _cell(run: Run) -> tuple[str, str, str | None]:
    """Make heading and cell of a run, and the note on a figure of the paper, if it needs one."""
    task = str(run.settings["task"])
    records, column = list(run.records.values()), task
    benchmark = benchmark_of(run.settings)
    if benchmark and (part := published_part(records, benchmark)):
        records, column = part, benchmark.label
    errors = sum(record["error"] is not None for record in records)
    if errors == len(records):
        return column, counted(errors, "error"), None
    summary = summarise(records, task=task)
    metric = summary.accuracy
    if benchmark and benchmark.score in summary.metrics:
        metric = summary.metrics[benchmark.score]
        if metric is not summary.accuracy:
            column += f", {benchmark.score}"
    cell = metric.percent
    if summary.rollouts > 1:
        cell += f", {summary.first}"
    if errors:
        cell += f", {counted(errors, 'error')}"
    figure = closest_figure(run, benchmark) if benchmark else None
    if figure is None:
        return column, cell, None
    if reasons := differences(run, figure):
        return column, cell, f"not the run of the paper's {figure.percent}: {'; '.join(reasons)}"
    note = figure.benchmark.remark and f"{figure.benchmark.label}: {figure.benchmark.remark}"
    return column, f"{cell}; paper {figure.percent}", note


def paper_tables() -> list[TextTable]:
    """Make the paper's tables, with remarks on what is inconsistent or open in them."""
    tables: dict[str, list[PublishedFigure]] = {}
    for figure in FIGURES:
        tables.setdefault(figure.table, []).append(figure)
    result = []
    for title, figures in tables.items():
        columns = list(dict.fromkeys(figure.benchmark.label for figure in figures))
        rows: dict[str, dict[str, str]] = {}
        for figure in figures:
            rows.setdefault(figure.system, {})[figure.benchmark.label] = str(figure.percent)
        lines = [[system, *(cells[each] for each in columns)] for system, cells in rows.items()]
        obstacles: dict[str, dict[str, None]] = {}
        for figure in figures:
            if figure.benchmark.obstacle:
                obstacles.setdefault(figure.benchmark.obstacle, {})[figure.benchmark.label] = None
            if figure.obstacle:
                whole = all(each.obstacle == figure.obstacle for each in figures)
                obstacles.setdefault(figure.obstacle, {})[title if whole else figure.system] = None
        notes = [
            f"Not comparable with any run, {' and '.join(names)}: {why}."
            for why, names in obstacles.items()
        ]
        result.append(TextTable(f"{title}, in %", ["system", *columns], lines, notes))
    result[-1] = replace(result[-1], notes=REMARKS)
    return result


def details(run: Run) -> list[TextTable]:
    """Make the table of all metrics of a run, and that of the main metrics by category."""
    rollouts = run.settings["rollouts"]
    records = list(run.records.values())
    title = (
        f"{run.name}: {run.system} on {run.settings['task']}, {counted(rollouts, 'rollout')} "
        "a sample, in % (95 % interval)"
    )
    errors = sum(record["error"] is not None for record in records)
    rows = [("samples", str(len(records) - errors)), ("errors", str(errors))]
    if len(records) == errors:
        return [TextTable(title, ("", "all"), rows)]
    with_cot = bool(run.settings.get("cot_checker"))
    everything = summarise(records, with_cot=with_cot, task=run.settings["task"])
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
