"""Many clients of `visreplay serve` against one: `make bench`.

The embedded pair, token replay, greedy; the server in a process of its own with one torch thread,
the clients, OpenAI's, in this one. One client asks one question after the other, or several
clients ask the same ones at once, alternating; each question is about a picture of its own. The
server forgets every conversation (`--cache 0`), so that nothing is answered from what the other
side read. The embedded policy ends its turns after some 50 tokens, so a second server has a copy of
it that does not know the end of a turn: that one writes 256 tokens, whatever they are.

A third server, whose cache is soon full, is asked 2,000 questions more, and its resident memory
looked at after every 100. Writes rows of `benchmarks/latest.json`.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from memory import resident
from openai import AsyncOpenAI
from rich.console import Console
from rows import Row, table, write

from visreplay.replay_core import EMBEDDED
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Split

TASKS = ("visual-search-medium", "visual-search-hard")
TARGET = 2.5
FLAT = 1.02
"""How much more memory the last quarter of the requests may see than the second."""

CACHE = 64
"""MiB of the server whose memory is looked at; a conversation takes about half of one."""

COMMAND = [sys.executable, "-c", "from visreplay.tasks.commands.cli import main; main()", "serve"]

Request = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """The answer to a client, and the number of its tokens that were in the cache."""

    text: str | None
    calls: tuple[tuple[str, str], ...]
    tokens: int
    known: int


@dataclass(frozen=True)
class Server:
    """A server in a process of its own."""

    url: str
    process: int


@contextmanager
def server(*options: str) -> Iterator[Server]:
    """Serve with these options of `visreplay serve`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*COMMAND, "--port", str(port), *options]
    with subprocess.Popen(command, env=environment) as process:
        try:
            while not works(f"http://127.0.0.1:{port}/health"):
                if process.poll() is not None:
                    raise SystemExit(f"the server ended with {process.returncode}")
                time.sleep(0.1)
            yield Server(f"http://127.0.0.1:{port}/v1", process.pid)
        finally:
            process.terminate()


def works(url: str) -> bool:
    """Tell whether a server answers by now."""
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def talker() -> Iterator[list[str]]:
    """Options that serve a copy of the embedded policy to which a turn has no end.

    Its end-of-turn token is that of padding, which it never writes.
    """
    with TemporaryDirectory() as folder:
        policy = Path(shutil.copytree(EMBEDDED / "policy", Path(folder) / "policy"))
        for name in ("generation_config.json", "tokenizer_config.json"):
            settings = json.loads((policy / name).read_text("utf-8"))
            for kind in ("eos_token", "eos_token_id"):
                if kind in settings:
                    settings[kind] = settings[kind.replace("eos", "pad")]
            (policy / name).write_text(json.dumps(settings), "utf-8")
        named = {"--policy": policy, "--base": EMBEDDED / "base", "--protocol": "hermes"}
        # As `embedded_config`: the paper's settings want more layers than there are.
        named |= {"--replay-layers": 2, "--threshold": "quantile", "--tau": 0.5}
        yield [str(each) for option in named.items() for each in option]


def question(number: int, tasks: Sequence[str] = TASKS) -> Request:
    """A question about a picture of 1,344 or 2,016 pixels a side, which nobody else asks."""
    sample = get_task(tasks[number % len(tasks)]).sample(Split.HELD_OUT + number)
    file = io.BytesIO()
    sample.images[0].save(file, "png", compress_level=1)
    picture = {"url": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"}
    content = [
        {"type": "image_url", "image_url": picture},
        {"type": "text", "text": sample.question},
    ]
    return {
        "model": "policy+replay",
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_completion_tokens": 96,
    }


async def answer(client: AsyncOpenAI, request: Request) -> Answer:
    """One answer. Whatever goes wrong is raised."""
    got = await client.chat.completions.create(**request)
    message, usage = got.choices[0].message, got.usage
    assert usage is not None and usage.prompt_tokens_details is not None
    calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    known = usage.prompt_tokens_details.cached_tokens or 0
    return Answer(message.content, tuple(calls), usage.completion_tokens, known)


async def answers(url: str, clients: int, requests: Iterable[Request]) -> list[Answer]:
    """Send the requests from several clients, each of which sends one after the other."""
    found: dict[int, Answer] = {}
    left = iter(enumerate(requests))
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600) as client:

        async def ask() -> None:
            for number, request in left:
                found[number] = await answer(client, request)

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(ask())
    return [found[number] for number in range(len(found))]


