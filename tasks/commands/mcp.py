"""The command `visreplay mcp`: the visual tools and whole episodes for MCP clients."""

from contextlib import ExitStack
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
        from visreplay.agent.mcp.server import client_media, http_app, mcp_server
        from visreplay.agent.mcp.stdio import serve_stdio
        from visreplay.agent.serving.connections import BACKLOG
        from visreplay.agent.serving.server import Server
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the server needs mcp ({error}): pip install 'visreplay[mcp]'"
        ) from error
    console = Console(stderr=True, highlight=False)  # standard output is the protocol's
    with ExitStack() as stack:
        if http:
            listen.check()
            listening = stack.enter_context(listen.bind())
        choice = PairChoice.of(pair, console)
        # What is out of range is told now, and not to the first client that asks.
        config, sampling = choice.config(replay.values), episode.sampling.build()
        limits = episode.limits.build()

        def load() -> "VisualAgent":
            return choice.agent(config, episode.worded(choice.recipe), sampling, limits)

        server = mcp_server(client_media(root or ()), load, seed=episode.seed, host=listen.host)
        if not http:
            serve_stdio(server)
            return
        url = listen.url(listening, "/mcp")
        listen.listen(listening, BACKLOG)
        Server(
            http_app(server, listen.api_key),
            listening,
            max_connections=128,
            drain=5,  # seconds: clients keep streams open for ever
            on_start=lambda: console.print(f"Serving MCP at {url}", soft_wrap=True),
        ).serve_until_stopped()
