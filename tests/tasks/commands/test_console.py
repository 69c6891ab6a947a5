"""No text of data or models steers the terminal, whichever command prints it."""

import io
import json
import re
from pathlib import Path

import pytest
import rich.console
import typer
from records import record, run_of
from rich.markup import escape
from rich.table import Table
from typer.testing import CliRunner

from visreplay.tasks import commands
from visreplay.tasks.commands.cli import app
from visreplay.tasks.commands.console import (
    Console,
    errors_in_one_line,
    json_line,
    print_step,
    printable,
)
from visreplay.tasks.evaluation.tables import TextTable

TITLE, CLEAR, C1, RTL, HALF = "\x1b]0;owned\x07", "\x1b[2J", "\x9b2J", "\u202egpj", "\ud800"
EVIL = f"a{TITLE}{CLEAR}{C1}{RTL}{HALF}\x08\x7f\rz"
SPELT = r"a\x1b]0;owned\x07\x1b[2J\x9b2J\u202egpj\ud800\x08\x7f\x0dz"


def printed(*, colours: bool = False) -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=colours, highlight=False)


def text_of(console: rich.console.Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_character_is_shown_and_none_obeyed() -> None:
    assert printable(EVIL) == SPELT
    assert printable("ä\u4e2d\U0001f600\n\ttext\r\n") == "ä\u4e2d\U0001f600\n\ttext\n"
    assert printable("e\u0301 \u200d \u05d0") == "e\u0301 \u200d \u05d0"  # letters of all languages


def test_a_console_prints_text_wherever_it_stands() -> None:
    console = printed()
    console.print(EVIL, markup=False, soft_wrap=True)
    console.print(f"[bold]{escape(EVIL)}[/]", soft_wrap=True)
    console.rule(f"[bold]{escape(EVIL)}")
    table = Table(EVIL)
    table.add_row(escape(EVIL))
    console.print(table)
    assert text_of(console).count(SPELT) == 5
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800]", text_of(console))


def test_styles_are_the_console_s_own() -> None:
    console = printed(colours=True)
    console.print(f"[red]{escape(EVIL)}[/]", soft_wrap=True)
    assert text_of(console) == f"\x1b[31m{SPELT}\x1b[0m\n"


def test_codes_of_emoji_stay_text() -> None:
    console = printed()
    console.print(":warning: :smile:", markup=False)
    assert text_of(console) == ":warning: :smile:\n"


def test_steps_errors_and_json() -> None:
    console = printed()
    use = {"name": EVIL, "arguments": {EVIL: EVIL}, "error": EVIL, "observation": None}
    step = {
        "index": 0, "text": "", "thought": EVIL, "tool_calls": [use], "error": EVIL,
        "replay": None, "seconds": 0.0,
    }  # fmt: skip
    print_step(console, step)  # type: ignore[arg-type]
    assert "\x1b" not in text_of(console) and text_of(console).count(SPELT) == 4
    line = json_line({EVIL: EVIL})
    assert json.loads(line) == {EVIL: EVIL}
    assert line.isprintable()


def test_errors_are_one_line_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (ValueError(EVIL), OSError(5, "Input/output error", EVIL), RecursionError(EVIL)):
        with pytest.raises(typer.Exit), errors_in_one_line():
            raise error
        line = capsys.readouterr().err
        assert line.startswith("error: ") and line.count("\n") == 1 and "\x1b" not in line


@pytest.mark.parametrize("more", [[], ["--markdown"]])
def test_tables_and_comparisons(tmp_path: Path, more: list[str]) -> None:
    records = [
        record("1", True, category=EVIL),
        record(EVIL, True, category="a|b<script>\nx", group=EVIL),
        record("3", error=EVIL, category=EVIL),
    ]
    run_of(tmp_path / "one", *records, policy=EVIL, task=EVIL)
    run_of(tmp_path / "two", *records[1:], policy=EVIL, task=EVIL, protocol=EVIL)
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    for command in (["table", one, two, "--allow-errors"], ["compare", one, two]):
        result = CliRunner().invoke(app, [*command, *more])
        assert result.exit_code == 0, result.output
        assert r"\x1b" in result.stdout
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800]", result.output)


def test_markdown_shows_cells_as_they_are() -> None:
    console = printed()
    odd = [
        "a|b",
        "<script></script>",
        "two\nlines\r\nmore\u2028end",
        r"back\slash|",
        "![x](y)",
    ]
    TextTable("<b>title|", ["h|1", "2", "3", "4", "5"], [odd], ["<i>note"]).show(
        console, markdown=True
    )
    title, _, headings, rule, row, _, note, *_ = text_of(console).splitlines()
    assert (title, note) == (r"&lt;b>title\|", "&lt;i>note")
    assert headings == r"| h\|1 | 2 | 3 | 4 | 5 |"
    assert rule == "| --- | --- | --- | --- | --- |"
    assert row == (
        r"| a\|b | &lt;script>&lt;/script> | two lines more end | back\\slash\| | ![x]\(y) |"
    )


def test_every_command_prints_through_this_console() -> None:
    for file in Path(commands.__path__[0]).glob("*.py"):
        code = file.read_text("utf-8")
        assert "from rich.console import" not in code, file
        for line in re.findall(r"(?<![.\w])print\(.*", code):
            # Versions, the tasks of the package, and JSON that is spelt out.
            assert re.match(r"print\((f\"visreplay |json\.dumps\(\[asdict|json_line\()", line), line
