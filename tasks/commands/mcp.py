"""The command `visreplay mcp`: the visual tools and whole episodes for MCP clients."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from visreplay.replay_core import Method
from visreplay.tasks.commands.options import (
    EpisodeOptions,
    ListenOptions,
    PairChoice,
    PairOptions,
    ReplayOptions,
    mistakes_told,
    with_options,
)


@with_options
def mcp(
    pair: PairOptions,
    replay: ReplayOptions,
    episode: EpisodeOptions,
    listen: ListenOptions,
    root: Annotated[
        list[Path] | None,
        typer.Option(exists=True, file_okay=False, help="Folder whose files clients may open."),
    ] = None,
    http: Annotated[
        bool, typer.Option("--http", help="Streamable HTTP at /mcp instead of stdio.")
    ] = False,
    method: Annotated[Method, typer.Option(help="How to replay.")] = Method.TOKEN,
) -> None:
    """Serve crop, zoom, sample_frames, video_info and ask to MCP clients."""
    console = Console(stderr=True, highlight=False)  # standard output is the protocol's
    with mistakes_told():
        try:
            import uvicorn

            from visreplay.agent.mcp.server import client_media, http_app, mcp_server
            from visreplay.agent.mcp.stdio import serve_stdio
            from visreplay.agent.serving.http import HeadersInTime
        except ModuleNotFoundError as error:
            raise ImportError(
                f"the server needs mcp ({error}): pip install 'visreplay[mcp]'"
            ) from error
        if http:
            listen.check()
        checkpoints = PairChoice.of(pair.policy, pair.base, console)
        config = replay.config(checkpoints, method)
        protocol = checkpoints.protocol(pair.protocol)
        load = partial(episode.agent, pair, checkpoints, config, protocol, None)
        server = mcp_server(client_media(root or ()), load, seed=episode.seed, host=listen.host)
        if http:
            uvicorn.run(
                http_app(server, listen.api_key),
                host=listen.host,
                port=listen.port,
                ws="none",
                http=HeadersInTime,
                limit_concurrency=128,
                timeout_graceful_shutdown=5,  # seconds: clients keep streams open for ever
            )
        else:
            serve_stdio(server)
