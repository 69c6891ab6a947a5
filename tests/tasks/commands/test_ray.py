"""`visreplay eval --ray`: the runs of the command without it, on a cluster of two workers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from openai_served import service
from records import steady
from served import served
from shared import png, write_tsv
from typer.testing import CliRunner

from visreplay.agent.episode.agent import versions
from visreplay.agent.episode.limits import Limits
from visreplay.agent.openai.routes import openai_app
from visreplay.agent.policy.endpoint import KEY_VARIABLE
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.protocols import choose_recipe
from visreplay.replay_core import ConfigError, Method, ModelPair, ReplayConfig
from visreplay.tasks.commands.cli import app
from visreplay.tasks.commands.engine_options import EngineOptions
from visreplay.tasks.commands.options import EndpointOptions, PairOptions
from visreplay.tasks.commands.ray_options import EvaluationJob
from visreplay.tasks.commands.tool_runs import Cell
from visreplay.tasks.evaluation.ray_workers import cluster
from visreplay.tasks.evaluation.runs import Run

TASK = "visual-search-medium"
SAMPLED = ("--rollouts", "2", "--temperature", "1", "--max-new-tokens", "96")
ROW: dict[str, object] = {
    **{"index": 0, "question": "Which number has the buoy?", "image": png("red")},
    **{"A": "17", "B": "71", "C": "11", "D": "77", "answer": "B"},
    **{"category": "single", "cycle_category": 1},
}
CHECKER = """
def short(sample, trajectory):
    return len(trajectory.steps) < 3
