"""A small pool of child processes that decode pictures and videos.

Every picture and video that anybody names is decoded here. A damaged file can end its decoder, take
hours, or ask for all memory; a child process has limits of memory and time, and is ended when the
caller leaves. `media_worker` is the other end: the file goes there as a descriptor, and pixels come
back in anonymous shared memory, so that neither side opens what the other names.
"""

import atexit
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from visreplay.tools.files import OpenFile
from visreplay.tools.media_budget import CALLER, Budget
from visreplay.tools.media_wire import receive, send
from visreplay.tools.types import ToolError

MAX_SECONDS = 300.0
"""Default of the time that one picture or video may take, in seconds, waiting included."""
MAX_WAIT = 86_400.0
"""Longest time that is waited for, in seconds."""
_WORKERS = min(4, os.cpu_count() or 1)
_START_SECONDS = 60.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
"""The only environment variables that a child gets: others may hold keys."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a child answered.

    Attributes:
        values: The JSON of the answer.
        pixels: The bytes of the answer; empty if it has none.
    """

    values: dict[str, Any]
    pixels: memoryview


class MediaPool:
    """Child processes that are started when they are needed and used again.

    Args:
        workers: Largest number of children.
    """

    def __init__(self, workers: int = _WORKERS) -> None:
        self._most = workers
        self._open()

    def _open(self) -> None:
        self._changed = threading.Condition()
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._starting = 0

    def decode(
        self,
        request: Mapping[str, Any],
        file: OpenFile,
        *,
        seconds: float = MAX_SECONDS,
        budget: Budget | None = None,
    ) -> Decoded:
        """Let a child answer a request about a file.

        Args:
            request: The request, as JSON; see `media_worker`.
            file: The file.
            seconds: Time for everything, waiting for a free child included.
            budget: The limits of the caller; if they leave, the child is ended. By default, those
                of `CALLER`.

        Raises:
            ToolError: The file cannot be read, the child ended, or it took too long.
        """
        job = _Job(self, file, seconds)
        budget = budget or CALLER.get()
        with budget.ended_by(job.cancel) if budget else nullcontext():
            return job.run(request)

    def close(self) -> None:
        """End all children; what they were decoding is an error."""
        with self._changed:
            idle, self._idle = self._idle, []
            for worker in (*idle, *self._busy):
                worker.kill()
        for worker in idle:
            worker.reap()

    def _forget(self) -> None:
        """Leave the children to the process that this one was forked from."""
        for worker in (*self._idle, *self._busy):
            worker.forget()
        self._open()

    def _take(self, job: "_Job") -> "_Worker":
        """Get a free child, or start one.

        Raises:
            TimeoutError: None gets free in time, or the job is cancelled meanwhile.
        """
        with self._changed:
            while not self._idle and len(self._busy) + self._starting >= self._most:
                if not self._changed.wait(job.left()):
                    raise TimeoutError
                if job.cancelled:
                    raise TimeoutError
            while self._idle:
                worker = self._idle.pop()
                if worker.is_alive():
                    return self._assign(worker, job)
                worker.reap()
            self._starting += 1
        try:
            worker = _Worker()
        except BaseException:
            with self._changed:
                self._starting -= 1
                self._changed.notify_all()
            raise
        with self._changed:
            self._starting -= 1
            return self._assign(worker, job)

    def _assign(self, worker: "_Worker", job: "_Job") -> "_Worker":
        self._busy.add(worker)
        job.worker = worker
        if job.cancelled:
            worker.kill()
        return worker

    def _give_back(self, worker: "_Worker", job: "_Job") -> None:
        with self._changed:
            job.worker = None  # a later cancellation is not meant for the next job
            self._busy.discard(worker)
            ready = worker.ready
            if ready:
                self._idle.append(worker)
            self._changed.notify_all()  # one may have given up waiting just now
        if not ready:
            worker.reap()


