"""Workers of Ray that end in the middle, on a cluster of two on this machine."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_jobs import ROLLOUTS, TASK, Deadly, NeverReady, Slow
from records import steady

from visreplay.agent.episode.embedded_agent import embedded_agent
from visreplay.replay_core import ConfigError
from visreplay.tasks.evaluation.evaluate import evaluate
from visreplay.tasks.evaluation.ray_workers import TRIES, Workers, WorkersError, cluster
from visreplay.tasks.evaluation.runs import SampleRecord
from visreplay.tasks.registry import get_task
from visreplay.tools import ImageStore

SUPPORT = Path(__file__).parents[2] / "support"


@pytest.fixture(scope="module", autouse=True)
def two_workers() -> Iterator[None]:
    """A cluster whose workers find the jobs of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(SUPPORT), prepend=os.pathsep)
        with cluster(None, 2):
            yield


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def as_read(records: dict[str, SampleRecord]) -> object:
    return steady(json.loads(json.dumps(records)))


def pids(notes: Path, name: str) -> list[int]:
    """The processes that noted something."""
    return [int(path.name.split()[-1]) for path in notes.glob(f"{name} *")]


def test_workers_that_are_killed_lose_and_double_nothing(tmp_path: Path) -> None:
    notes, there, here = (tmp_path / name for name in ("notes", "there", "here"))
    notes.mkdir()
    ids = get_task(TASK).sample_ids()[:4]
    once, always = ids[0], ids[2]
    with Workers(Deadly(notes, {once: 1, always: TRIES}), 2) as workers:
        played = list(workers.play(5, ids, ImageStore(there)))
    assert sorted(record["sample_id"] for record in played) == sorted(ids)
    records = {record["sample_id"]: record for record in played}
    assert len(set(pids(notes, once))) == 1 and len(set(pids(notes, always))) == TRIES

    lost = records.pop(always)
    assert str(lost["error"]).startswith(f"WorkerEnded: its worker ended {TRIES} times")
    assert "fewer --workers" in str(lost["error"]) and lost["rollouts"] == []
    agent = embedded_agent("policy+state", ImageStore(here), temperature=1.0)
    left = [each for each in ids if each != always]
    expected = evaluate(agent, get_task(TASK), left, rollouts=ROLLOUTS, seed=5)
    assert as_read(records) == as_read({each["sample_id"]: each for each in expected})
    assert files(there) == files(here) and files(here)


def test_a_worker_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    store = ImageStore()
    with Workers(NeverReady(tmp_path)) as workers, pytest.raises(WorkersError) as ended:
        list(workers.play(0, ["a"], store))
    assert str(ended.value).startswith("every worker ended while it loaded: ")
    assert len(pids(tmp_path, "start")) == TRIES
    job = NeverReady(tmp_path, "there is no such policy")
    with Workers(job) as workers, pytest.raises(ConfigError, match="no such policy"):
        list(workers.play(0, ["a"], store))


def test_workers_end_with_their_context_in_the_middle_of_samples(tmp_path: Path) -> None:
    with Workers(Slow(tmp_path), at_once=2) as workers:
        records = workers.play(0, ["first", "second", "third"], ImageStore())
        assert next(records)["sample_id"] == "first"
        while not (pids(tmp_path, "second") and pids(tmp_path, "third")):
            time.sleep(0.05)
    assert (tmp_path / "closed").exists()
    (pid,) = set(pids(tmp_path, "*"))  # one process, two samples at once
    until = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
