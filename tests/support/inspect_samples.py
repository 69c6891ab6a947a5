"""Samples of the embedded pair's task as Inspect has them, and its command on them."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from inspect_ai.log import EvalLog, read_eval_log

from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Sample
from visreplay.tools import load_image

TASKS = Path(__file__).parent.parent / "agent" / "inspect"
GAME = get_task("visual-search-medium")
SAMPLES = [GAME.load(sample_id) for sample_id in GAME.sample_ids()[:4]]


def data_uri(sample: Sample) -> str:
    """The picture of a sample, sent along."""
    buffer = io.BytesIO()
    load_image(sample.images[0]).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def row(sample: Sample) -> dict[str, Any]:
    """A sample as a row of Inspect's JSON."""
    content = [
        {"type": "image", "image": data_uri(sample)},
        {"type": "text", "text": sample.question},
    ]
    return {
        "id": sample.sample_id,
        "input": [{"role": "user", "content": content}],
        "target": sample.answer,
    }


def inspect_eval(folder: Path, tasks: str, *options: str) -> dict[str, EvalLog]:
    """Run the command `inspect eval` on the samples.

    Args:
        folder: Where samples and logs are written.
        tasks: A file of tasks in the folder of Inspect's tests, with or without "@" and a task.
        *options: Options of the command.

    Returns:
        The log of each task by its name.
    """
    data = folder / "samples.json"
    data.write_text(json.dumps([row(sample) for sample in SAMPLES]), "utf-8")
    command = [sys.executable, "-m", "inspect_ai", "eval", tasks]
    command += ["-T", f"data={data}", "--model", "visreplay/embedded"]
    command += ["--log-dir", str(folder / "logs"), "--display", "plain", *options]
    done = subprocess.run(command, cwd=TASKS, capture_output=True, text=True, timeout=900)
    logs = [read_eval_log(path, resolve_attachments=True) for path in folder.glob("logs/*.eval")]
    assert logs, done.stdout + done.stderr
    return {log.eval.task: log for log in logs}
