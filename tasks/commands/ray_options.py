"""Options of `visreplay eval` for workers of Ray, and what each of them does."""

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visreplay.agent.episode.limits import Limits
from visreplay.agent.policy.endpoint import KEY_VARIABLE
from visreplay.agent.policy.sampling import Sampling
from visreplay.replay_core.config import ReplayConfig
from visreplay.replay_core.errors import ConfigError
from visreplay.tasks.commands.console import Console
from visreplay.tasks.commands.cot_checker import load_checker
from visreplay.tasks.commands.engine_options import EngineOptions
from visreplay.tasks.commands.options import EndpointOptions, PairOptions
from visreplay.tasks.commands.remote_choice import choose_policy
from visreplay.tasks.commands.tool_runs import Cell
from visreplay.tasks.evaluation.evaluate import evaluate_sample, rollout_seed
from visreplay.tasks.evaluation.runs import IMAGES, SampleRecord
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Task
from visreplay.tools import ImageStore

if TYPE_CHECKING:
    from visreplay.tasks.evaluation.ray_workers import Play

PANEL = "Workers"
ADDRESS_VARIABLE = "RAY_ADDRESS"

PlayRun = Callable[[Cell, list[str]], Iterable[SampleRecord]]
"""Plays samples of a run, and gives a record for each as it ends."""


def _worker(name: str, help_text: str, **settings: Any) -> Any:
    return typer.Option(name, help=help_text, rich_help_panel=PANEL, **settings)


@dataclass(frozen=True)
class RayOptions:
    """Which workers of Ray play the samples."""

    ray: Annotated[
        bool,
        _worker("--ray", "Let workers of Ray play the samples, on this machine or on a cluster."),
    ] = False
    ray_address: Annotated[
        str | None,
        _worker(
            "--ray-address",
            "Address of a running Ray cluster. Default: RAY_ADDRESS, or else this machine alone.",
        ),
    ] = None
    workers: Annotated[
        int | None, _worker("--workers", "Number of workers. Default: 1.", min=1)
    ] = None
    gpus_per_worker: Annotated[
        float | None,
        _worker(
            "--gpus-per-worker",
            "GPUs of a worker, or a share of one. Default: 1 if there are any.",
            min=0,
        ),
    ] = None

    def check(self, engine: EngineOptions) -> None:
        """Refuse options that mean nothing, and tell whether Ray is missing.

        Raises:
            ConfigError: Options of workers without --ray, half GPUs above one, or an engine that
                fetches from one address.
            ImportError: Ray is not installed.
        """
        if not self.ray:
            for name in ("ray_address", "workers", "gpus_per_worker"):
                if getattr(self, name) is not None:
                    option = name.replace("_", "-")
                    raise ConfigError(f"--{option} is for workers of Ray: add --ray")
            return
        share = self.gpus_per_worker or 0.0
        if share > 1 and share != int(share):
            raise ConfigError(
                f"--gpus-per-worker is {share:g}, but above 1 it is a whole number of GPUs"
            )
        if engine.engine_listen is not None:
            raise ConfigError(
                "--engine-listen is one address, but every worker of --ray would need its own: "
                "let each worker start a server (--engine-python), or share --engine-folder"
            )
        _ray_workers()

    @contextmanager
    def playing(self, job: "EvaluationJob", at_once: int, console: Console) -> Iterator[PlayRun]:
        """Let workers play for the time of a block. They start when the first sample is played.

        Args:
            job: What they do.
            at_once: Samples that each plays at once.
            console: Where the user is told that workers do not start.
        """
        ray_workers = _ray_workers()
        with ExitStack() as stack:
            started: list[Any] = []

            def start() -> Any:
                address = self.ray_address or os.environ.get(ADDRESS_VARIABLE)
                count, share = self.workers or 1, self.gpus_per_worker
                stack.enter_context(ray_workers.cluster(address, count))
                if share is None:
                    share = 1.0 if ray_workers.gpus() and not job.endpoint.policy_url else 0.0
                if address is None and count * share > ray_workers.gpus():
                    raise ConfigError(
                        f"{count} workers with {share:g} GPUs each need {count * share:g}, but "
                        f"this machine has {ray_workers.gpus():g}: fewer --workers, or a smaller "
                        "--gpus-per-worker"
                    )
                return stack.enter_context(
                    ray_workers.Workers(
                        job,
                        count,
                        gpus=share,
                        at_once=at_once,
                        tell=lambda text: console.print(text, markup=False, soft_wrap=True),
                    )
                )

            def play(cell: Cell, left: list[str]) -> Iterator[SampleRecord]:
                if not started:
                    started.append(start())
                yield from started[0].play(
                    job.cells.index(cell), left, ImageStore(cell.out / IMAGES)
                )

            yield play


