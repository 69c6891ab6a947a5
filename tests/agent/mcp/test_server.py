"""The tools of the MCP server, used by real clients over real pipes and sockets."""

import base64
import io
import sys
from pathlib import Path
from threading import Event
from typing import Any

import anyio
import numpy as np
import pytest
from mcp import ClientSession, McpError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import (
    CallToolResult,
    CancelledNotification,
    CancelledNotificationParams,
    ClientNotification,
)
from PIL import Image
from served import (
    COMMAND,
    ENVIRONMENT,
    PICTURE,
    SCENE,
    Scenario,
    call,
    images,
    same,
    served,
    structured,
    text,
    with_session,
)
from shared import MakeAgent

from visreplay.agent import VisualAgent
from visreplay.agent.mcp import server
from visreplay.agent.mcp.server import MAX_WAITING, client_media, http_app, mcp_server
from visreplay.tools import ToolError
from visreplay.tools.media_budget import Budget


async def every_tool(session: ClientSession) -> None:
    """What each tool gives in text, images and structured content, which the client validates."""
    listed = (await session.list_tools()).tools
    assert [tool.name for tool in listed] == [
        "crop", "zoom", "sample_frames", "video_info", "ask"
    ]  # fmt: skip
    assert all(tool.description and tool.outputSchema for tool in listed)

    box = [100, 200, 400, 500]
    cut = await session.call_tool("crop", {"image": "scene.png", "bbox": box})
    reference = structured(cut)["image"]
    assert structured(cut)["box"] == box
    assert structured(cut)["size"] == [300, 300]
    assert text(cut).startswith(f"box {box} px of the {PICTURE.width} x {PICTURE.height} px image")
    assert same(images(cut)[0], PICTURE.crop(tuple(box)))

    closer = await session.call_tool("zoom", {"image": reference, "bbox": [0, 0, 20, 20]})
    assert structured(closer)["source_size"] == [300, 300]
    assert list(images(closer)[0].size) == structured(closer)["size"] == [56, 56]

    frames = await session.call_tool("sample_frames", {"video": "clip.mp4", "times": [0.2, 1.8]})
    assert [frame["index"] for frame in structured(frames)["frames"]] == [2, 18]
    dark, bright = images(frames)
    assert dark.getpixel((5, 5))[0] < 20 < 230 < bright.getpixel((5, 5))[0]
    assert "frame at 0.20 s, shown at 64 x 48 px" in text(frames)

    info = await session.call_tool("video_info", {"video": "clip.mp4"})
    assert structured(info) == {"duration": 2.0, "fps": 10.0, "frame_count": 20, "size": [64, 48]}
    assert text(info) == "2.00 s, 20 frames of 64 x 48 px, 10.00 frames a second"

    reports: list[tuple[float, float | None, str | None]] = []

    async def progress(steps: float, most: float | None, message: str | None) -> None:
        reports.append((steps, most, message))

    request = {"question": SCENE.question, "images": ["scene.png"]}
    answer = await session.call_tool("ask", request, progress_callback=progress)
    episode = structured(answer)
    assert episode["answer"] == SCENE.answer
    assert episode["stop_reason"] == "answered"
    assert text(answer).startswith(f"{SCENE.answer} (answered)\nstep 1: zoom: box [")
    assert len(episode["steps"]) == 2
    for step in episode["steps"]:
        assert step["replay"]["method"] == "token"
        assert 0 < step["replay"]["kl_after"] < step["replay"]["kl_before"]
    assert [steps for steps, _, _ in reports] == [0, 1, 2]
    assert reports[1][1] == 8
    assert reports[1][2] is not None and reports[1][2].startswith("zoom: box [")

    use = episode["steps"][0]["calls"][0]
    assert use["name"] == "zoom"
    again = await session.call_tool("zoom", {"image": use["images"][0]})
    assert not again.isError

    refused = await session.call_tool("crop", {"image": "../private.png", "bbox": box})
    assert refused.isError
    assert "outside the folders" in text(refused)


def test_every_tool_over_http(url: str) -> None:
    with_session(url, every_tool)


def over_stdio(folder: Path, arguments: list[str], scenario: Scenario) -> str:
    """Start a server, play a scenario with it, and give what it wrote to standard error.

    Whatever is no message of the protocol on its standard output fails the test.
    """
    strange = []

    async def keep(message: object) -> None:
        if isinstance(message, Exception):
            strange.append(message)

    async def play() -> None:
        server = StdioServerParameters(command=sys.executable, args=arguments, env=ENVIRONMENT)
        with (folder / "errors").open("w") as errors:
            async with (
                stdio_client(server, errors) as (read, write),
                ClientSession(read, write, message_handler=keep) as session,
            ):
                await session.initialize()
                await scenario(session)

    anyio.run(play)
    assert not strange
    return (folder / "errors").read_text("utf-8")


