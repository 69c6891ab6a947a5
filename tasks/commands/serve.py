"""The command `visreplay serve`: an OpenAI-compatible server."""

import logging
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.serving.limits import ServerLimits
from visreplay.replay_core.config import ReplayConfig
from visreplay.tasks.commands.console import Console
from visreplay.tasks.commands.engine_options import EngineOptions
from visreplay.tasks.commands.option_groups import with_options
from visreplay.tasks.commands.options import MODEL, SERVER, ListenOptions, PairOptions
from visreplay.tasks.commands.pair_choice import PairChoice
from visreplay.tasks.commands.settings import DAY, Overrides


@with_options
def serve(
    pair: PairOptions,
    replay: Overrides[ReplayConfig],
    limits: Overrides[ServerLimits],
    sampling: Overrides[Sampling],
    listen: ListenOptions,
    engine: EngineOptions,
    with_base: Annotated[
        bool,
        typer.Option(
            "--with-base/--without-base",
            help="Serve the base too, which takes the memory of all its layers. Another engine "
            "than the embedded one has the policy alone.",
            rich_help_panel=MODEL,
        ),
    ] = True,
    media_root: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder whose files clients may name by file: URLs.",
            rich_help_panel=SERVER,
        ),
    ] = None,
    allow_urls: Annotated[
        bool,
        typer.Option(
            "--allow-urls",
            help="Fetch images and videos from public http(s) URLs.",
            rich_help_panel=SERVER,
        ),
    ] = False,
    drain: Annotated[
        int,
        typer.Option(
            min=0,
            max=DAY,
            help="Seconds that running requests have to end when the server is stopped; those "
            "that take longer get an error.",
            rich_help_panel=SERVER,
        ),
    ] = 60,
) -> None:
    """Serve chat completions to OpenAI's clients, by three models: policy, policy+replay and base.

    The decoding options hold for requests that do not set them.
    """
    try:
        from visreplay.agent.openai.routes import ServiceConfig, openai_app, served_models
        from visreplay.agent.serving.connections import BACKLOG
        from visreplay.agent.serving.server import Server
        from visreplay.tools.fetch import Fetcher
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the server needs {error.name}: pip install 'visreplay[serve]'"
        ) from error
    console = Console(stderr=True, highlight=False)
    listen.check()
    bounds = limits.build()
    with ExitStack() as stack:
        listening = stack.enter_context(listen.bind())  # before minutes are spent on models
        choice = PairChoice.of(pair, console)
        config = choice.config(replay.values)
        writer = stack.enter_context(engine.writer(choice, config))
        whole_base = with_base and writer is None
        models = choice.load(replay_layers=None if whole_base else config.depth)
        served = served_models(models, config)
        if writer is not None:
            served.pop("base", None)
        service = ServiceConfig(
            models,
            served,
            sampling=sampling.build(),
            limits=bounds,
            roots=tuple(media_root or ()),
            fetch=Fetcher() if allow_urls else None,
            recipe=choice.recipe,
            writer=writer,
        )
        logging.basicConfig(level=logging.WARNING)
        application = openai_app(service, listen.api_key)
        url = listen.url(listening, "/v1")
        server = Server(
            application,
            listening,
            bounds.connections,
            drain,
            lambda: console.print(f"Serving {', '.join(service.models)} at {url}", soft_wrap=True),
            application.end_requests,
        )

        def leave(*_: object) -> NoReturn:
            stack.close()
            _exit()

        # uvicorn ends running requests, and then hands on the signal that stopped it.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, leave)
        listen.listen(listening, BACKLOG)
        server.serve_until_stopped()


def _exit() -> NoReturn:
    """End with code 0: a server that was stopped by a signal has done its work.

    Python would wait for threads that still work for clients that have got their error.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
