"""The lines of `benchmarks/latest.json`: ratios of two series of measurements."""

import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

OUT = Path(__file__).parent / "latest.json"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: What was measured.
        ratio: Reference / ours, unless the name says otherwise.
        low: Smallest ratio that the repeats allow.
        high: Largest.
        target: What is aimed at; None for a row that is only for information.
        at_most: Whether the target is an upper bound.
        note: Absolute values.
        runs: How often it was timed; None for what is counted instead.
    """

    name: str
    ratio: float
    low: float
    high: float
    target: float | None
    at_most: bool = False
    note: str = ""
    runs: int | None = None

    @classmethod
    def of(
        cls,
        name: str,
        above: Sequence[float],
        below: Sequence[float],
        target: float | None,
        unit: str = "s",
        at_most: bool = False,
    ) -> "Row":
        """The row of two series of measurements."""
        upper, lower = statistics.median(above), statistics.median(below)
        return cls(
            name,
            upper / lower,
            min(above) / max(below),
            max(above) / min(below),
            target,
            at_most,
            f"{_short(upper)} {unit} / {_short(lower)} {unit}",
            len(above),
        )

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached, if there is one."""
        if self.target is None:
            return None
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target

    def as_json(self) -> dict[str, Any]:
        """The line of `latest.json`."""
        numbers = {key: round(getattr(self, key), 4) for key in ("ratio", "low", "high")}
        rest = {
            "target": self.target,
            "at_most": self.at_most,
            "note": self.note,
            "runs": self.runs,
        }
        return {"name": self.name, **numbers, **rest}


def _short(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{float(f'{value:.3g}'):,.12g}"


def timed(work: Callable[[], Any]) -> float:
    """Seconds that something takes."""
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def table(rows: Sequence[Row]) -> Table:
    """What is printed."""
    printed = Table("what", "ratio", "spread", "target", "", "medians")
    for row in rows:
        sign = "<=" if row.at_most else ">="
        target = "-" if row.target is None else f"{sign} {row.target:g}"
        mark = {True: "[green]reached[/]", False: "[red]missed[/]", None: ""}[row.reached]
        spread = f"{row.low:.3g} to {row.high:.3g}"
        printed.add_row(row.name, f"{row.ratio:.3g}", spread, target, mark, row.note)
    return printed


def write(rows: Sequence[Row]) -> None:
    """Put the rows in `latest.json`, in the place of their predecessors."""
    old = json.loads(OUT.read_text("utf-8")) if OUT.exists() else []
    lines = {line["name"]: line for line in [*old, *(row.as_json() for row in rows)]}
    OUT.write_text(json.dumps(list(lines.values()), indent=1) + "\n", "utf-8")