def test_every_tool_over_stdio(root: Path, tmp_path: Path) -> None:
    errors = over_stdio(tmp_path, [*COMMAND[1:], "--root", str(root)], every_tool)
    assert "embedded pair" in errors


def test_standard_output_is_the_protocols_whatever_libraries_print(tmp_path: Path) -> None:
    script = """
import os
from visreplay.agent import VisualAgent
from visreplay.agent.mcp import server
from visreplay.agent.mcp.server import client_media, mcp_server
from visreplay.agent.mcp.stdio import serve_stdio

def load():
    print("printed")
    os.write(1, b"written by C\\n")
    raise OSError("there is no such model")

serve_stdio(mcp_server(client_media([]), load))
"""

    async def scenario(session: ClientSession) -> None:
        result = await session.call_tool("ask", {"question": "?"})
        assert result.isError
        assert "its log says why" in text(result)
        assert (await session.list_tools()).tools

    errors = over_stdio(tmp_path, ["-c", script], scenario)
    for line in ("printed", "written by C", "there is no such model"):
        assert line in errors


@pytest.mark.parametrize(
    ("tool", "arguments", "error"),
    [
        ("crop", {"image": "link.png", "bbox": [0, 0, 9, 9]}, "outside the folders"),
        ("crop", {"image": "{tmp}/private.png", "bbox": [0, 0, 9, 9]}, "outside the folders"),
        ("zoom", {"image": "nothing.png"}, "no image 'nothing.png'"),
        ("zoom", {"image": "broken.png"}, "cannot be read"),
        ("zoom", {"image": "clip.mp4"}, "not an image"),
        ("zoom", {"image": "https://example.org/a.png"}, "is a URL"),
        ("zoom", {"image": "data:image/png;base64,AAAA"}, "not an image"),
        ("zoom", {"image": "scene.png", "bbox": [9, 9, 1, 1]}, "no area"),
        ("zoom", {"image": "scene.png", "bbox": [9, 9]}, "four numbers"),
        ("zoom", {"image": "scene.png", "bbox": [0] * 5_000}, "at most 4 items"),
        ("zoom", {"image": "scene.png", "bbox": "everything"}, "valid list"),
        ("zoom", {}, "Field required"),
        ("sample_frames", {"video": "broken.png", "count": 2}, "not a video"),
        ("sample_frames", {"video": "clip.mp4", "count": 17}, "from 1 to 16"),
        ("sample_frames", {"video": "clip.mp4", "count": 2, "scenes": 2}, "exactly one"),
        ("sample_frames", {"video": "clip.mp4", "times": [9]}, "outside the clip"),
        ("video_info", {"video": "../clip.mp4"}, "outside the folders"),
        ("ask", {"question": ""}, "at least 1 character"),
        ("ask", {"question": "?", "images": ["scene.png"] * 9}, "at most 8 items"),
        ("ask", {"question": "?", "video": "link.png"}, "outside the folders"),
        ("ask", {"question": "?", "images": ["broken.png"]}, "cannot be read"),
        ("wipe", {}, "Unknown tool"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_and_the_server_lives_on(
    url: str, tmp_path: Path, tool: str, arguments: dict[str, Any], error: str
) -> None:
    if "image" in arguments:
        arguments = {**arguments, "image": arguments["image"].replace("{tmp}", str(tmp_path))}
    result = call(url, tool, **arguments)
    assert result.isError
    assert error in text(result)
    assert len(text(result)) < 2000
    assert not call(url, "zoom", image="scene.png").isError


def test_an_image_may_come_as_a_data_uri_and_no_file_is_read_without_a_root(
    root: Path, make_agent: MakeAgent
) -> None:
    file = io.BytesIO()
    PICTURE.save(file, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    with served(http_app(mcp_server(client_media([]), make_agent))) as address:
        url = f"{address}/mcp"
        cut = call(url, "crop", image=uri, bbox=[0, 0, 50, 50])
        assert same(images(cut)[0], PICTURE.crop((0, 0, 50, 50)))
        assert structured(call(url, "ask", question=SCENE.question, images=[uri]))["answer"]
        refused = call(url, "zoom", image=str(root / "scene.png"))
        assert refused.isError
        assert "no files may be read" in text(refused)


def test_large_pictures_and_large_crops_are_refused(root: Path, make_agent: MakeAgent) -> None:
    Image.new("1", (7000, 6000)).save(root / "huge.png")
    Image.new("1", (2500, 2000)).save(root / "large.png")
    with served(http_app(mcp_server(client_media([root]), make_agent))) as address:
        url = f"{address}/mcp"
        assert "at most 40000000 are allowed" in text(call(url, "zoom", image="huge.png"))
        whole = {"image": "large.png", "bbox": [0, 0, 2500, 2000]}
        assert "zoom shrinks" in text(call(url, "crop", **whole))
        view = images(call(url, "zoom", **whole))[0]
        assert view.width * view.height <= 1280 * 28 * 28


def test_a_question_that_the_client_gives_up_ends_after_a_step(
    root: Path, make_agent: MakeAgent
) -> None:
    given_up = Event()

    def load() -> VisualAgent:
        given_up.wait(60)
        return make_agent()

    async def scenario(session: ClientSession) -> None:
        request = {"question": SCENE.question, "images": ["scene.png"]}
        reports: list[float] = []

        async def give_up(steps: float, most: float | None, message: str | None) -> None:
            reports.append(steps)
            number = CancelledNotificationParams(requestId=session._request_id - 1)
            await session.send_notification(
                ClientNotification(CancelledNotification(params=number))
            )
            await anyio.sleep(0.5)  # for the server to read it
            given_up.set()

        with pytest.raises(McpError, match="cancelled"):
            await session.call_tool("ask", request, progress_callback=give_up)
        assert structured(await session.call_tool("ask", request))["answer"] == SCENE.answer
        assert reports == [0]

    with served(http_app(mcp_server(client_media([root]), load))) as address:
        url = f"{address}/mcp"
        with_session(url, scenario)


def test_so_many_questions_wait_and_no_more(root: Path) -> None:
    refused = Event()

    def load() -> VisualAgent:
        refused.wait(60)
        raise ToolError("nobody is there to answer")

    errors: list[str] = []

    async def scenario(session: ClientSession) -> None:
        async def ask() -> None:
            errors.append(text(await session.call_tool("ask", {"question": "?"})))
            refused.set()

        async with anyio.create_task_group() as group:
            for _ in range(MAX_WAITING + 2):
                group.start_soon(ask)

    with served(http_app(mcp_server(client_media([root]), load))) as address:
        url = f"{address}/mcp"
        with_session(url, scenario)
    assert "questions are waiting already" in errors[0]
    assert sum("nobody is there" in line for line in errors) == MAX_WAITING + 1


def test_a_call_that_is_given_up_ends_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread cannot be cancelled: the work is told, and its place is free when it has ended."""
    left = Event()
    monkeypatch.setattr(Budget, "leave", lambda budget: left.set())

    def work(budget: Budget) -> CallToolResult:
        assert left.wait(60)
        raise ToolError("the caller has left")

    def fail(budget: Budget) -> CallToolResult:
        raise ToolError("no")

    async def play() -> None:
        limiter = anyio.CapacityLimiter(1)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(server._in_thread, work, limiter)
                while not limiter.borrowed_tokens:
                    await anyio.sleep(0.01)
                assert not left.is_set()
                scope.cancel()
        assert left.is_set() and limiter.borrowed_tokens == 0
        # What is not given up gives its result, or its error as it is.
        done = CallToolResult(content=[])
        assert await server._in_thread(lambda budget: done, limiter) is done
        with pytest.raises(ToolError, match=r"^no$"):
            await server._in_thread(fail, limiter)

    anyio.run(play)


def test_a_noisy_photograph_fits_the_message_of_a_desktop_client(
    root: Path, make_agent: MakeAgent
) -> None:
    grain = np.random.default_rng(0).normal(128, 40, (3000, 4000, 3))
    Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8)).save(root / "noisy.jpg", quality=97)
    with served(http_app(mcp_server(client_media([root]), make_agent))) as address:
        url = f"{address}/mcp"
        calls: list[tuple[str, dict[str, Any]]] = [
            ("zoom", {"image": "noisy.jpg"}),
            ("zoom", {"image": "noisy.jpg", "bbox": [0, 0, 1500, 1500]}),
            ("crop", {"image": "noisy.jpg", "bbox": [0, 0, 2000, 2000]}),
            ("ask", {"question": SCENE.question, "images": ["noisy.jpg"]}),
        ]
        for tool, arguments in calls:
            result = call(url, tool, **arguments)
            assert not result.isError, text(result)
            assert len(result.model_dump_json(by_alias=True, exclude_none=True)) < 1_000_000
            if tool != "ask":
                assert "sent as JPEG" in text(result)
                (picture,) = images(result)
                assert list(picture.size) == structured(result)["size"]
                again = call(url, "zoom", image=structured(result)["image"])
                assert structured(again)["source_size"] == list(picture.size)
