import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
import warnings
from pathlib import Path

import pytest
from disk_faults import faulty_disk, killed
from records import steady
from typer.testing import CliRunner

from visreplay.replay_core import EMBEDDED
from visreplay.tasks.commands.cli import app
from visreplay.tasks.evaluation.journal import Journal
from visreplay.tasks.evaluation.runs import Run

TASK = "visual-search-easy"


def evaluation(out: Path, *more: str, method: str = "none") -> tuple[int, str, str]:
    arguments = ["eval", TASK, "--out", str(out), "--replay", method, "--device", "cpu", *more]
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def images(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "images").iterdir()}


def test_rollouts_are_shared_recorded_and_summed_up(tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = ("--rollouts", "3", "--temperature", "1", "--seed", "4", "--max-new-tokens", "96")
    code, printed, err = evaluation(out, *given, "--limit", "2", method="token")
    assert code == 0, err
    for name in ("avg@3", "pass@1", "pass@2", "pass@3"):
        assert name in printed
    run = Run.open(out)
    assert run.system == "embedded policy + token replay"
    assert run.settings["rollouts"] == 3
    assert run.settings["seed"] == 4
    assert run.settings["driver"] == "rollouts"
    assert run.settings["sampling"]["temperature"] == 1
    assert {"python", "torch", "visreplay"} <= run.settings["versions"].keys()
    for record in run.records.values():
        first, *others = [rollout["trajectory"] for rollout in record["rollouts"]]
        assert len({first["seed"], *(each["seed"] for each in others)}) == 3
        # Read and replayed once: one report for all three.
        assert all(each["steps"][0]["replay"] == first["steps"][0]["replay"] for each in others)
        assert all(reference in run.store for reference in first["images"])
        assert "token_ids" not in json.dumps(record)
    assert len(images(out)) == len({path.name for path in (out / "images").glob("*.png")})

    before = (out / "run.jsonl").read_bytes()
    code, printed, _ = evaluation(out, *given, "--limit", "2", method="token")
    assert code == 0 and "avg@3" in printed
    assert (out / "run.jsonl").read_bytes() == before
    code, _, err = evaluation(out, *given, "--limit", "3", method="token")
    assert code == 0, err
    assert (out / "run.jsonl").read_bytes().startswith(before)
    assert len(Run.open(out).records) == 3


def test_decoding_is_the_checkpoint_s_unless_options_say_otherwise(tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    shutil.copytree(EMBEDDED / "policy", policy)
    file = policy / "generation_config.json"
    penalty = {"do_sample": True, "temperature": 0.1, "top_k": 1, "repetition_penalty": 1.05}
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **penalty}), "utf-8")
    models = ("--policy", str(policy), "--protocol", "embedded", "--limit", "1")
    expected = {"temperature": 0.1, "top_p": 1.0, "top_k": 1, "repetition_penalty": 1.05}
    code, _, err = evaluation(tmp_path / "plain", *models, "--max-new-tokens", "8")
    assert code == 0, err
    run = Run.open(tmp_path / "plain")
    assert run.settings["sampling"] == {**expected, "max_new_tokens": 8}
    # Rollouts of a policy that is greedy as published are sampled from all tokens.
    more = ("--max-new-tokens", "8", "--rollouts", "2")
    code, _, err = evaluation(tmp_path / "sampled", *models, *more)
    assert code == 0, err
    sampled = {**expected, "temperature": 1.0, "top_k": 0, "max_new_tokens": 8}
    assert Run.open(tmp_path / "sampled").settings["sampling"] == sampled
    code, _, err = evaluation(tmp_path / "same", *models, *more, "--top-k", "1")
    assert code == 2 and "all of them are the same" in err


def child(out: str, limit: int) -> None:
    """In a process of its own: the command."""
    os.setsid()
    evaluation(Path(out), "--limit", str(limit))
    os._exit(0)


