"""Keys and values of sessions as files that vLLM's connector reads, within a bound on their bytes.

A file holds a stretch of a conversation: what a turn adds. Its content is found again by its
beginning, so that rollouts of one question, and the turns of one episode, share files. The session
can write all of it anew, so a file may go whenever no request needs it.
"""

import os
import shutil
import tempfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from filelock import FileLock, Timeout
from safetensors.torch import save_file

from visreplay.agent.policy.writing import WriterError
from visreplay.replay_core import ReplaySession
from visreplay_connector.handles import IDENTIFIER, Description, Picture, prefix_digest

MAX_BYTES = 8 * 2**30
_SHARED_MEMORY = Path("/dev/shm")
_WORKER = 8
"""The first characters of a file's name are its worker's; so many."""


class ExportError(WriterError):
    """Keys and values cannot be written for the engine."""


def default_folder() -> Path:
    """Return the folder that workers and engines of one user share: in memory where that can be."""
    root = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    return root / f"visreplay-{os.getuid()}"


def pictures_of(session: ReplaySession, salt: str) -> list[Picture]:
    """List the visual blocks of a session as vLLM is told of them."""
    return [Picture(each.start, f"{IDENTIFIER}{each.digest}-{salt}") for each in session.blocks]


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    start: int
    stop: int
    bytes: int
    key: tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Lease:
    """Files that stay as long as a request may need them.

    Attributes:
        handle: The handle that names them in the order of the conversation.
        salt: The request's `cache_salt`.
        tokens: Number of tokens in files that were written for it.
    """

    handle: dict[str, Any]
    salt: str
    tokens: int


class Exports:
    """The files of one worker. It may be used from several threads.

    Args:
        model: Digest of the policy's weights.
        folder: Where files are written; None takes `default_folder`. Several workers may share it.
        max_bytes: Largest size of all files of this worker.

    Attributes:
        source: Address from which engines on other machines fetch the files; None without.
    """

    source: str | None = None

    def __init__(self, model: str, folder: Path | None = None, max_bytes: int = MAX_BYTES) -> None:
        self.folder = default_folder() if folder is None else folder
        self.max_bytes = max_bytes
        self.bytes = 0
        self._model = model
        self._files: OrderedDict[tuple[str, int, str], _File] = OrderedDict()
        self._users: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_files_of_the_dead(self.folder)
        self._worker = uuid4().hex[:_WORKER]
        self._alive = FileLock(self.folder / f"{self._worker}.lock")
        self._alive.acquire()

    @contextmanager
    def lease(self, session: ReplaySession, *, anew: bool = False) -> Iterator[Lease]:
        """Write what of a session has no file yet, and keep its files inside the context.

        Args:
            session: A session that has read a whole conversation.
            anew: Write all of it again: the engine could not load what there is.

        Raises:
            ExportError: The folder has too little room.
        """
        salt = session.lineage
        with self._lock:
            files = [] if anew else self._known(session, salt)
            done = files[-1].stop if files else 0
            end = session.length
            if done < end:
                files.append(self._write(session, salt, done, end))
            self._users.update(file.name for file in files)
            self._shrink()
        try:
            handle: dict[str, Any] = {"files": [file.name for file in files]}
            if self.source is not None:
                handle["source"] = self.source
            yield Lease(handle, salt, end - done)
        finally:
            with self._lock:
                self._users.subtract(file.name for file in files)
                self._users += Counter()
                self._shrink()

    def forget(self, salts: Collection[str]) -> None:
        """Remove the files of some lineages (`ReplaySession.lineage`) that no request needs."""
        with self._lock:
            for file in list(self._files.values()):
                if file.key[0] in salts and not self._users[file.name]:
                    self._remove(file)

    def close(self) -> None:
        """Remove all files."""
        with self._lock:
            for file in list(self._files.values()):
                self._remove(file)
        self._alive.release()
        (self.folder / f"{self._worker}.lock").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Return the exports themselves."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()

    def _known(self, session: ReplaySession, salt: str) -> list[_File]:
        """Find the files that hold a session's beginning, without a gap."""
        ids, pictures = session.token_ids, pictures_of(session, salt)
        found: list[_File] = []
        stops = sorted({stop for own, stop, _ in self._files if own == salt and stop <= len(ids)})
        for stop in stops:
            file = self._files.get((salt, stop, _prefix(ids, pictures, stop)))
            done = found[-1].stop if found else 0
            if file is not None and file.start <= done < file.stop:
                self._files.move_to_end(file.key)
                found.append(file)
        return found

    def _write(self, session: ReplaySession, salt: str, start: int, stop: int) -> _File:
        prefix = _prefix(session.token_ids, pictures_of(session, salt), stop)
        description = Description(self._model, salt, start, stop, prefix)
        keys_LTHD, values_LTHD = session.export(start, stop)
        size = keys_LTHD.nbytes + values_LTHD.nbytes
        self._make_room(size)
        name = f"{self._worker}{uuid4().hex[_WORKER:]}.safetensors"
        part = self.folder / f"{name}.part"
        tensors = {"keys": keys_LTHD.cpu().contiguous(), "values": values_LTHD.cpu().contiguous()}
        try:
            save_file(tensors, part, metadata=description.metadata())
            part.rename(self.folder / name)
        except Exception as error:
            part.unlink(missing_ok=True)
            raise ExportError(
                f"{size} bytes of keys and values cannot be written into {self.folder}: {error}; "
                "name another folder, or make room"
            ) from error
        file = _File(name, start, stop, size, (salt, stop, prefix))
        if (old := self._files.get(file.key)) is not None:
            self._remove(old)
        self._files[file.key] = file
        self.bytes += size
        return file

    def _make_room(self, size: int) -> None:
        self._shrink(size)
        free = shutil.disk_usage(self.folder).free
        if self.bytes + size > self.max_bytes or size > free:
            raise ExportError(
                f"a conversation needs {size} bytes of keys and values in {self.folder}, but "
                f"running ones have {self.bytes} of the {self.max_bytes} that are allowed, and "
                f"{free} are free there: allow more, or run fewer at once"
            )

    def _shrink(self, more: int = 0) -> None:
        """Remove files that no request needs, the least recently used first."""
        for file in list(self._files.values()):
            if self.bytes + more <= self.max_bytes:
                return
            if not self._users[file.name]:
                self._remove(file)

    def _remove(self, file: _File) -> None:
        (self.folder / file.name).unlink(missing_ok=True)
        self._files.pop(file.key, None)
        self.bytes -= file.bytes


def _prefix(ids: Sequence[int], pictures: Sequence[Picture], stop: int) -> str:
    return prefix_digest(ids[:stop], [each for each in pictures if each.start < stop])


def _remove_files_of_the_dead(folder: Path) -> None:
    """Remove the files of workers that were killed."""
    for path in folder.glob("*.lock"):
        lock = FileLock(path, timeout=0)
        try:
            with lock:
                for left in folder.glob(f"{path.stem}*.safetensors*"):
                    left.unlink(missing_ok=True)
                path.unlink(missing_ok=True)
        except Timeout:
            continue  # it lives
