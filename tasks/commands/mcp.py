"""The command `visreplay mcp`: the visual tools and whole episodes for MCP clients."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from visreplay.replay_core.config import ReplayConfig
from visreplay.tasks.commands.console import Console
from visreplay.tasks.commands.option_groups import with_options
from visreplay.tasks.commands.options import (
    SERVER,
    EpisodeOptions,
    ListenOptions,
    PairOptions,
)
from visreplay.tasks.commands.pair_choice import PairChoice
from visreplay.tasks.commands.settings import Overrides

if TYPE_CHECKING:
    from visreplay.agent import VisualAgent


@with_options
def mcp(
    pair: PairOptions,
    replay: Overrides[ReplayConfig],
    episode: EpisodeOptions,
    listen: ListenOptions,
    root: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder whose files clients may open.",
            rich_help_panel=SERVER,
        ),
    ] = None,
    http: Annotated[
        bool,
        typer.Option(
            "--http",
            help="Serve streamable HTTP at /mcp instead of stdio.",
            rich_help_panel=SERVER,
        ),
    ] = False,
) -> None:
    """Serve the tools crop, zoom, sample_frames, video_info and ask to MCP clients."""
    try:
        import uvicorn

        from visreplay.agent.mcp.server import client_media, http_app, mcp_server
        from visreplay.agent.mcp.stdio import serve_stdio
        from visreplay.agent.serving.http import HeadersInTime
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the server needs mcp ({error}): pip install 'visreplay[mcp]'"
        ) from error
    console = Console(stderr=True, highlight=False)  # standard output is the protocol's
    if http:
        listen.check()
    choice = PairChoice.of(pair, console)
    config = choice.config(replay.values)

    def load() -> "VisualAgent":
        return choice.agent(config, episode, episode.sampling.build())

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