def test_killed_twenty_times_nothing_is_lost_or_counted_twice(tmp_path: Path) -> None:
    limit, kills = 64, 20
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    code, _, err = evaluation(whole, "--limit", str(limit))
    assert code == 0, err
    a_sample = (time.monotonic() - began) / limit

    rng = random.Random(0)
    path = killed / "run.jsonl"

    def lines() -> int:
        return path.read_bytes().count(b"\n") if path.exists() else 0

    # Forked from this process, which has torch in memory: a new one takes seconds to start.
    fork = multiprocessing.get_context("fork")
    for _ in range(kills):
        process = fork.Process(target=child, args=(str(killed), limit))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside other threads
            process.start()
        # Any moment of loading and of the first samples, but never after the last one.
        before, deadline = lines(), time.monotonic() + rng.uniform(0, 1) + 2 * a_sample
        while time.monotonic() < deadline and lines() < before + 2:
            time.sleep(rng.uniform(0, a_sample / 4))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        if rng.random() < 0.3 and lines() > before:  # in the middle of a line, or of an image
            content = path.read_bytes()
            path.write_bytes(content + b'{"sample_id": "cut')
            (killed / "images" / "cut.tmp").write_bytes(b"\x89PNG")
    assert 2 < lines() < limit
    code, _, err = evaluation(killed, "--limit", str(limit))
    assert code == 0, err

    settings, *records = path.read_bytes().splitlines()
    assert settings == (whole / "run.jsonl").read_bytes().splitlines()[0]
    ids = [json.loads(line)["sample_id"] for line in records]
    assert ids == list(Run.open(whole).records)
    assert steady(Run.open(killed).records) == steady(Run.open(whole).records)
    assert images(killed) == images(whole)


CHECKER = """
import os
from pathlib import Path

def check(sample, trajectory):
    assert trajectory.answer == sample.answer
    if Path("broken").exists():
        raise {error}("the judge is away")
    return sample.answer > "M"
"""


@pytest.mark.parametrize("error", ["RuntimeError", "MemoryError"])
def test_errors_are_kept_counted_apart_and_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    module = f"judge_{error.lower()}"
    Path(f"{module}.py").write_text(CHECKER.format(error=error))
    Path("broken").touch()
    given = ("--limit", "4", "--cot-checker", f"{module}:check")
    code, printed, err = evaluation(Path("run"), *given)
    assert code == 1, err
    assert f"4 x {error}: the judge is away" in printed
    assert "--retry-errors plays them again" in printed
    assert "accuracy" not in printed  # no silent wrong answer
    assert {record["error"] for record in Run.open(Path("run")).records.values()} == {
        f"{error}: the judge is away"
    }

    Path("broken").unlink()
    code, printed, _ = evaluation(Path("run"), *given)
    assert f"4 x {error}" in printed
    code, printed, _ = evaluation(Path("run"), *given, "--retry-errors")
    assert code == 0
    assert "CoT-pass@1" in printed and error not in printed
    records = Run.open(Path("run")).scored
    assert len(records) == 4
    for record in records.values():
        (rollout,) = record["rollouts"]
        judged = record["expected"] > "M" if rollout["right"] else None
        assert rollout["cot_right"] == judged


def test_an_interrupted_run_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stopper.py").write_text(
        "calls = []\n"
        "def check(sample, trajectory):\n"
        "    calls.append(sample)\n"
        "    if len(calls) == 2: raise KeyboardInterrupt\n"
        "    return True\n"
    )
    given = ("--limit", "3", "--cot-checker", "stopper:check")
    code, printed, _ = evaluation(Path("run"), *given)
    assert code == 130
    assert "stopped; 1 samples are in run/run.jsonl" in printed
    code, _, err = evaluation(Path("run"), *given)
    assert code == 0, err
    assert len(Run.open(Path("run")).scored) == 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise NameError('no judge')", "ended with NameError: no judge"),
        ("import sys; sys.exit(0)", "ended with SystemExit: 0"),
        ("def check(", "ended with SyntaxError"),
    ],
)
def test_a_checker_that_cannot_be_imported_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    module = f"broken_judge_{abs(hash(body))}"
    Path(f"{module}.py").write_text(body + "\n")
    code, _, err = evaluation(Path("run"), "--limit", "1", "--cot-checker", f"{module}:check")
    assert code == 2
    assert message in err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import sys; sys.exit(0)", "RuntimeError: the checker of the reasoning ended with System"),
        ("raise GeneratorExit", "RuntimeError: the checker of the reasoning ended with Generator"),
        (
            "return 'maybe'",
            "TypeError: the checker of the reasoning returned a str that is",
        ),
        ("return None", "TypeError: the checker of the reasoning returned a NoneType"),
        ("return 2", "TypeError: the checker of the reasoning returned a int"),
        ("raise Unspeakable", "Unspeakable: its message cannot be read"),
    ],
)
def test_a_checker_that_exits_or_returns_nonsense_is_an_error_of_its_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    module = f"odd_judge_{abs(hash(body))}"
    Path(f"{module}.py").write_text(
        "class Unspeakable(Exception):\n"
        "    def __str__(self): raise ValueError\n"
        f"def check(sample, trajectory):\n    {body}\n"
    )
    code, printed, err = evaluation(Path("run"), "--limit", "2", "--cot-checker", f"{module}:check")
    assert code == 1, err
    assert f"2 x {message}" in " ".join(printed.split())
    assert len(Run.open(Path("run")).errors) == 2


