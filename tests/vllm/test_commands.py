"""The commands with vLLM as their engine, as users call them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from on_vllm import SCENES
from openai_served import client_of, number

from visreplay.agent.vllm.process import EngineProcess
from visreplay.tasks.evaluation.runs import Run

VISREPLAY = [sys.executable, "-c", "from visreplay.tasks.commands.cli import main; main()"]
EVAL = ["eval", SCENES, "--replay", "state", "--limit", "10", "--seed", "5"]


def visreplay(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*VISREPLAY, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def ended(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def lines(out: Path) -> int:
    path = out / "run.jsonl"
    return path.read_text("utf-8").count("\n") if path.exists() else 0


def test_an_evaluation_survives_a_killed_engine_and_a_killed_worker(
    engine: EngineProcess,
    start_engine: Callable[[Path], EngineProcess],
    kv_folder: Path,
    tmp_path: Path,
) -> None:
    """Every sample is played once, and as the embedded engine plays it."""
    ours, theirs = tmp_path / "embedded", tmp_path / "vllm"
    ended(visreplay(*EVAL, "--out", str(ours)))
    with start_engine(kv_folder) as doomed:
        urls = f"{doomed.url},{engine.url}"
        on_vllm = ("--engine", "vllm", "--engine-url", urls, "--engine-folder", str(kv_folder))
        command = (*EVAL, *on_vllm, "--concurrency", "2", "--out", str(theirs))
        worker = visreplay(*command)
        while lines(theirs) < 3:  # settings, and two samples
            assert worker.poll() is None, worker.stdout and worker.stdout.read()
            time.sleep(0.05)
        os.killpg(doomed.pid, signal.SIGKILL)
        while lines(theirs) < 5:
            assert worker.poll() is None, worker.stdout and worker.stdout.read()
            time.sleep(0.05)
        worker.kill()
        worker.communicate()
        ended(visreplay(*command))
    runs = [Run.open(each) for each in (ours, theirs)]
    assert set(runs[0].records) == set(runs[1].records)
    assert lines(theirs) == len(runs[1].records) + 1
    for sample_id, record in runs[0].records.items():
        other = runs[1].records[sample_id]
        for one, two in zip(record["rollouts"], other["rollouts"], strict=True):
            assert one["trajectory"]["messages"] == two["trajectory"]["messages"]
    assert not list(kv_folder.glob("*.part"))


def test_a_server_whose_answers_vllm_writes(engine: EngineProcess, kv_folder: Path) -> None:
    options = ("--engine", "vllm", "--engine-url", engine.url, "--engine-folder", str(kv_folder))
    server = visreplay("serve", "--port", "0", "--replay", "state", *options)
    assert server.stdout is not None
    try:
        line = next(each for each in server.stdout if "Serving" in each)
        assert "base" not in line
        with client_of(line.split()[-1].removesuffix("/v1")) as client:
            answer = client.chat.completions.create(
                model="policy+replay",
                messages=number(0),
                temperature=0,  # type: ignore[arg-type]
            )
        assert answer.choices[0].message.content
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
    assert server.returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine-url", "http://x"), "options of vLLM are given, but --engine is embedded"),
        (("--engine", "vllm"), "give one of them"),
        (("--engine", "vllm", "--engine-url", "http://127.0.0.1:9"), "cannot be reached"),
    ],
)
def test_what_is_wrong_is_told(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    process = visreplay(*EVAL, *options, "--out", str(tmp_path / "run"))
    output, _ = process.communicate(timeout=600)
    assert process.returncode != 0
    assert output.strip().splitlines()[-1].startswith("error: ")
    assert message in output.strip().splitlines()[-1]