"""


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    """A cluster, which all commands of a process use."""
    with cluster(None, 2):
        yield


def evaluation(out: Path, *more: str, task: str = TASK) -> tuple[int, str]:
    arguments = ["eval", task, "--out", str(out), "--device", "cpu", *more]
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, " ".join(result.output.split())


def content(out: Path) -> tuple[object, object, dict[str, bytes]]:
    """A run without its times: the settings, the records by sample, and the images."""
    run = Run.open(out)
    images = {path.name: path.read_bytes() for path in (out / "images").iterdir()}
    return run.settings, steady(run.records), images


def test_a_run_of_workers_is_the_run_without_them_resumed_or_not(
    two_workers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where workers find the checker too
    (tmp_path / "reasoning.py").write_text(CHECKER, "utf-8")
    given = (*SAMPLED, "--replay", "state", "--cot-checker", "reasoning:short")
    by_workers = ("--ray", "--workers", "2")
    here, there, mixed = (tmp_path / name for name in ("here", "there", "mixed"))
    code, printed = evaluation(here, *given, "--limit", "4")
    assert code == 0, printed
    code, printed = evaluation(there, *given, "--limit", "4", *by_workers)
    assert code == 0 and "right " in printed, printed
    assert content(there) == content(here)
    assert Run.open(here).records.keys() == Run.open(there).records.keys()
    assert len((there / "run.jsonl").read_bytes().splitlines()) == 5

    code, printed = evaluation(mixed, *given, "--limit", "1")
    assert code == 0, printed
    code, printed = evaluation(mixed, *given, "--limit", "3", *by_workers, "--concurrency", "2")
    assert code == 0, printed
    code, printed = evaluation(mixed, *given, "--limit", "4")
    assert code == 0 and content(mixed) == content(here), printed


def test_all_runs_without_and_with_tools_are_played_by_the_same_workers(
    two_workers: None, tmp_path: Path
) -> None:
    given = ("--tools", "none,all", "--replay", "none", "--limit", "1", "--max-new-tokens", "48")
    here, there = tmp_path / "here", tmp_path / "there"
    for out, more in ((here, ()), (there, ("--ray",))):
        code, printed = evaluation(out, *given, *more)
        assert code == 0, printed
    for name in ("plain-without-tools", "plain-with-tools"):
        assert content(there / name) == content(here / name)
    assert (there / "tools.json").read_bytes() == (here / "tools.json").read_bytes()


def test_workers_have_the_key_of_an_endpoint_and_show_it_nowhere(
    two_workers: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    embedded_pair: ModelPair,
) -> None:
    key = "sk-this-is-a-secret"
    monkeypatch.setenv(KEY_VARIABLE, key)  # later than the cluster was started
    with served(openai_app(service(embedded_pair), key)) as url:
        result = CliRunner().invoke(
            app,
            [
                *("eval", TASK, "--out", str(tmp_path), "--limit", "1", "--ray"),
                "--max-new-tokens=96",
                *("--policy-url", f"{url}/v1", "--policy", "policy", "--protocol", "embedded"),
            ],
        )
    assert result.exit_code == 0 and key not in result.output, result.output
    assert key not in (tmp_path / "run.jsonl").read_text("utf-8")
    assert len(Run.open(tmp_path).scored) == 1


def descendants(pid: int) -> dict[int, str]:
    """The processes that a process started, and those that they started, by their names."""
    parents, names = {}, {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            status = dict(
                line.split(":\t", 1) for line in (process / "status").read_text().splitlines()
            )
            parents[int(process.name)], names[int(process.name)] = (
                int(status["PPid"]),
                status["Name"],
            )
    found = {pid}
    while more := {each for each, parent in parents.items() if parent in found} - found:
        found |= more
    return {each: names[each] for each in found - {pid}}


def test_ctrl_c_ends_the_workers_and_the_cluster_of_the_command(tmp_path: Path) -> None:
    path = tmp_path / "run" / "run.jsonl"
    program = "from visreplay.tasks.commands.cli import main; main()"
    command = (sys.executable, "-c", program, "eval", TASK, "--out", str(path.parent))
    running = subprocess.Popen(
        [*command, "--device", "cpu", "--limit", "500", "--ray"], stdout=subprocess.PIPE, text=True
    )
    with running:
        while running.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") > 1):
            time.sleep(0.1)
        started = descendants(running.pid)
        running.send_signal(signal.SIGINT)
        printed, _ = running.communicate()
    assert "raylet" in started.values() and any(
        each.startswith("ray::") for each in started.values()
    )
    assert running.returncode == 130 and "the same command resumes the run" in printed
    assert Run.open(path.parent).records
    until = time.monotonic() + 60
    while (left := [each for each in started if Path(f"/proc/{each}").exists()]) and (
        time.monotonic() < until
    ):
        time.sleep(0.1)
    assert not left


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (("--workers", "2"), "--workers is for workers of Ray: add --ray"),
        (("--ray", "--gpus-per-worker", "1.5"), "is 1.5, but above 1 it is a whole number of GPUs"),
        (("--ray", "--gpus-per-worker", "99"), "1 workers with 99 GPUs each need 99, but this"),
        (
            ("--ray", "--engine", "vllm", "--engine-url", "http://x", "--engine-listen", "x:1"),
            "--engine-listen is one address, but every worker of --ray would need its own",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    two_workers: None, tmp_path: Path, given: tuple[str, ...], error: str
) -> None:
    code, printed = evaluation(tmp_path / "run", *given)
    assert code == 2 and error in printed, printed


def test_without_ray_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "visreplay.tasks.evaluation.ray_workers", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    code, printed = evaluation(tmp_path / "run", "--ray")
    assert code == 2 and "pip install 'visreplay[ray]'" in printed
    assert not (tmp_path / "run").exists()


def job(**changes: object) -> EvaluationJob:
    recipe, config = choose_recipe("embedded", "embedded", None), ReplayConfig(Method.NONE)
    plain = EvaluationJob(
        *(PairOptions(), EndpointOptions(), EngineOptions(), config, Sampling(), Limits()),
        [Cell(Path("run"), config, recipe)],
        task="hr-bench-4k",
        data=Path("rows.tsv"),
        max_pixels=None,
        digest="a" * 64,
        rollouts=1,
        seed=0,
        cot_checker=None,
        versions=versions(),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_workers_with_other_data_or_versions_are_refused(tmp_path: Path) -> None:
    """As on a machine that lacks the data: this process opens what a worker is given."""
    before = os.getcwd()
    there = job(folder=tmp_path)
    try:
        with pytest.raises(ConfigError, match="needs the data at that path"), there.opened():
            pass
        write_tsv(tmp_path / "rows.tsv", [ROW])
        with pytest.raises(ConfigError, match="is another file for the worker on"), there.opened():
            pass
    finally:
        os.chdir(before)
    old = job(versions={**versions(), "torch": "1.0"})
    with pytest.raises(ConfigError, match=r"but the run is recorded with 1\.0"), old.opened():
        pass