def full_disk(out: str, size: int) -> None:
    """In a process of its own: the command, where no file may become larger than a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    code, _, err = evaluation(Path(out), "--limit", "4")
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    Path(out).with_suffix(".txt").write_text(f"{code} {err}")
    os._exit(0)


def test_a_disk_that_takes_no_more_ends_the_run_and_it_goes_on(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert evaluation(whole, "--limit", "4")[0] == 0
    lines = (whole / "run.jsonl").read_bytes().splitlines(keepends=True)
    fork = multiprocessing.get_context("fork")

    def play(size: int) -> str:
        process = fork.Process(target=full_disk, args=(str(out), size))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside other threads
            process.start()
        process.join()
        assert not list(out.rglob("*.tmp"))
        told = out.with_suffix(".txt").read_text()
        assert told.startswith("2 ") and "ulimit -f" in told
        assert "the same command resumes the run" in told
        return told

    assert f"{out}/images/" in play(10)
    assert not (out / "run.jsonl").read_bytes()
    shutil.copytree(whole / "images", out / "images", dirs_exist_ok=True)
    assert f"{out}/run.jsonl cannot be written" in play(sum(map(len, lines[:3])) + 9)
    assert list(Run.open(out).scored) == list(Run.open(whole).records)[:2]
    code, _, err = evaluation(out, "--limit", "4")
    assert code == 0, err
    assert steady(Run.open(out).records) == steady(Run.open(whole).records)
    assert images(out) == images(whole)


def test_a_finished_run_is_only_read(tmp_path: Path) -> None:
    assert evaluation(tmp_path, "--limit", "2")[0] == 0
    (tmp_path / "run.jsonl.lock").unlink()
    with faulty_disk(tmp_path, None, killed) as operations:
        code, printed, err = evaluation(tmp_path, "--limit", "2")
    assert code == 0, err
    assert "accuracy" in printed
    assert {*operations} <= {"io.open", "builtins.open"}  # no lock, and nothing is written
    assert not (tmp_path / "run.jsonl.lock").exists()


def test_damage_is_told_and_played_again(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert evaluation(whole, "--limit", "3")[0] == 0
    shutil.copytree(whole, out)
    lines = (out / "run.jsonl").read_bytes().splitlines()
    (out / "run.jsonl").write_bytes(b"\n".join([*lines[:2], b"garbage", *lines[3:], b""]))
    code, printed, err = evaluation(out, "--limit", "3")
    assert code == 0, err
    assert "1 damaged line of" in " ".join(printed.split())
    assert steady(Run.open(out).records) == steady(Run.open(whole).records)
    assert Run.open(out).damaged == []

    image = next(iter((out / "images").iterdir()))
    image.write_bytes(image.read_bytes()[:30])
    code, printed, _ = evaluation(out, "--limit", "3")
    assert code == 0
    assert "images of 1 sample are missing or damaged" in " ".join(printed.split())
    code, printed, _ = evaluation(out, "--limit", "3", "--retry-errors")
    assert code == 0
    assert "damaged" not in printed
    assert images(out) == images(whole)
    assert steady(Run.open(out).records) == steady(Run.open(whole).records)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "run.jsonl", {}):
        code, _, err = evaluation(tmp_path, "--limit", "1")
    assert code == 2
    assert "is being written by another process" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rollouts", "8", "--temperature", "0"], "all of them are the same"),
        (["--sample-ids", "chess-1"], "the task has no sample 'chess-1'"),
        (["--data", "x.tsv"], "leave out --data"),
        (["--cot-checker", "json"], "must name a function"),
        (["--cot-checker", "nowhere_at_all:check"], "nowhere_at_all"),
        (["--cot-checker", "..x:check"], "importing '..x' ended with TypeError"),
        (["--cot-checker", ":check"], "must name a function"),
        (["--cot-checker", "json:"], "must name a function"),
        (["--cot-checker", "json:nothing"], "must name a function"),
        (["--tau", "7"], "tau is 7"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, arguments: list[str], message: str) -> None:
    code, _, err = evaluation(tmp_path / "out", *arguments, "--limit", "1")
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_other_settings_are_refused(tmp_path: Path) -> None:
    evaluation(tmp_path, "--limit", "1")
    code, _, err = evaluation(tmp_path, "--limit", "1", "--seed", "3")
    assert code == 2
    assert "seed was 0 and is 3" in err
