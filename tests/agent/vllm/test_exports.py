"""Keys and values as files: what a turn adds, within a bound, and found again by content."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from visreplay.agent.vllm.exports import ExportError, Exports
from visreplay.replay_core import ModelPair, ReplaySession
from visreplay_connector.handles import Description

PICTURE = Image.new("RGB", (112, 112), "red")


def read(session: ReplaySession) -> ReplaySession:
    session.append("What is here?", images=[PICTURE])
    return session


def names(exports: Exports, session: ReplaySession) -> list[str]:
    with exports.lease(session) as lease:
        files: list[str] = lease.handle["files"]
        return files


@pytest.fixture
def session(embedded_pair: ModelPair) -> ReplaySession:
    return read(ReplaySession(embedded_pair, "state"))


def test_a_file_holds_what_the_session_keeps(session: ReplaySession, tmp_path: Path) -> None:
    exports = Exports("weights", tmp_path)
    with exports.lease(session) as lease:
        (name,) = lease.handle["files"]
        with safe_open(tmp_path / name, "pt") as file:
            description = Description.of(file.metadata())
            keys, values = file.get_tensor("keys"), file.get_tensor("values")
    assert (description.start, description.stop) == (0, session.length)
    ours = session.export(0, session.length)
    assert torch.equal(keys, ours[0]) and torch.equal(values, ours[1])


def test_a_turn_adds_a_file_and_rollouts_share_files(
    session: ReplaySession, tmp_path: Path
) -> None:
    exports = Exports("weights", tmp_path)
    (first,) = names(exports, session)
    ended = [twin for twin, _ in session.sample_many([1, 2], max_new_tokens=4)]
    for twin in ended:
        twin.extend_generated([twin.pair.tokenizer.eos_token_id])
        twin.append("And now?")
    files = [names(exports, twin) for twin in ended]
    assert [each[0] for each in files] == [first, first]
    assert files[0][1] != files[1][1]


def test_other_conversations_share_nothing(
    session: ReplaySession, embedded_pair: ModelPair, tmp_path: Path
) -> None:
    exports = Exports("weights", tmp_path)
    other = read(ReplaySession(embedded_pair, "token"))
    assert not set(names(exports, session)) & set(names(exports, other))


def test_the_least_recently_used_files_go_first(embedded_pair: ModelPair, tmp_path: Path) -> None:
    sessions = [read(ReplaySession(embedded_pair, "none")) for _ in range(3)]
    with Exports("weights", tmp_path) as measured:
        names(measured, sessions[0])
        size = measured.bytes
    exports = Exports("weights", tmp_path, max_bytes=2 * size)
    first, second = (names(exports, each) for each in sessions[:2])
    names(exports, sessions[0])  # used again
    names(exports, sessions[2])
    assert (tmp_path / first[0]).exists()
    assert not (tmp_path / second[0]).exists()
    # What went is written again when it is needed.
    assert (tmp_path / names(exports, sessions[1])[0]).exists()


def test_files_of_a_running_request_stay(embedded_pair: ModelPair, tmp_path: Path) -> None:
    one, other = (read(ReplaySession(embedded_pair, "none")) for _ in range(2))
    exports = Exports("weights", tmp_path, max_bytes=1_000_000)
    with exports.lease(one) as lease:
        exports.max_bytes = exports.bytes + 1
        with pytest.raises(
            ExportError, match=r"needs \d+ bytes of keys and values in .* allow more"
        ):
            names(exports, other)
        assert (tmp_path / lease.handle["files"][0]).exists()
    assert names(exports, other)


def test_files_of_a_worker_that_was_killed_are_removed(tmp_path: Path) -> None:
    code = f"""
import os, pathlib
from visreplay.agent.vllm.exports import Exports
exports = Exports("weights", pathlib.Path({str(tmp_path)!r}))
(exports.folder / f"{{exports._worker}}{{'0' * 24}}.safetensors").write_bytes(b"left")
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert list(tmp_path.glob("*.safetensors"))
    living = Exports("weights", tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    Exports("weights", tmp_path).close()
    assert list(tmp_path.glob("*.lock")) == [tmp_path / f"{living._worker}.lock"]


def test_closing_leaves_nothing(session: ReplaySession, tmp_path: Path) -> None:
    with Exports("weights", tmp_path) as exports:
        names(exports, session)
    assert list(tmp_path.iterdir()) == []


def test_forgetting_a_conversation_removes_its_files(
    session: ReplaySession, embedded_pair: ModelPair, tmp_path: Path
) -> None:
    exports = Exports("weights", tmp_path)
    other = read(ReplaySession(embedded_pair, "none"))
    (ours,), (theirs,) = names(exports, session), names(exports, other)
    exports.forget({session.lineage})
    assert not (tmp_path / ours).exists()
    assert (tmp_path / theirs).exists()
