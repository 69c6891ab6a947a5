import io
from pathlib import Path
from typing import Any

from played import ShadeTask

from visreplay.tasks.commands.console import Console
from visreplay.tasks.commands.sample_runs import measure_samples
from visreplay.tasks.evaluation.journal import Journal


def test_a_damaged_measurement_is_told_and_made_again(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    task = ShadeTask()

    def measure(ids: list[str]) -> tuple[list[dict[str, Any]], str]:
        console = Console(file=io.StringIO(), width=200)
        with Journal(path, {"tau": 0.4}) as journal:
            results = measure_samples(journal, task, ids, console, lambda n, _: {"kl": n})
        assert isinstance(console.file, io.StringIO)
        return results, console.file.getvalue()

    whole, told = measure(task.sample_ids())
    assert "damaged" not in told
    settings, _, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(settings + b"garbage\n" + second)
    again, told = measure(task.sample_ids())
    assert again == whole
    assert "1 damaged line of" in told and "measured again" in told
