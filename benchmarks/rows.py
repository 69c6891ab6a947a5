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
        name: The name of the measurement.
        ratio: Reference / ours, unless the name says otherwise.
        low: The smallest ratio that the repeats allow.
        high: The largest ratio that the repeats allow.
        target: The ratio to reach; None for a row that is only information.
        at_most: Whether the target is an upper bound.
        note: The absolute values.
        runs: Number of timed runs; None for a row that is counted, not timed.
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
        """Make the row of two series of measurements."""
        upper, lower = statistics.median(above), statistics.median(below)
        return cls(
            name,
            upper / lower,
            min(above) / max(below),
            max(above) / min(below),
            target,
            at_most,
            f"{short(upper)} {unit} / {short(lower)} {unit}",
            len(above),
        )

    @property
    def reached(self) -> bool | None:
        """Tell whether the target is reached; None without a target."""
        if self.target is None:
            return None
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target

    def as_json(self) -> dict[str, Any]:
        """Make the entry in `latest.json`."""
        numbers = {key: round(getattr(self, key), 4) for key in ("ratio", "low", "high")}
        rest = {
            "target": self.target,
            "at_most": self.at_most,
            "note": self.note,
            "runs": self.runs,
        }
        return {"name": self.name, **numbers, **rest}


def short(value: float) -> str:
    """Write three digits, without an exponent."""
    return f"{float(f'{value:.3g}'):,.12g}"


class Kept:
    """A file of the measurements of a run, so that a stopped run can go on."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Read the file, if it was written with the same settings; else begin anew.

        Args:
            path: The file.
            settings: Whatever the measurements depend on, as JSON values.
        """
        self.path, self.settings = path, settings
        content = json.loads(path.read_text("utf-8")) if path.exists() else {}
        same = content.get("settings") == settings
        self.measured: dict[str, Any] = content["measured"] if same else {}

    def get(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return a measurement by its name; measure and write it if it is not there yet."""
        if name not in self.measured:
            self.measured[name] = measure()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            content = {"settings": self.settings, "measured": self.measured}
            self.path.write_text(json.dumps(content, indent=1), "utf-8")
        return self.measured[name]


def timed(work: Callable[[], Any]) -> float:
    """Measure the seconds of a function call."""
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def table(rows: Sequence[Row]) -> Table:
    """Make the table to print."""
    printed = Table("what", "ratio", "spread", "target", "", "amounts")
    for row in rows:
        sign = "<=" if row.at_most else ">="
        target = "-" if row.target is None else f"{sign} {row.target:g}"
        mark = {True: "[green]reached[/]", False: "[red]missed[/]", None: ""}[row.reached]
        spread = f"{row.low:.3g} to {row.high:.3g}"
        printed.add_row(row.name, f"{row.ratio:.3g}", spread, target, mark, row.note)
    return printed


def write(rows: Sequence[Row]) -> None:
    """Write the rows into `latest.json`; each replaces the row of the same name."""
    old = json.loads(OUT.read_text("utf-8")) if OUT.exists() else []
    lines = {line["name"]: line for line in [*old, *(row.as_json() for row in rows)]}
    OUT.write_text(json.dumps(list(lines.values()), indent=1) + "\n", "utf-8")