@dataclass(eq=False)
class _Job:
    """A request on its way through the pool."""

    pool: MediaPool
    file: OpenFile
    seconds: float

    def __post_init__(self) -> None:
        self._until = time.monotonic() + min(self.seconds, MAX_WAIT)
        self.cancelled = False
        self.worker: _Worker | None = None

    def left(self) -> float:
        """Compute the seconds that are left, at least 0."""
        return max(0.0, self._until - time.monotonic())

    def cancel(self) -> None:
        """End the child, or stop to wait for one."""
        with self.pool._changed:
            self.cancelled = True
            if self.worker is not None:
                self.worker.kill()
            self.pool._changed.notify_all()

    def run(self, request: Mapping[str, Any]) -> Decoded:
        """Get a child and its answer."""
        try:
            worker = self.pool._take(self)
            try:
                whole = {**request, "name": self.file.name, "seconds": self.left()}
                reply = worker.ask(whole, self.file.descriptor, self.left())
            except BaseException:
                worker.kill()
                raise
            finally:
                self.pool._give_back(worker, self)
        except TimeoutError:
            raise self._too_late() from None
        except _EndedError as error:
            if self.cancelled:
                raise self._too_late() from None
            raise ToolError(f"{self.file.name} cannot be read: its decoder {error}") from None
        if "error" in reply.values:
            raise ToolError(reply.values["error"])
        return reply

    def _too_late(self) -> ToolError:
        if self.cancelled:
            return ToolError(f"{self.file.name} is read no further: the caller has left")
        return ToolError(
            f"decoding {self.file.name} takes longer than the {self.seconds:.4g} s that are allowed"
        )


class _EndedError(Exception):
    """A child ended before it answered; the text says how."""


class _Worker:
    """A child process."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._life, theirs_too = (
            socket.socketpair()
        )  # closed by the system if this process is killed
        environment = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        with theirs, theirs_too:
            numbers = [theirs.fileno(), theirs_too.fileno()]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # decoders write there about the file
                pass_fds=numbers,
                env={
                    **environment,
                    **_ONE_THREAD,
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                },
            )
        self.ready = True
        try:
            self._receive(_START_SECONDS)
        except (OSError, _EndedError) as error:
            self.kill()
            self.reap()
            raise RuntimeError(
                "the process that decodes pictures and videos does not start: "
                f'`{sys.executable} -c "import visreplay.tools.media_worker"` says why'
            ) from error

    def ask(self, request: Mapping[str, Any], descriptor: int, timeout: float) -> Decoded:
        """Send a request with a file, and wait for the answer.

        Raises:
            TimeoutError: The answer does not come in time.
            _EndedError: The child has ended.
        """
        try:
            self._socket.settimeout(max(timeout, 1e-3))
            send(self._socket, request, descriptor)
            return self._receive(timeout)
        except TimeoutError:
            raise
        except OSError as error:
            raise _EndedError(self._end()) from error

    def _receive(self, timeout: float) -> Decoded:
        try:
            values, descriptor = receive(self._socket, timeout)
            if values.pop("last", False):
                self.ready = False  # it ends by itself
        except EOFError as error:
            raise _EndedError(self._end()) from error
        if descriptor is None:
            return Decoded(values, memoryview(b""))
        try:
            size = os.fstat(descriptor).st_size
            pixels = mmap.mmap(descriptor, size, prot=mmap.PROT_READ) if size else b""
            return Decoded(values, memoryview(pixels))
        finally:
            os.close(descriptor)

    def is_alive(self) -> bool:
        """Tell whether the child has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the child at once."""
        self.ready = False
        self._process.kill()

    def reap(self) -> int:
        """Wait for the end of the child, which ends by itself or was killed; return its code."""
        self.ready = False
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._socket.close()
        self._life.close()
        return self._process.wait()

    def forget(self) -> None:
        """Let go of a child that belongs to another process."""
        self._socket.close()
        self._life.close()
        self._process.returncode = 0  # there is nothing to wait for

    def _end(self) -> str:
        """Say how the child ended."""
        code = self.reap()
        if code >= 0:
            return f"ended with code {code}"
        if -code == signal.SIGXCPU:
            return "used all the time that it may use"
        return f"was ended by {signal.Signals(-code).name}: the file is damaged, or made to do that"


_PROGRAM = "from visreplay.tools.media_worker import main; main()"

POOL = MediaPool()
"""The pool of this process."""
atexit.register(POOL.close)
os.register_at_fork(after_in_child=POOL._forget)