@dataclass(frozen=True)
class EvaluationJob:
    """What a worker of an evaluation does. It can be pickled.

    What is read from files of the user's is in it, as far as it is small: the recipes, with the
    checkpoint's texts. Checkpoints and data are read where the worker is.

    Attributes:
        pair: Which pair it loads.
        endpoint: Where the policy is, if another program runs it.
        engine: What writes the turns; a server that is started is the worker's own.
        config: How the loaded policy can replay.
        sampling: How a turn is decoded, with all that checkpoint and recipe say.
        limits: Where an episode is stopped.
        cells: The runs of the command.
        task: Name of the task.
        data: Its file.
        max_pixels: Largest picture that is decoded.
        digest: Digest of the data.
        rollouts: Rollouts of a sample.
        seed: Seed of the run.
        cot_checker: Name of the function that checks the reasoning.
        versions: The versions that the run records.
        folder: The folder that relative paths are relative to.
        key: Key of the endpoint.
    """

    pair: PairOptions
    endpoint: EndpointOptions
    engine: EngineOptions
    config: ReplayConfig
    sampling: Sampling
    limits: Limits
    cells: Sequence[Cell]
    task: str
    data: Path | None
    max_pixels: int | None
    digest: str | None
    rollouts: int
    seed: int
    cot_checker: str | None
    versions: dict[str, Any]
    folder: Path = field(default_factory=Path.cwd)
    key: str | None = field(default_factory=lambda: os.environ.get(KEY_VARIABLE), repr=False)

    @contextmanager
    def opened(self) -> "Iterator[Play]":
        """Load the policy in this process, which is a worker's, for the time of a block.

        Raises:
            ConfigError: The worker has other versions or other data, or cannot read the data.
            Exception: As the command itself, where it plays without workers.
        """
        from visreplay.agent.episode.agent import versions

        for name, version in versions().items():
            if version != self.versions[name]:
                raise ConfigError(
                    f"the worker on {socket.gethostname()} has {name} {version}, but the run is "
                    f"recorded with {self.versions[name]}: install the same version on all machines"
                )
        if self.folder.is_dir():
            os.chdir(self.folder)
        if self.key is not None:
            os.environ[KEY_VARIABLE] = self.key
        task = self._open_task()
        checker = load_checker(self.cot_checker) if self.cot_checker else None
        choice = choose_policy(self.pair, self.endpoint, Console(quiet=True))
        with self.engine.writer(choice, self.config) as writer:
            loaded = choice.agent(
                self.config, self.cells[0].recipe, self.sampling, self.limits, writer=writer
            )

            def play(run: int, sample_id: str, store: ImageStore) -> SampleRecord:
                agent = self.cells[run].agent(loaded, store)
                seeds = [rollout_seed(self.seed, sample_id, each) for each in range(self.rollouts)]
                return evaluate_sample(agent, task, sample_id, seeds, checker)

            yield play

    def _open_task(self) -> Task:
        try:
            task = get_task(self.task, self.data, max_pixels=self.max_pixels)
        except OSError as error:
            raise ConfigError(
                f"--data {self.data} cannot be read by the worker on {socket.gethostname()}: "
                f"{error.strerror or error}; every machine of --ray needs the data at that path"
            ) from error
        if getattr(task, "digest", None) != self.digest:
            raise ConfigError(
                f"--data {self.data} is another file for the worker on {socket.gethostname()} than "
                "here: copy the same data to all machines"
            )
        return task


def _ray_workers() -> ModuleType:
    """Import what knows Ray.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return import_module("visreplay.tasks.evaluation.ray_workers")
    except ModuleNotFoundError as error:
        raise ImportError(f"--ray needs Ray ({error}): pip install 'visreplay[ray]'") from error
