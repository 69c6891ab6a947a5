"""What the tests of the OpenAI-compatible server share: its settings, requests and checks."""

import base64
import io
import json
import socket
import threading
import time
from typing import Any

import httpx
import pytest
from openai import OpenAI
from PIL import Image

from visreplay.agent.openai.routes import ServerLimits, ServiceConfig, served_models
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.protocols import EmbeddedProtocol, get_protocol
from visreplay.agent.protocols.tool_schemas import box, signature
from visreplay.replay_core import Batch, Method, ModelPair, embedded_config
from visreplay.replay_core.batch import Continuation
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Sample, Split
from visreplay.tools import ImageStore, load_image, parse_box
from visreplay.tools import zoom as enlarged

Json = dict[str, Any]

GAME = get_task("visual-search-medium")
SEARCH = GAME.sample(Split.TUNING + 1)
ZOOM = signature(
    "zoom",
    "Look at a region of the picture, in cells of an 8 x 8 grid.",
    {"label": {"type": "string"}, "bbox_2d": box("in cells")},
)
USER: Json = {"role": "user", "content": "Hello"}
MODELS = ("policy", "policy+replay", "base")


def service(pair: ModelPair, **changes: Any) -> ServiceConfig:
    """The embedded pair in its own protocol; `changes` are limits or fields of `ServiceConfig`."""
    of_limits = {name: changes.pop(name) for name in [*changes] if hasattr(ServerLimits, name)}
    limits = ServerLimits(**{"max_new_tokens": 96, **of_limits})
    models = served_models(pair, embedded_config(Method.TOKEN))
    return ServiceConfig(pair, models, protocol="embedded", limits=limits, **changes)


def client_of(address: str, **options: Any) -> OpenAI:
    return OpenAI(**{"base_url": f"{address}/v1", "api_key": "-", "max_retries": 0, **options})


def data_uri(image: Image.Image | bytes, kind: str = "image/png") -> str:
    if isinstance(image, Image.Image):
        file = io.BytesIO()
        image.save(file, "png")
        image = file.getvalue()
    return f"data:{kind};base64,{base64.b64encode(image).decode()}"


def image_part(image: Image.Image | str) -> Json:
    url = image if isinstance(image, str) else data_uri(image)
    return {"type": "image_url", "image_url": {"url": url}}


def prompt(sample: Sample = SEARCH) -> list[Json]:
    """A question about a picture."""
    pictures = [image_part(load_image(image)) for image in sample.images]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": sample.question}]}]


def number(which: int) -> list[Json]:
    """One of many questions."""
    return prompt(GAME.sample(Split.TUNING + which))


def zoomed(pair: ModelPair, arguments: str, sample: Sample = SEARCH) -> Json:
    """The result of `zoom`, as the part of a message."""
    picture = load_image(sample.images[0])
    cells = (EmbeddedProtocol.CELLS, EmbeddedProtocol.CELLS)
    grid = get_protocol("embedded", token_grid(pair.processor), ImageStore()).frame_grid
    region = parse_box(json.loads(arguments)["bbox_2d"], cells, picture.size)
    return image_part(enlarged(picture, region, grid=grid))


def answer_in(content: str | None) -> str:
    """The answer between the tags of a turn."""
    return (content or "").partition("<answer>")[2].partition("</answer>")[0]


class Steps:
    """Holds up the decoding steps of all batches, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken = 0
        self._free = threading.Event()
        self._allowed = threading.Semaphore(0)
        step = Batch.step

        def held(batch: Batch) -> list[Continuation]:
            while not (self._free.is_set() or self._allowed.acquire(timeout=0.01)):
                pass
            self.taken += 1
            return step(batch)

        monkeypatch.setattr(Batch, "step", held)

    def allow(self, steps: int = 1) -> None:
        self._allowed.release(steps)

    def let_go(self) -> None:
        self._free.set()


def until(address: str, **state: int) -> None:
    """Wait until the server's health has these values."""
    for _ in range(1000):
        health = httpx.get(f"{address}/health").json()
        if all(health[name] == value for name, value in state.items()):
            return
        time.sleep(0.02)
    raise AssertionError(f"health is {health}, not {state}")


def sent(address: str, body: Json | bytes, **headers: str) -> socket.socket:
    """A connection on which a request was sent, and no response is read."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "Content-Type: application/json"
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", kind]
    headers = {"Content_Length": str(len(content)), **headers}
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    connection = socket.socket()
    connection.settimeout(60)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", int(address.rpartition(":")[2])))
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + content)
    return connection


def read_all(connection: socket.socket, end: bytes = b"\r\n0\r\n\r\n") -> str:
    """What a server sends in chunks, until it is at its end or closes."""
    content = b""
    with connection:
        while not content.endswith(end) and (more := connection.recv(2**16)):
            content += more
    return content.decode()


def is_error(response: httpx.Response, status: int, message: str) -> None:
    """Check that a response is an error in OpenAI's form."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert message in error["message"], error
    assert error["code"] == str(status) and len(error["message"]) <= 1000


def post(url: str, body: Json | str | bytes, stream: bool = False) -> httpx.Response:
    """Send a body, or the fields of one, to a URL; what follows # in it is left out."""
    if isinstance(body, dict):
        body = json.dumps({"model": "policy", "messages": [USER], "stream": stream, **body})
    headers = {"Content-Type": "application/json"}
    return httpx.post(url.partition("#")[0], content=body, headers=headers, timeout=60)


def shows(part: Json | str) -> Json:
    """The fields of a request with a part, or with an image by its URL."""
    part = image_part(part) if isinstance(part, str) else part
    return {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]}


def clip(uri: str) -> Json:
    return {"type": "video_url", "video_url": {"url": uri}}
