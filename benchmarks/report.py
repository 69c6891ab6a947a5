"""Write the measured numbers into README and docs: `python benchmarks/report.py`.

Reads `latest.json` (of `speed.py`), `embedded_pair.json` (of `measure.py`) and `gpu.json` (of
`gpu.py`), and replaces the tables between `<!-- NAME -->` and `<!-- end -->`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGES = (HERE.parent / "README.md", HERE.parent / "docs" / "measurements.md")
MAIN = ("base", "policy", "policy+token", "policy+state")
README_TASK = "visual-search-hard"
"""The one task that the policy does not solve already; `docs/measurements.md` has all tasks."""

Rows = list[dict[str, Any]]


def main() -> None:
    """Fill every table of every page."""
    speed, pair, gpu = (
        json.loads((HERE / name).read_text("utf-8"))
        for name in ("latest.json", "embedded_pair.json", "gpu.json")
    )
    tables: dict[str, Callable[[], str]] = {
        "costs": lambda: speed_table(row for row in speed if is_cost(row)),
        "divergence": lambda: speed_table(row for row in speed if is_divergence(row)),
        "speed": lambda: speed_table(
            row for row in speed if not is_cost(row) and not is_divergence(row)
        ),
        "gpu": lambda: gpu_table(gpu),
        "systems": lambda: systems_table(pair),
        "ablations": lambda: ablations_table(pair),
    }
    fill(PAGES, tables)


def fill(pages: Iterable[Path], tables: Mapping[str, Callable[[], str]]) -> None:
    """Replace the tables between `<!-- NAME -->` and `<!-- end -->`.

    Raises:
        SystemExit: No page has a place for a table.
    """
    filled: list[str] = []
    for page in pages:
        text = page.read_text("utf-8")
        for name, table in tables.items():
            pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
            text, count = re.subn(
                pattern, lambda m, t=table: f"{m[1]}{t()}{m[2]}", text, flags=re.S
            )
            filled += [name] * count
        page.write_text(text, "utf-8")
    if missing := set(tables).difference(filled):
        raise SystemExit(f"no page has a place for the tables {sorted(missing)}")


def is_cost(row: dict[str, Any]) -> bool:
    """Tell whether a row is one of `costs.py`."""
    return str(row["name"]).startswith("FLOPs at ")


def is_divergence(row: dict[str, Any]) -> bool:
    """Tell whether a row is one of `divergence.py`."""
    return "divergence" in row["name"] and str(row["name"]).endswith("embedded pair")


def speed_table(rows: Iterable[dict[str, Any]]) -> str:
    """Make a table of rows of `make bench`."""
    lines = []
    for row in rows:
        sign = "at most" if row["at_most"] else "at least"
        target = "-" if row["target"] is None else f"{sign} {row['target']:g}"
        spread = f"{row['low']:.3g} to {row['high']:.3g}"
        if row["low"] == row["high"]:
            spread = "counted" if row["runs"] is None else "one run"
        lines.append((row["name"], f"{row['ratio']:.3g}", spread, target, row["note"]))
    return markdown(("what", "figure", "spread", "target", "amounts"), lines)


def gpu_table(parts: Rows) -> str:
    """Make a table of the parts of a report of `gpu.py`, without the names of the kernels."""
    lines = []
    for part in parts:
        rest = (
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in part.items()
            if name not in ("what", "kernels")
        )
        lines.append((str(part["what"]), ", ".join(rest)))
    return markdown(("what", "figures"), lines)


def systems_table(rows: Rows) -> str:
    """Make the table of base, policy and the two methods on README's task."""
    chosen = (row for row in rows if row["system"] in MAIN and row["task"] == README_TASK)
    return accuracy_table(chosen)


def ablations_table(rows: Rows) -> str:
    """Make the table of all systems, with their differences from the plain model."""
    return accuracy_table(rows, differences=True)


def accuracy_table(rows: Iterable[dict[str, Any]], differences: bool = False) -> str:
    """Make a row for every system and task, in the order of the tasks."""
    headings = ["task", "system", "greedy", "pass@1", "pass@8"]
    headings += ["pass@1 difference", "pass@8 difference"] if differences else []
    lines = []
    for row in sorted(rows, key=lambda row: str(row["task"])):
        keys = [
            heading for heading in headings if heading in row and heading not in ("task", "system")
        ]
        divergence = "-"
        if row["kl_before"] is not None:
            divergence = f"{row['kl_before']:.5f} -> {row['kl_after']:.5f}"
        same = row["system"] == row["compared_with"]
        cells = ["-" if same and "difference" in key else estimate(row[key]) for key in keys]
        lines.append((row["task"], row["system"], *cells, divergence))
    return markdown((*headings, "KL before -> after"), lines)


def estimate(measured: dict[str, Any]) -> str:
    """Write a number with its interval."""
    low, high = measured["interval"]
    return f"{measured['value']:.3f} ({low:.3f} to {high:.3f})"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
