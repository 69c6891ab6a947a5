"""What decoding in child processes costs an episode of the embedded pair: `make bench`.

The same episodes are played twice, in turns: once as they are, and once with the same decoder in
this process. Pictures are read from PNG files, videos from the files of the task. Writes two rows
of `benchmarks/latest.json`.
"""

import argparse
import mmap
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rows import Row, table, timed, write

from visreplay.agent import VisualAgent
from visreplay.agent.episode.embedded_agent import embedded_agent, prepare_process
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Sample
from visreplay.tools import image, video
from visreplay.tools.files import OpenFile
from visreplay.tools.media_pool import Decoded
from visreplay.tools.media_wire import anonymous_file
from visreplay.tools.media_worker import OPERATIONS

TARGET = 1.2
TASKS = {"picture": "visual-search-easy", "video": "video-search"}


class InProcess:
    """Answers requests as the pool does, without a child."""

    def decode(self, request: Mapping[str, Any], file: OpenFile, **limits: object) -> Decoded:
        """Answer a request about a file."""
        output = anonymous_file()
        try:
            whole = {**request, "name": file.name}
            values = OPERATIONS[request["op"]](whole, file.path, output)
            size = os.fstat(output).st_size
            pixels = mmap.mmap(output, size, prot=mmap.PROT_READ) if size else b""
        finally:
            os.close(output)
        return Decoded(values, memoryview(pixels))


@contextmanager
def in_process() -> Iterator[None]:
    """Decode in this process within the context."""
    with patch.object(image, "POOL", InProcess()), patch.object(video, "POOL", InProcess()):
        yield


def play(agent: VisualAgent, samples: list[tuple[Sample, list[Path]]]) -> None:
    """Play an episode of each sample."""
    for sample, pictures in samples:
        agent.run(sample.question, images=pictures, video=sample.video)


def measure(kind: str, episodes: int, repeats: int, console: Console) -> Row:
    """Compare both ways on a task."""
    task = get_task(TASKS[kind])
    samples = []
    with TemporaryDirectory() as folder:
        for sample_id in task.sample_ids()[:episodes]:
            sample = task.load(sample_id)
            paths = []
            for number, picture in enumerate(sample.images):
                paths.append(Path(folder) / f"{len(samples)}-{number}.png")
                picture.save(paths[-1])
            samples.append((sample, paths))
        agent = embedded_agent("policy+token")
        work = partial(play, agent, samples)
        work()  # children start, and libraries are loaded, once
        ours: list[float] = []
        plain: list[float] = []
        for _ in range(repeats):
            ours.append(timed(work) / episodes)
            with in_process():
                plain.append(timed(work) / episodes)
            console.print(f"{kind}: {ours[-1]:.3f} s an episode, in process {plain[-1]:.3f} s")
    name = f"episode with a {kind}, token replay, decoded in a child / in the process"
    return Row.of(name, ours, plain, TARGET, at_most=True)


def main() -> None:
    """Measure both kinds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    prepare_process()
    rows = [measure(kind, arguments.episodes, arguments.repeats, console) for kind in TASKS]
    write(rows)
    console.print(table(rows))


if __name__ == "__main__":
    main()
