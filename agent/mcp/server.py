"""The visual tools and whole replay episodes for any MCP client.

`mcp_server(media, load)` has the tools `crop`, `zoom`, `sample_frames`, `video_info` and `ask`;
clients reach it through `http_app`, or `stdio.serve_stdio`.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cache, partial
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

from anyio import (
    CapacityLimiter,
    create_task_group,
    from_thread,
    move_on_after,
    sleep_forever,
    to_thread,
)
from anyio.lowlevel import checkpoint_if_cancelled
from mcp.server.fastmcp import Context, FastMCP
from mcp.types import CallToolResult, ToolAnnotations
from pydantic import Field

from visreplay.agent.episode.loop import completed_steps
from visreplay.agent.episode.trajectory import Trajectory
from visreplay.agent.episode.visual_agent import VisualAgent
from visreplay.agent.mcp.errors import WholeCharacters, error_response
from visreplay.agent.mcp.results import (
    EpisodeResult,
    FramesResult,
    RegionResult,
    StepResult,
    VideoResult,
    episode_result,
    frames_result,
    region_result,
    video_result,
)
from visreplay.agent.mcp.sessions import SessionLimit
from visreplay.agent.serving.auth import App, KeyRequired
from visreplay.agent.serving.http import BodyLimit
from visreplay.agent.serving.json_bounds import JsonBounds
from visreplay.agent.state import EpisodeState
from visreplay.replay_core import ReplayError
from visreplay.tools import ImageStore, Media, TokenGrid, ToolError
from visreplay.tools.media_budget import CALLER, Budget
from visreplay.tools.visual_tools import ImageName, VisualTools

MAX_PIXELS = 40_000_000
"""Largest number of pixels of an image that is opened; an 8K image has 33 million."""
MAX_URI = 16 * 2**20
"""Largest number of characters of a data URI."""
MAX_BODY = MAX_URI + 2**20
"""Largest number of bytes of a message over HTTP."""
BODY_SECONDS = 60.0
"""Time that a client may take to send a message over HTTP."""
BOUNDS = JsonBounds(2**20, values=10_000)
"""Bounds on the JSON of a message over HTTP."""
MAX_SESSIONS = 256
"""Sessions over HTTP from which on one that is idle is ended for a new one."""
MAX_CROP_PIXELS = 4_000_000
"""Largest number of pixels of a crop, which is sent as it is."""
GRID = TokenGrid().capped(1280 * 28 * 28)
"""The token grid of `zoom`: about a million pixels at most."""
MAX_FRAMES = 16
"""Largest number of frames that `sample_frames` shows."""
MAX_IMAGES = 8
"""Largest number of images that a question may be about."""
MEDIA_SECONDS = 120.0
"""Time for reading the images of a call."""
MAX_WAITING = 8
"""Largest number of questions that may wait while another is answered."""

READ_ONLY = ToolAnnotations(readOnlyHint=True, idempotentHint=True, openWorldHint=False)

Progress = Callable[[int, int | None, str], None]
"""Reports the number of steps so far, the largest number of steps, and a line of text."""

log = logging.getLogger(__name__)


def client_media(roots: Sequence[Path], *, max_pixels: int = MAX_PIXELS) -> Media:
    """Limit what clients may name: recent images, data URIs, and files below the roots.

    Args:
        roots: The only folders whose files may be opened.
        max_pixels: Largest number of pixels of an image.
    """
    return Media(ImageStore(forgetful=True), tuple(roots), max_pixels, MAX_URI)


def mcp_server(
    media: Media, load: Callable[[], VisualAgent], *, seed: int = 0, host: str = "127.0.0.1"
) -> FastMCP:
    """Make the server, for any transport.

    Args:
        media: What clients may name.
        load: Loads the agent that answers questions; called at the first question.
        seed: Seed of the sampler where a client names none.
        host: Address that the server will listen on over HTTP. On loopback, requests that a web
            page made a browser send are refused, by the names in their Host and Origin.
    """
    server: FastMCP = FastMCP(
        "visreplay",
        instructions="Look closely at images and videos, or ask a model that does. Name an image "
        "by the reference that came with it, by the path of its file, or by a data URI.",
        log_level="WARNING",
        host=host,
        max_request_body_size=MAX_BODY,
        max_sessions=2 * MAX_SESSIONS,
    )
    looking, answering = CapacityLimiter(4), CapacityLimiter(1)
    agent = cache(load)
    default_seed = seed

    tools = VisualTools(media, GRID, MAX_FRAMES, MAX_CROP_PIXELS)

    def add(
        method: Callable[..., Any], answer: Callable[[Any], CallToolResult], structure: Any
    ) -> None:
        """Serve a method of `VisualTools`; its signature is the schema that clients see."""

        async def run(**arguments: Any) -> CallToolResult:
            def work(budget: Budget) -> CallToolResult:
                own = replace(tools, media=replace(media, budget=budget))
                return answer(getattr(own, method.__name__)(**arguments))

            return await _in_thread(work, looking)

        returns = Annotated[CallToolResult, structure]
        run.__signature__ = signature(method).replace(return_annotation=returns)  # type: ignore[attr-defined]
        run.__annotations__ = {**method.__annotations__, "return": returns}
        server.add_tool(run, method.__name__, description=method.__doc__, annotations=READ_ONLY)

    add(tools.crop, partial(region_result, media.store), RegionResult)
    add(tools.zoom, partial(region_result, media.store), RegionResult)
    add(tools.sample_frames, partial(frames_result, media.store), FramesResult)
    add(tools.video_info, video_result, VideoResult)

    @server.tool(annotations=READ_ONLY)
    async def ask(
        question: Annotated[str, Field(min_length=1, max_length=20_000)],
        context: Context[Any, Any, Any],
        images: Annotated[
            list[ImageName] | None,
            Field(max_length=MAX_IMAGES, description="Images that it is about, in order."),
        ] = None,
        video: Annotated[
            str | None, Field(description="Path of the video that it is about.")
        ] = None,
        seed: Annotated[int | None, Field(ge=0, description="Seed of the sampler.")] = seed,
    ) -> Annotated[CallToolResult, EpisodeResult]:
        """Ask a model that looks closer by itself, with Activation Replay at every step."""
        reports: list[asyncio.Task[None]] = []

        def progress(steps: int, most: int | None, message: str) -> None:
            from_thread.check_cancelled()
            # Reports are sent beside the work: a client that does not listen must not delay others.
            from_thread.run_sync(
                lambda: reports.append(
                    asyncio.create_task(context.report_progress(steps, most, message))
                )
            )

        def work(budget: Budget) -> CallToolResult:
            own = replace(media, budget=budget)
            progress(0, None, "loading")
            opened = [own.image(name) for name in images or ()]
            with ExitStack() as stack:
                file = video and stack.enter_context(media.file(video, "video"))
                if file:
                    own.check_video(file)  # by the client's name and limits
                # A store of its own: an episode may show more than a forgetful one keeps.
                player = stack.enter_context(closing(agent().with_store(ImageStore())))
                # The file that was checked, whatever its name leads to by now.
                path = Path(file.path) if file else None
                own_seed = default_seed if seed is None else seed
                start = player.start(question, images=opened, video=path, seed=own_seed)
                episode = EpisodeResult.of(_play(player, start, progress))
                for reference in episode.references():
                    media.store.put(player.store.get(reference))
            return episode_result(episode)

        if answering.statistics().tasks_waiting >= MAX_WAITING:
            raise ToolError(f"{MAX_WAITING} questions are waiting already: ask again later")
        try:
            return await _in_thread(work, answering)
        finally:
            # The last reports belong before the result, but may not delay it for long.
            with move_on_after(5):  # seconds
                await asyncio.gather(*reports, return_exceptions=True)

    return server


def http_app(server: FastMCP, api_key: str | None = None) -> App:
    """Make the server an ASGI application, at /mcp.

    Args:
        server: The server.
        api_key: The key that every request must bear; None lets everybody in.
    """
    app: App = WholeCharacters(SessionLimit(server.streamable_http_app(), MAX_SESSIONS))
    app = BodyLimit(app, MAX_BODY, BODY_SECONDS, error_response, bounds=BOUNDS)
    return app if api_key is None else KeyRequired(app, api_key)


async def _in_thread(
    work: Callable[[Budget], CallToolResult], limiter: CapacityLimiter
) -> CallToolResult:
    """Do a tool's work in a thread, so that other clients are served meanwhile.

    A thread cannot be cancelled, and keeps its place until its work ends: when the client gives up
    the call, the budget of the work is told that the caller has left.

    Errors that a client can correct go to the client, all others to the log.
    """
    budget = Budget(MAX_IMAGES * MAX_PIXELS, MAX_IMAGES, MEDIA_SECONDS)

    def begin() -> CallToolResult:
        budget.start()
        CALLER.set(budget)  # anyio gives every call a context of its own
        return work(budget)

    async def leave_when_cancelled() -> None:
        try:
            await sleep_forever()
        finally:
            budget.leave()

    outcome: CallToolResult | Exception
    async with create_task_group() as group:
        group.start_soon(leave_when_cancelled)
        try:
            outcome = await to_thread.run_sync(begin, limiter=limiter)
        except Exception as error:
            outcome = error
        group.cancel_scope.cancel()
    await checkpoint_if_cancelled()  # what came of a call that was given up concerns nobody
    if not isinstance(outcome, Exception):
        return outcome
    if isinstance(outcome, ToolError | ReplayError):
        raise outcome
    log.error("a tool failed", exc_info=outcome)
    raise RuntimeError("the server failed at this; its log says why") from outcome


def _play(agent: VisualAgent, state: EpisodeState, progress: Progress) -> Trajectory:
    """Play an episode to its end, and report every step."""
    for after in agent.stream(state):
        for step in completed_steps(after, state):
            progress(step["index"] + 1, agent.loop.max_steps, StepResult.of(step).text())
        state = after
    return agent.trajectory(state)
