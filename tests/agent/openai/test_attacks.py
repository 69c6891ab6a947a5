"""A server in 6 GiB lives through what is meant to end it, and answers others right.

The limit is the kernel's, on the memory that the server's process may write to.
"""

import base64
import io
import json
import re
import resource
import signal
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai_served import client_of, number, read_all, sent
from PIL import Image
from served import COMMAND, ENVIRONMENT
from serving import talker

GIB = 2**30
LARGE = 19 * 2**20
"""Bytes of a request that is nearly as large as may be."""

POOLED = find_spec("visreplay.tools.media_pool") is not None
"""Whether media are decoded outside of the process: then they are part of the attack."""


def chat(content: Any = "x", **more: Any) -> bytes:
    messages = [{"role": "user", "content": content}]
    return json.dumps({"model": "policy", "messages": messages, "max_tokens": 1, **more}).encode()


def filled(item: bytes, field: str) -> bytes:
    """Millions of values."""
    values = b'{"a":[' + item * (LARGE // len(item)) + b"1]}"
    if field == "tools":
        values = b'[{"type":"function","function":{"name":"f","parameters":' + values + b"}}]"
    return chat()[:-1] + f',"{field}":'.encode() + values + b"}"


def shown(content: bytes, kind: str) -> bytes:
    uri = f"data:image/{kind};base64," + base64.b64encode(content).decode()
    return chat([{"type": "image_url", "image_url": {"url": uri}}])


def large_picture(side: int = 8000) -> bytes:
    """A PNG of 64 million transparent pixels in 250 KB."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(4 * side + 1)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def many_scans(scans: int, side: int = 2000) -> bytes:
    """A JPEG that says the same again and again, which takes hours to decode."""
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "jpeg", progressive=True)
    jpeg = file.getvalue()
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + last * scans + b"\xff\xd9"


def attacks() -> Iterator[bytes]:
    """Requests that hold a server up, or take its memory."""
    for field in ("metadata", "tools"):
        for item in (b"[],", b"{},", b'"",'):
            yield filled(item, field)
    yield chat()[:-1] + b',"metadata":' + b'{"a":' * 3_000_000 + b"1" + b"}" * 3_000_000 + b"}"
    yield chat()[:-1] + b',"seed":' + b"7" * LARGE + b"}"
    yield b'{"model":"policy","user":"' + b"\\/" * (LARGE // 2) + b'"}'
    yield json.dumps({"a": [[]] * 100_000}).encode("utf-16")
    yield from [shown(bytes(LARGE * 3 // 4), "png")] * 24
    if POOLED:
        picture, scans = shown(large_picture(), "png"), shown(many_scans(30_000), "jpeg")
        yield from [picture] * 10
        yield from [scans] * 4


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server whose answers are as long as may be, and for which two are being written."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (6 * GIB, 6 * GIB))

    with talker() as options:
        command = [*COMMAND[:-1], "serve", "--port", "0", "--max-running", "3", "--drain", "2"]
        process = subprocess.Popen(
            [*command, *options],
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=limit,
        )
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if found := re.search(r"at (http://\S+)/v1$", line):
                    break
            yield process, found[1]  # type: ignore[index]
        finally:
            process.kill()
            process.communicate()


def in_threads(works: list[Callable[[], None]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    return threads


def test_a_server_lives_through_attacks_and_answers_others_right(
    server: tuple[subprocess.Popen[str], str],
) -> None:
    process, url = server
    statuses: list[int] = []
    health: list[int] = []

    def attack(content: bytes) -> None:
        kind = {"Content-Type": "application/json"}
        try:
            response = httpx.post(
                f"{url}/v1/chat/completions", content=content, headers=kind, timeout=60
            )
        except httpx.TransportError:  # refused, and closed while it still sends
            return
        statuses.append(response.status_code)
        assert response.status_code < 400 or set(response.json()) == {"error"}

    def watch() -> None:
        while process.poll() is None and not done.is_set():
            health.append(httpx.get(f"{url}/health", timeout=30).status_code)
            time.sleep(0.05)

    with ExitStack() as stack:
        client = stack.enter_context(client_of(url, max_retries=20))

        def asked(which: int) -> str:
            create: Any = client.chat.completions.create
            answer = create(model="policy+replay", messages=number(which), max_tokens=6)
            content: str = answer.choices[0].message.content
            return content

        expected = [asked(which) for which in range(4)]
        assert len(set(expected)) > 1
        long = json.loads(chat("Tell", n=2, stream=True)) | {"max_tokens": 2000}
        stack.enter_context(sent(url, long))
        done = threading.Event()
        watching = in_threads([watch])
        attacking = in_threads([lambda each=each: attack(each) for each in attacks()])  # type: ignore[misc]
        for round_ in range(4):
            assert asked(round_) == expected[round_]
        for thread in attacking:
            thread.join(60)
        assert [asked(which) for which in range(4)] == expected
        done.set()
        watching[0].join(60)
    assert set(health) == {200}
    assert {413, 429} <= set(statuses) <= {200, 400, 408, 413, 422, 429}
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert peak and int(peak[1]) * 1024 < 3 * GIB
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_what_outlasts_the_drain_gets_an_error(
    server: tuple[subprocess.Popen[str], str],
) -> None:
    process, url = server
    long = json.loads(chat("Tell")) | {"max_tokens": 2000, "temperature": 1}
    plain = sent(url, {**long, "n": 2})
    stream = sent(url, {**long, "stream": True})
    waiting = sent(url, long)
    half = sent(url, b'{"model":', Content_Length="100")
    begun = stream.recv(2**16)
    while b"content" not in begun:
        begun += stream.recv(2**16)
    process.send_signal(signal.SIGTERM)
    for connection in (plain, waiting, half):
        head, _, body = read_all(connection, b"}}").partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 503 "), head
        assert json.loads(body)["error"]["type"] == "server_error"
    rest = read_all(stream)
    assert rest.endswith("\r\n0\r\n\r\n") and "[DONE]" not in rest
    *_, last = [line for line in rest.splitlines() if line.startswith("data: ")]
    assert "being stopped" in json.loads(last.removeprefix("data: "))["error"]["message"]
    assert process.wait(60) == 0
    assert process.stderr is not None and process.stderr.read() == ""
