"""Workers that play samples, started by Ray on this machine or on those of a cluster.

Ray places the workers, gives each its GPUs, and starts a new one for one that ends. A sample whose
worker ended is played again, by whichever worker is free; the same sample gives the same record at
any of them. This is the only file that imports ray.
"""

import logging
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock
from typing import Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError

from visreplay.replay_core.errors import ConfigError, ReplayError
from visreplay.tasks.evaluation.evaluate import empty_record
from visreplay.tasks.evaluation.runs import SampleRecord, references
from visreplay.tools import ImageStore

Play = Callable[[int, str, ImageStore], SampleRecord]
"""Plays a sample of a run, by the run's number and the sample's id, with its images in a store."""

TRIES = 3
"""How often a sample may end its worker, and how often a worker may end while it loads."""

_QUIET_SECONDS = 60.0
"""Time after which the user is told that no worker is ready yet."""
_CLOSE_SECONDS = 20.0
_CONTROL = "control"


class WorkersError(ReplayError, RuntimeError):
    """No worker is left; the message says why."""


class Job(Protocol):
    """A description of what workers do, which can be pickled."""

    def opened(self) -> AbstractContextManager[Play]:
        """Load what it takes to play samples, for the time of a block."""
        ...


class Worker:
    """A process that plays samples.

    Args:
        job: What it does.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._open = ExitStack()
        self._play: Play | None = None
        self._loading = Lock()

    def prepare(self) -> Play:
        """Load what it takes, if that has not been done."""
        with self._loading:
            if self._play is None:
                self._play = self._open.enter_context(self._job.opened())
            return self._play

    def awake(self) -> None:
        """Do nothing: the process runs."""

    def ready(self, awake: None) -> None:
        """Load what it takes.

        Args:
            awake: The result of `awake`, which is waited for.
        """
        self.prepare()

    def play(self, run: int, sample_id: str) -> tuple[SampleRecord, list[bytes]]:
        """Play a sample.

        Returns:
            Its record, and the images that it refers to as PNG files.
        """
        store = ImageStore()
        record = self.prepare()(run, sample_id, store)
        return record, [store.png(each) for each in dict.fromkeys(references(record))]

    @ray.method(concurrency_group=_CONTROL)
    def close(self) -> None:
        """Let go of everything, in the middle of a sample too."""
        self._open.close()


@contextmanager
def cluster(address: str | None, workers: int) -> Iterator[None]:
    """Connect to a cluster for the time of a block, if the process is not connected to one.

    Args:
        address: Where it is; None starts one on this machine, which ends with the block.
        workers: Number of workers that a cluster on this machine has room for.

    Raises:
        ConfigError: It cannot be reached, or not be used from here.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # which Ray sends to its makers
    own: dict[str, Any] = {}
    if address is None:
        own = {"include_dashboard": False, "num_cpus": workers}
    before = signal.getsignal(signal.SIGTERM)  # which Ray changes
    try:
        try:
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
        except (RuntimeError, ValueError, OSError, RayError) as error:
            where = f"at {address} " if address else ""
            raise ConfigError(
                f"Ray {where}cannot be used: {error}; is the address one of a cluster of the same "
                "versions of Ray and Python?"
            ) from error
        yield
    finally:
        ray.shutdown()
        if before is not None and signal.getsignal(signal.SIGTERM) is not before:
            signal.signal(signal.SIGTERM, before)


def gpus() -> float:
    """Count the GPUs of the cluster."""
    return float(ray.cluster_resources().get("GPU", 0.0))


