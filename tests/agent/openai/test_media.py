"""Images and videos that the server refuses, and the places from which it reads others."""

import base64
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest
from openai_served import (
    clip,
    data_uri,
    image_part,
    is_error,
    post,
    sent,
    service,
    shows,
    until,
)
from PIL import Image
from served import served
from shared import png, write_clip
from web import Server, only_here, sends

from visreplay.agent.openai.routes import openai_app
from visreplay.replay_core import ModelPair
from visreplay.tools.fetch import Fetcher

RED = data_uri(Image.new("RGB", (40, 30), "red"))


def test_pictures_that_are_too_large(limited: str) -> None:
    allowed, larger = Image.new("RGB", (200, 200)), Image.new("RGB", (201, 200))
    assert post(limited, shows(image_part(allowed))).status_code == 200
    told = "at most 40000 are allowed"
    is_error(post(limited, shows(image_part(larger))), 422, told)
    is_error(post(limited, shows(image_part(Image.new("1", (30_000, 10_000))))), 422, told)
    is_error(post(limited, shows(image_part(Image.new("L", (7_000, 7_000))))), 422, told)
    three = [image_part(Image.new("RGB", (200, 200), colour)) for colour in ("red", "blue")]
    messages = [{"role": "user", "content": three}]
    is_error(post(limited, {"messages": messages}), 422, "more than 40,000 pixels together")
    is_error(post(limited, shows(image_part(Image.new("RGB", (30_000, 1))))), 422, "one side")


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("", "there is no image"),
        ("data:,", "no base64 data URI"),
        ("data:image/png;base64,AAAA", "not an image"),
        ("data:image/png;base64,*", "cannot be decoded"),
        (RED[: len(RED) // 2], ""),
        ("data:text/plain;base64,aGVsbG8=", "not an image"),
        ("visreplay:" + "0" * 64, "no image"),
        ("file:///etc/passwd", "outside the folders"),
        ("file://{root}/../private.png", "outside the folders"),
        ("{root}/link.png", "outside the folders"),
        ("../private.png", "outside the folders"),
        ("nul\0", "outside the folders"),
        ("ftp://example.org/a.png", "is a URL"),
        ("http://127.0.0.1:1/a.png", "not all of its addresses"),
        ("http://localhost:1/a.png", "not all of its addresses"),
        ("http://[::1]:1/a.png", "not all of its addresses"),
        ("http://169.254.169.254/latest", "not all of its addresses"),
        ("http://user:password@example.org/", "a URL with a user's name"),
    ],
)
def test_pictures_that_are_none(limited: str, uri: str, told: str) -> None:
    uri = uri.replace("{root}", limited.partition("#")[2])
    is_error(post(limited, shows(uri)), 422, told)
    is_error(post(limited, shows(clip(uri))), 422, "")


def test_files_below_a_root_are_read(limited: str) -> None:
    root = limited.partition("#")[2]
    sizes = [
        post(limited, shows(name)).json()["usage"]["prompt_tokens"]
        for name in (RED, "red.png", f"file://{root}/red.png", f"{root}/red.png")
    ]
    assert len(set(sizes)) == 1


def test_urls_only_where_they_are_allowed(
    embedded_pair: ModelPair, limited: str, server: Server
) -> None:
    server.answers["/red.png"] = sends(base64.b64decode(png("red")))
    name = f"{server.url}/red.png"
    is_error(post(limited, shows(name)), 422, "not all of its addresses")
    plain = service(embedded_pair)
    fetching = service(embedded_pair, fetch=Fetcher(allowed=only_here))
    with served(openai_app(plain)) as address:
        response = post(f"{address}/v1/chat/completions", shows(name))
        is_error(response, 422, "which is not fetched here")
        is_error(post(f"{address}/v1/chat/completions", shows("/etc/passwd")), 422, "no files")
    assert not server.asked
    with served(openai_app(fetching)) as address:
        assert post(f"{address}/v1/chat/completions", shows(name)).status_code == 200
        missing = shows(f"{server.url}/missing")
        is_error(post(f"{address}/v1/chat/completions", missing), 422, "answered 404")


def test_clips(limited: str, tmp_path: Path) -> None:
    def shown(name: str, frames: int, fps: int = 10) -> httpx.Response:
        path = write_clip(tmp_path / name, [90] * frames, fps)
        return post(limited, shows(clip(data_uri(path.read_bytes(), "video/mp4"))))

    short, long = shown("short.mp4", 10), shown("long.mp4", 10_000, 30)
    assert short.status_code == long.status_code == 200
    # Two frames, and four, which Qwen's models see in pairs.
    assert long.json()["usage"]["prompt_tokens"] > short.json()["usage"]["prompt_tokens"]
    is_error(shown("longer.mp4", 500, 1), 422, "has 500.0 s; at most 400 s are allowed")
    broken = (tmp_path / "short.mp4").read_bytes()[:500]
    is_error(post(limited, shows(clip(data_uri(broken, "video/mp4")))), 422, "")
    is_error(post(limited, shows(clip(RED))), 422, "not a video that can be read")


def test_no_more_images_are_fetched_for_a_client_that_leaves(
    embedded_pair: ModelPair, server: Server
) -> None:
    begun, going_on = threading.Event(), threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        begun.set()
        assert going_on.wait(60)
        sends(base64.b64decode(png("red")))(handler)

    server.answers["/red.png"] = slow
    content = [image_part(f"{server.url}/red.png")] * 5
    body = {"model": "policy", "messages": [{"role": "user", "content": content}]}
    fetching = service(embedded_pair, fetch=Fetcher(allowed=only_here))
    with served(openai_app(fetching)) as address:
        connection = sent(address, body)
        assert begun.wait(60)
        connection.close()
        until(address, running=0)
        going_on.set()
        # Whoever comes after is answered, and all that was begun is at its end.
        assert post(f"{address}/v1/chat/completions", shows(image_part(RED))).status_code == 200
    assert len(server.asked) == 1