def throughput(
    console: Console,
    name: str,
    options: Sequence[str],
    requests: Sequence[Request],
    clients: int,
    repeats: int,
) -> Iterator[Row]:
    """How much faster several clients are served than one, and whether each gets the same."""
    seconds: dict[int, list[float]] = {1: [], clients: []}
    expected: list[Answer] = []
    same = total = 0
    with server("--cache", "0", *options) as served:
        # What runs once only is not timed.
        asyncio.run(answers(served.url, clients, requests[-clients:]))
        for _ in range(repeats):
            for number, taken in seconds.items():
                began = time.perf_counter()
                found = asyncio.run(answers(served.url, number, requests))
                taken.append(time.perf_counter() - began)
                expected = expected or found
                same += sum(a == b for a, b in zip(found, expected, strict=True))
                total += len(found)
                console.print(f"{name}, {number} clients: {taken[-1]:.1f} s")
    assert not any(each.known for each in expected), "answers came from the cache"
    tokens = sum(each.tokens for each in expected)
    one, many = (f"{tokens / statistics.median(taken):,.0f}" for taken in seconds.values())
    row = Row.of(f"{clients} clients / one, {name}, tokens a second", *seconds.values(), TARGET)
    length = f"{tokens / len(requests):.3g} tokens an answer"
    yield replace(row, note=f"{many} / {one} tokens a second, {length}")
    share = same / total
    yield Row(
        f"answers that are those of one client, {name}",
        share,
        share,
        share,
        1,
        note=f"{same:,} of {total:,}",
    )


def memory(console: Console, clients: int, count: int) -> Row:
    """Tell whether a server's memory grows with what it is asked."""
    found: list[float] = []
    every = max(count // 20, 1)
    with server("--cache", str(CACHE)) as served:
        for first in range(0, count, every):
            requests = [question(first + n, tasks=TASKS[:1]) for n in range(every)]
            asyncio.run(answers(served.url, clients, requests))
            found.append(resident(served.process))
            console.print(f"{len(found) * every:,} requests: {found[-1]:.4f} GB")
    quarter = len(found) // 4
    second, last = found[quarter : 2 * quarter], found[-quarter:]
    slope = (statistics.median(last) - statistics.median(second)) / (2 * quarter * every)
    row = Row.of(
        f"resident memory of the server, last / second quarter of {count:,} requests",
        last,
        second,
        FLAT,
        "GB",
        at_most=True,
    )
    note = f"{row.note}, at most {max(found):.4g} GB, {1e6 * slope:+.3g} KB a request"
    return replace(row, note=note)


def main() -> None:
    """Measure, print, and write unless it is a trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=64, help="of each repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-requests", type=int, default=2000)
    parser.add_argument("--only", choices=["throughput", "memory"])
    parser.add_argument("--trial", action="store_true", help="do not write")
    chosen = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    rows: list[Row] = []
    if chosen.only != "memory":
        requests = [question(number) for number in range(chosen.requests)]
        with talker() as talks:
            for name, options, changes in (
                ("questions of the game, token replay", [], {}),
                ("questions of the game, no replay", [], {"model": "policy"}),
                ("256 tokens each, token replay", talks, {"max_completion_tokens": 256}),
            ):
                asked = [request | changes for request in requests]
                rows += throughput(console, name, options, asked, chosen.clients, chosen.repeats)
    if chosen.only != "throughput":
        rows.append(memory(console, chosen.clients, chosen.memory_requests))
    console.print(table(rows))
    if not chosen.trial:
        write(rows)


if __name__ == "__main__":
    main()
