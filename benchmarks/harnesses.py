"""lmms-eval and VLMEvalKit on `visreplay serve`, each on a file of three rows.

Both are installed in an environment of their own, whose Python is named here
(docs/guides/harnesses.md):

    python benchmarks/harnesses.py --lmms-eval VENV/bin/python --vlmevalkit VENV/bin/python

The rows are scenes of the embedded pair. A harness asks for one turn a question, and the policy's
first turn says where to zoom: that is what the rows have as their answer. Every reply that a
harness recorded is compared with the first turn of our own agent; the exit status is 1 if one
differs.
"""

import argparse
import base64
import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from visreplay.agent.episode.embedded_agent import embedded_agent, prepare_process
from visreplay.tasks.registry import get_task
from visreplay.tasks.synthetic.visual_search import Marker
from visreplay.tasks.types import Sample
from visreplay.tools import load_image

ROWS = 3
NAME = "visreplay_search"
MODEL = "policy+replay"
COMMAND = [sys.executable, "-c", "from visreplay.tasks.commands.cli import main; main()", "serve"]

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: generate_until
doc_to_visual: !function {name}_utils.pictures
doc_to_text: question
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 128
  temperature: 0
process_results: !function {name}_utils.score
metric_list:
  - metric: accuracy
    aggregation: mean
    higher_is_better: true
"""
"""A task of lmms-eval on rows of JSON."""

UTILS = """\
import io
from base64 import b64decode

from PIL import Image


def pictures(row):
    return [Image.open(io.BytesIO(b64decode(row["image"])))]


def score(row, replies):
    return {"accuracy": float(row["answer"] in replies[0])}
"""
"""Its functions."""


def main() -> None:
    """Run the harnesses that are named."""
    parser = argparse.ArgumentParser(description="Runs harnesses on `visreplay serve`.")
    parser.add_argument("--lmms-eval", type=Path, metavar="PYTHON")
    parser.add_argument("--vlmevalkit", type=Path, metavar="PYTHON")
    arguments = parser.parse_args()
    if not (arguments.lmms_eval or arguments.vlmevalkit):
        parser.error("name the Python of at least one harness")
    prepare_process()
    task = get_task("visual-search-medium")
    samples = [task.load(each) for each in task.sample_ids()[:ROWS]]
    agent = embedded_agent("policy+state")
    ours = [agent.run(s.question, images=s.images).steps[0]["text"] for s in samples]
    same = True
    with TemporaryDirectory() as folder, serving() as address:
        for name, python, run in (
            ("lmms-eval", arguments.lmms_eval, run_lmms_eval),
            ("VLMEvalKit", arguments.vlmevalkit, run_vlmevalkit),
        ):
            if python is None:
                continue
            replies = run(python.absolute(), address, samples, Path(folder) / name)
            for sample, own, reply in zip(samples, ours, replies, strict=True):
                same = same and own == reply
                print(f"{name}: {sample.question}")
                print(f"    {reply}")
                print("    the first turn of our own agent" if own == reply else f"    not {own}")
    sys.exit(not same)


def run_lmms_eval(python: Path, address: str, samples: Sequence[Sample], folder: Path) -> list[str]:
    """Run the task in lmms-eval, and read the replies that it recorded."""
    folder.mkdir()
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row_of(sample)) + "\n" for sample in samples), "utf-8")
    (folder / f"{NAME}.yaml").write_text(TASK.format(name=NAME, rows=rows), "utf-8")
    (folder / f"{NAME}_utils.py").write_text(UTILS, "utf-8")
    out = folder / "out"
    run_module(
        [python, "-m", "lmms_eval", "eval", "--model", "openai"],
        ["--model_args", f"model={MODEL},base_url={address},api_key=none"],
        ["--tasks", NAME, "--include_path", folder],
        ["--output_path", out, "--log_samples"],
        environment={"HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"},
        folder=folder,
    )
    (record,) = out.rglob(f"*_samples_{NAME}.jsonl")
    logged = [json.loads(line) for line in record.read_text("utf-8").splitlines()]
    (result,) = out.rglob("*_results.json")
    scores = json.loads(result.read_text("utf-8"))["results"][NAME]
    print(f"lmms-eval: accuracy {scores['accuracy,none']}")
    return [first_text(row["resps"]) for row in sorted(logged, key=lambda row: row["doc_id"])]


def run_vlmevalkit(
    python: Path, address: str, samples: Sequence[Sample], folder: Path
) -> list[str]:
    """Let VLMEvalKit predict the rows of a table, and read its predictions."""
    folder.mkdir()
    with (folder / f"{NAME}.tsv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["index", "image", "question", "answer"], dialect="excel-tab")
        table.writeheader()
        table.writerows({"index": i, **row_of(sample)} for i, sample in enumerate(samples))
    config = {
        "model": {
            "visreplay": {
                "class": "GPT4V",
                "model": MODEL,
                "api_base": f"{address}/chat/completions",
                "key": "sk-none",
                "temperature": 0,
                "max_tokens": 128,
                "img_size": -1,
                "img_detail": "high",
            }
        },
        "data": {NAME: {"class": "CustomVQADataset", "dataset": NAME}},
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    run_module(
        [python, "-m", "vlmeval.run", "--config", folder / "config.json"],
        ["--mode", "infer", "--work-dir", folder / "out"],
        environment={"LMUData": str(folder), "PRED_FORMAT": "tsv", "HF_HUB_OFFLINE": "1"},
        folder=folder,
    )
    (predictions,) = (folder / "out").rglob(f"visreplay_{NAME}.tsv")
    with predictions.open(encoding="utf-8", newline="") as file:
        return [row["prediction"] for row in csv.DictReader(file, dialect="excel-tab")]


def row_of(sample: Sample) -> dict[str, str]:
    """A sample as a row: the answer is the box of the marker that the question is about."""
    buffer = io.BytesIO()
    load_image(sample.images[0]).save(buffer, "PNG")
    marker = cast(Marker, sample.facts["target"])
    column, row = marker.column, marker.row
    return {
        "image": base64.b64encode(buffer.getvalue()).decode(),
        "question": sample.question,
        "answer": f"[{column},{row},{column + 1},{row + 1}]",
    }


def first_text(replies: object) -> str:
    """The reply in the record of a row, which lists those of a request."""
    while isinstance(replies, list):
        replies = replies[0]
    return str(replies)


def run_module(*words: Sequence[str | Path], environment: dict[str, str], folder: Path) -> None:
    """Run a command of a harness; its output is shown if it fails."""
    command = [str(word) for part in words for word in part]
    done = subprocess.run(
        command,
        env={**os.environ, **environment, "PYTHONPATH": ""},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{' '.join(command)} ended with {done.returncode}")


@contextmanager
def serving() -> Iterator[str]:
    """Serve the embedded pair with state replay while the context lasts; gives the address."""
    command = [*COMMAND, "--port", "0", "--replay", "state", "--policy", "embedded"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdout is not None
        try:
            for line in server.stdout:
                if match := re.search(r"http://\S+/v1", line):
                    yield match[0]
                    break
            else:
                sys.exit("the server ended before it served")
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
