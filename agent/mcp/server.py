"""The visual tools and whole replay episodes for any MCP client.

`mcp_server(media, load)` has the tools `crop`, `zoom`, `sample_frames`, `video_info` and `ask`;
clients reach it through `http_app`, or `mcp_stdio.serve_stdio`.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from anyio import CapacityLimiter, from_thread, move_on_after, to_thread
from anyio.lowlevel import checkpoint_if_cancelled
from mcp.server.fastmcp import Context, FastMCP
from mcp.types import CallToolResult, ToolAnnotations
from PIL import Image
from pydantic import Field, StrictFloat, StrictInt

from visreplay.agent.episode.loop import completed
from visreplay.agent.episode.trajectory import Trajectory
from visreplay.agent.episode.visual_agent import VisualAgent
from visreplay.agent.mcp.results import (
    EpisodeResult,
    FrameResult,
    FramesResult,
    RegionResult,
    StepResult,
    VideoResult,
    result,
)
from visreplay.agent.serving.auth import App, KeyRequired
from visreplay.agent.state import EpisodeState
from visreplay.replay_core import ReplayError
from visreplay.tools import Box, ImageStore, Media, TokenGrid, ToolError, parse_box
from visreplay.tools import image as pictures
from visreplay.tools import video as clips
from visreplay.tools.image import region_line

MAX_PIXELS = 40_000_000
"""Of an image that is opened; an 8K image has 33 million."""
MAX_URI = 16 * 2**20
"""Characters of a data URI."""
MAX_CROPPED = 4_000_000
"""Pixels of a crop, which is sent as it is."""
GRID = TokenGrid().capped(1280 * 28 * 28)
"""What `zoom` shows has about a million pixels at most."""
MAX_FRAMES = 16
FRAME_SIDE = 768
"""Longest side of a frame that is shown, in pixels."""
MAX_ASKED = 8
"""Images that a question may be about, and questions that may wait while another is answered."""

LOOKS = ToolAnnotations(readOnlyHint=True, idempotentHint=True, openWorldHint=False)

ImageName = Annotated[
    str, Field(description="Reference of an image that was shown, path of a file, or data URI.")
]
VideoName = Annotated[str, Field(description="Path of a clip's file.")]
Region = Annotated[
    list[StrictInt | StrictFloat],
    # A longer list is refused before each of its items is.
    Field(max_length=4, description="[x1, y1, x2, y2] in pixels of the image."),
]
Tell = Callable[[int, int | None, str], None]
"""Told how many steps were made, of how many at most, and what there is to say."""

log = logging.getLogger(__name__)


def client_media(roots: Sequence[Path], *, max_pixels: int = MAX_PIXELS) -> Media:
    """What clients may name: images that were shown of late, data URIs, files below the roots."""
    return Media(ImageStore(forgetful=True), tuple(roots), max_pixels, MAX_URI)


def mcp_server(
    media: Media, load: Callable[[], VisualAgent], *, seed: int = 0, host: str = "127.0.0.1"
) -> FastMCP:
    """The server, for any transport.

    Args:
        media: What clients may name.
        load: Gives the agent that answers questions; called when the first one is asked.
        seed: Of sampling, where a client names none.
        host: Where it will be served over HTTP. On loopback, requests that a web page tricked a
            browser into are refused, by the names in their Host and Origin.
    """
    server: FastMCP = FastMCP(
        "visreplay",
        instructions="Look closely at pictures and clips, or ask a model that does.",
        log_level="WARNING",
        host=host,
        max_request_body_size=MAX_URI + 2**20,
        max_sessions=256,
    )
    looking, answering = CapacityLimiter(4), CapacityLimiter(1)
    agent = cache(load)

    @server.tool(annotations=LOOKS)
    async def crop(image: ImageName, bbox: Region) -> Annotated[CallToolResult, RegionResult]:
        """Cut a region out of an image, pixel for pixel."""

        def work() -> CallToolResult:
            source = media.image(image)
            box = parse_box(bbox, source.size, source.size)
            if box.area > MAX_CROPPED:
                raise ToolError(
                    f"the crop has {box.width} x {box.height} = {box.area} pixels; at most "
                    f"{MAX_CROPPED} are sent as they are, but zoom shrinks a larger region"
                )
            return _region(media.store, source, box, pictures.crop(source, box))

        return await _in_thread(work, looking)

    @server.tool(annotations=LOOKS)
    async def zoom(
        image: ImageName, bbox: Region | None = None
    ) -> Annotated[CallToolResult, RegionResult]:
        """Look at a region of an image, or at all of it, at a size that a model sees well."""

        def work() -> CallToolResult:
            source = media.image(image)
            whole = [0, 0, *source.size]
            box = parse_box(whole if bbox is None else bbox, source.size, source.size)
            return _region(media.store, source, box, pictures.zoom(source, box, grid=GRID))

        return await _in_thread(work, looking)

    @server.tool(annotations=LOOKS)
    async def sample_frames(
        video: VideoName,
        count: Annotated[
            int | None, Field(description="So many, evenly over the clip (or over the window).")
        ] = None,
        times: Annotated[
            list[float] | None, Field(max_length=MAX_FRAMES, description="At these, in seconds.")
        ] = None,
        around: Annotated[float | None, Field(description="Around this time in seconds.")] = None,
        window: Annotated[
            float, Field(description="Length in seconds of the window around that time.")
        ] = 1.0,
        scenes: Annotated[
            int | None, Field(description="The starts of at most so many scenes.")
        ] = None,
    ) -> Annotated[CallToolResult, FramesResult]:
        """Show frames of a clip, chosen by exactly one of count, times, around and scenes."""

        def work() -> CallToolResult:
            frames = clips.sample_frames(
                media.file(video, "clip"),
                count=count,
                times=times,
                around=around,
                window=window,
                scenes=scenes,
                max_frames=MAX_FRAMES,
                max_side=FRAME_SIDE,
            )
            shown = [
                FrameResult(
                    image=media.store.put(frame.image),
                    time=frame.time,
                    index=frame.index,
                    size=list(frame.image.size),
                )
                for frame in frames
            ]
            return result(
                "\n".join(frame.told() for frame in shown),
                FramesResult(frames=shown),
                [frame.image for frame in frames],
            )

        return await _in_thread(work, looking)

    @server.tool(annotations=LOOKS)
    async def video_info(video: VideoName) -> Annotated[CallToolResult, VideoResult]:
        """Tell what a clip is: duration, frame rate, number and size of its frames."""

        def work() -> CallToolResult:
            info = clips.probe(media.file(video, "clip"))
            told = VideoResult(
                duration=info.duration,
                fps=info.fps,
                frame_count=info.frame_count,
                size=list(info.size),
            )
            return result(told.told(), told)

        return await _in_thread(work, looking)

    @server.tool(annotations=LOOKS)
    async def ask(
        question: Annotated[str, Field(min_length=1, max_length=20_000)],
        context: Context[Any, Any, Any],
        images: Annotated[
            list[ImageName] | None,
            Field(max_length=MAX_ASKED, description="What it is about, in order."),
        ] = None,
        video: Annotated[str | None, Field(description="Path of the clip it is about.")] = None,
        seed: Annotated[int, Field(ge=0, description="Of sampling.")] = seed,
    ) -> Annotated[CallToolResult, EpisodeResult]:
        """Ask a model that looks closer by itself, with Activation Replay at every step."""
        reports: list[asyncio.Task[None]] = []

        def tell(made: int, most: int | None, message: str) -> None:
            from_thread.check_cancelled()
            # Sent beside the work: who does not listen must not hold up the others.
            from_thread.run_sync(
                lambda: reports.append(
                    asyncio.create_task(context.report_progress(made, most, message))
                )
            )

        def work() -> CallToolResult:
            tell(0, None, "loading")
            opened = [media.image(name) for name in images or ()]
            clip = None if video is None else media.file(video, "clip")
            # A store of its own: an episode may show more than a forgetful one keeps.
            with closing(agent().with_store(ImageStore())) as player:
                start = player.start(question, images=opened, video=clip, seed=seed)
                told = EpisodeResult.of(_played(player, start, tell))
                for reference in told.references():
                    media.store.put(player.store.get(reference))
            return result(told.told(), told)

        if answering.statistics().tasks_waiting >= MAX_ASKED:
            raise ToolError(f"{MAX_ASKED} questions are waiting already: ask again later")
        try:
            return await _in_thread(work, answering)
        finally:
            # The last of them belong before the result, but not at any price.
            with move_on_after(5):  # seconds
                await asyncio.gather(*reports, return_exceptions=True)

    return server


def http_app(server: FastMCP, api_key: str | None = None) -> App:
    """The server as an ASGI application, at /mcp; with a key, only for those who send it."""
    app = server.streamable_http_app()
    return app if api_key is None else KeyRequired(app, api_key)


async def _in_thread(
    work: Callable[[], CallToolResult], limiter: CapacityLimiter
) -> CallToolResult:
    """What a tool's work gives; other clients are served meanwhile.

    What a client can mend is told to it, anything else to the log.
    """
    try:
        return await to_thread.run_sync(work, limiter=limiter)
    except (ToolError, ReplayError):
        raise
    except Exception as error:
        await checkpoint_if_cancelled()  # what was given up while it told of progress
        log.exception("a tool failed")
        raise RuntimeError("the server failed at this; its log says why") from error


def _region(store: ImageStore, source: Image.Image, box: Box, shown: Image.Image) -> CallToolResult:
    reference = store.put(shown)
    told = RegionResult(
        image=reference,
        box=list(box.as_tuple()),
        source_size=list(source.size),
        size=list(shown.size),
    )
    return result(f"{region_line(source.size, box, shown.size)} ({reference})", told, [shown])


def _played(agent: VisualAgent, state: EpisodeState, tell: Tell) -> Trajectory:
    """Play an episode to its end, telling of every step."""
    most = agent.limits.max_steps or agent.protocol.max_steps
    for event in agent.stream(state):
        for step in completed(event, state):
            tell(step["index"] + 1, most, StepResult.of(step).told())
        state = event
    return agent.trajectory(state)