class Workers(AbstractContextManager["Workers"]):
    """Workers on the cluster that this process is connected to; they end with the context.

    Args:
        job: What they do.
        count: How many there are. Those that the cluster has no room for yet wait for it.
        gpus: GPUs of each; a share of one lets several use it.
        at_once: Samples that each plays at once.
        tell: Called with what the user should know.
    """

    def __init__(
        self,
        job: Job,
        count: int = 1,
        *,
        gpus: float = 0.0,
        at_once: int = 1,
        tell: Callable[[str], None] = print,
    ) -> None:
        remote: Any = ray.remote
        kind = remote(concurrency_groups={_CONTROL: 1})(Worker)
        options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": -1, "max_concurrency": at_once}
        self._workers = [kind.options(**options).remote(job) for _ in range(count)]
        self._at_once = at_once
        self._tell = tell
        self._loaded: set[Any] = set()

    def play(
        self, run: int, sample_ids: Sequence[str], store: ImageStore
    ) -> Iterator[SampleRecord]:
        """Play samples; records come as they end, each when its images are in the store.

        At most `at_once` samples of each worker are played or wait to be taken, so memory is
        bounded. A sample that ends its worker `TRIES` times is an error.

        Args:
            run: The number of the run.
            sample_ids: The samples.
            store: The store of the run.

        Raises:
            WorkersError: All workers ended while they loaded.
            DiskError: An image cannot be written.
            Exception: The job cannot be begun, for that reason.
        """
        left = deque(sample_ids)
        ended: Counter[str | int] = Counter()  # by sample, and by place where one never loaded
        running: dict[Any, tuple[int, str | None]] = {}  # a place at a worker, and its sample
        free: list[int] = []
        reason = ""

        def worker_at(place: int) -> Any:
            return self._workers[place % len(self._workers)]

        def load(place: int) -> None:
            running[_begin(worker_at(place))] = place, None

        def start() -> None:
            while left and free:
                place, sample_id = free.pop(), left.popleft()
                running[worker_at(place).play.remote(run, sample_id)] = place, sample_id

        for place in range(len(self._workers) * self._at_once):
            load(place)
        while left or any(sample_id is not None for _, sample_id in running.values()):
            if not running:
                raise WorkersError(f"every worker ended while it loaded: {reason}")
            done = self._wait(list(running))
            place, sample_id = running.pop(done)
            try:
                result: Any = ray.get(done)
            except RayTaskError as error:  # of the code that it ran
                raise error.cause from error
            except RayError as error:  # of the worker, or of its machine
                reason = str(error).split("\n")[0]
                ended[place if sample_id is None else sample_id] += 1
                if sample_id is not None or ended[place] < TRIES:
                    load(place)
                if sample_id is not None and ended[sample_id] == TRIES:
                    yield _lost(sample_id, reason)
                elif sample_id is not None:
                    left.append(sample_id)
                    start()
                continue
            free.append(place)
            start()  # before the record is written
            if sample_id is None:
                self._loaded.add(worker_at(place))
                ended[place] = 0
            else:
                record, images = result
                for image in images:
                    store.put_png(image)
                yield record

    def __exit__(self, *error: object) -> None:
        """End the workers, in the middle of a sample too."""
        closing = [worker.close.remote() for worker in self._loaded]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_SECONDS)
        for worker in self._workers:
            ray.kill(worker)

    def _wait(self, running: list[Any]) -> Any:
        """Wait for the first that is done, and tell the user if it takes long."""
        done, _ = ray.wait(running, timeout=None if self._loaded else _QUIET_SECONDS)
        if not done:
            room = {name: ray.available_resources().get(name, 0) for name in ("CPU", "GPU")}
            self._tell(
                f"no worker is ready after {_QUIET_SECONDS:.0f} s: they load their policy, or the "
                f"cluster has no room for them (free: CPU {room['CPU']:g}, GPU {room['GPU']:g})"
            )
            done, _ = ray.wait(running)
        return done[0]


def _begin(worker: Any) -> Any:
    """Let a worker load, in a new process where its own has ended.

    Ray counts each second of a restart as a try, so it is waited for without a limit of tries; to
    end while it loads is another thing.
    """
    return worker.ready.remote(worker.awake.options(max_task_retries=-1).remote())


def _lost(sample_id: str, reason: str) -> SampleRecord:
    return empty_record(
        sample_id,
        f"WorkerEnded: its worker ended {TRIES} times ({reason}): was there too little memory? "
        "Start fewer --workers, or play fewer samples at once in each (--concurrency)",
    )
