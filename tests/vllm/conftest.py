"""A real vLLM server on the embedded policy; `make test-vllm` installs one and runs these tests.

Its cache has room for few conversations, so that requests are preempted and cached blocks go.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from on_vllm import CPU, OPTIONS

from visreplay.agent.vllm.client import EngineClient
from visreplay.agent.vllm.exports import Exports
from visreplay.agent.vllm.process import EngineProcess
from visreplay.agent.vllm.writer import VllmWriter
from visreplay.replay_core import EMBEDDED
from visreplay_connector.handles import checkpoint_digest

PYTHON = os.environ.get("VISREPLAY_ENGINE_PYTHON")


@pytest.fixture(scope="session")
def kv_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kv")


StartEngine = Callable[[Path], EngineProcess]


@pytest.fixture(scope="session")
def start_engine() -> StartEngine:
    """Starts a server on the embedded policy."""
    if PYTHON is None:
        pytest.skip("needs vLLM in an environment of its own: make test-vllm")
    policy = str(EMBEDDED / "policy")
    return lambda folder: EngineProcess(PYTHON, policy, folder, options=OPTIONS, environment=CPU)


@pytest.fixture(scope="session")
def engine(start_engine: StartEngine, kv_folder: Path) -> Iterator[EngineProcess]:
    """A server that all tests share; it must survive each of them."""
    with start_engine(kv_folder) as process:
        yield process


@pytest.fixture
def writer(engine: EngineProcess, kv_folder: Path) -> Iterator[VllmWriter]:
    exports = Exports(checkpoint_digest(EMBEDDED / "policy"), kv_folder)
    writer = VllmWriter([EngineClient(engine.url)], exports)
    yield writer
    writer.close()
