"""Engines are killed, and the processes beside them: nothing is lost or doubled."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import on_vllm as support
import pytest
from on_vllm import SCENES, on_vllm, play, samples, tokens
from shared import MakeAgent

from visreplay.agent.vllm.client import EngineClient, EngineDownError
from visreplay.agent.vllm.exports import Exports
from visreplay.agent.vllm.process import EngineProcess
from visreplay.agent.vllm.writer import VllmWriter
from visreplay.replay_core import EMBEDDED, Method
from visreplay_connector.handles import checkpoint_digest


def test_another_engine_writes_the_turns_of_one_that_was_killed(
    make_agent: MakeAgent,
    engine: EngineProcess,
    start_engine: Callable[[Path], EngineProcess],
    kv_folder: Path,
) -> None:
    chosen = samples(SCENES, 12)
    ours = play(make_agent(Method.STATE), chosen)
    exports = Exports(checkpoint_digest(EMBEDDED / "policy"), kv_folder)
    with start_engine(kv_folder) as doomed:
        writer = VllmWriter([EngineClient(doomed.url), EngineClient(engine.url)], exports)
        killer = threading.Timer(0.2, os.killpg, (doomed.pid, signal.SIGKILL))
        killer.start()
        theirs = play(on_vllm(make_agent(Method.STATE), writer), chosen)
        killer.join()
        later = play(on_vllm(make_agent(Method.STATE), writer), chosen[:2])
        writer.close()
    assert tokens(theirs) == tokens(ours)
    assert tokens(later) == tokens(ours)[:2]


def test_without_any_engine_a_turn_is_an_error(make_agent: MakeAgent, tmp_path: Path) -> None:
    exports = Exports(checkpoint_digest(EMBEDDED / "policy"), tmp_path)
    writer = VllmWriter([EngineClient("http://127.0.0.1:9")], exports)
    with pytest.raises(EngineDownError, match=r"engine at http://127\.0\.0\.1:9 cannot be reached"):
        play(on_vllm(make_agent(Method.STATE), writer), samples(SCENES, 1))
    writer.close()


def test_a_server_ends_with_the_process_that_started_it(
    start_engine: Callable[[Path], EngineProcess], tmp_path: Path
) -> None:
    python, log = os.environ["VISREPLAY_ENGINE_PYTHON"], tmp_path / "log"
    code = f"""
import pathlib, time
from on_vllm import CPU, OPTIONS
from visreplay.agent.vllm.process import EngineProcess
from visreplay.replay_core import EMBEDDED
engine = EngineProcess({python!r}, str(EMBEDDED / "policy"), pathlib.Path({str(tmp_path)!r}),
                       options=OPTIONS, environment=CPU)
print(engine.url, flush=True)
time.sleep(1000)
"""
    here = str(Path(support.__file__).parent)
    path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
        ) as parent,
    ):
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        assert httpx.get(f"{url}/health").status_code == 200
        parent.kill()
    for _ in range(300):
        try:
            httpx.get(f"{url}/health")
        except httpx.HTTPError:
            return
        time.sleep(0.1)
    pytest.fail("the server outlives its parent")
