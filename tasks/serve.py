"""The command `visreplay serve`: an OpenAI-compatible server."""

import logging
import signal
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from visreplay.agent.access import LOOPBACK, check_access
from visreplay.agent.policy import Sampling
from visreplay.replay_core import Method, load_pair
from visreplay.tasks.options import (
    Checkpoints,
    PairOptions,
    ReplayOptions,
    mistakes_told,
    with_options,
)
from visreplay.tools import ImageStore
from visreplay.tools.media import Media

MIB = 2**20


@with_options
def serve(
    pair: PairOptions,
    replay: ReplayOptions,
    method: Annotated[Method, typer.Option(help="How policy+replay replays.")] = Method.TOKEN,
    with_base: Annotated[
        bool,
        typer.Option(help="Serve the base model too, which takes the memory of all its layers."),
    ] = True,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = LOOPBACK[0],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="VISREPLAY_API_KEY",
            help="What clients must send as their API key; needed beyond loopback.",
        ),
    ] = None,
    media_root: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, file_okay=False, help="Folder whose files clients may name by file: URLs."
        ),
    ] = None,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch images from public http and https URLs.")
    ] = False,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="Where a request says nothing; 0 is greedy.")
    ] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 2048,
    max_context: Annotated[int, typer.Option(min=1, help="Tokens of a conversation.")] = 32_768,
    max_body: Annotated[float, typer.Option(min=0.001, help="Of a request, in MiB.")] = 20.0,
    max_pixels: Annotated[
        float, typer.Option(min=0.001, help="Of a request's images and frames, in millions.")
    ] = 64.0,
    max_frames: Annotated[int, typer.Option(min=1, max=64, help="That a clip is shown with.")] = 64,
    max_video: Annotated[float, typer.Option(min=0.1, help="Of a clip, in seconds.")] = 600.0,
    max_running: Annotated[int, typer.Option(min=1, help="Answers written at once.")] = 16,
    max_waiting: Annotated[int, typer.Option(min=0, help="Requests that may wait.")] = 64,
    cache: Annotated[
        float, typer.Option(min=0, help="For conversations that were read, in MiB.")
    ] = 2048.0,
) -> None:
    """Serve chat completions to OpenAI's clients: policy, policy+replay and base."""
    console = Console(stderr=True, highlight=False)
    with mistakes_told():
        try:
            import uvicorn

            from visreplay.agent.openai_server import (
                ServerLimits,
                Service,
                openai_app,
                served_models,
            )
            from visreplay.tools.fetch import Fetcher
        except ModuleNotFoundError as error:
            raise ImportError(
                f"the server needs {error.name}: pip install 'visreplay[serve]'"
            ) from error
        check_access(host, api_key)
        checkpoints = Checkpoints.of(pair.policy, pair.base, console)
        config = replay.config(checkpoints, method)
        models = load_pair(
            checkpoints.policy,
            checkpoints.base,
            replay_layers=None if with_base else config.depth,
            device=pair.device,
            base_device=pair.base_device,
            dtype=pair.dtype,
            processor=pair.processor,
        )
        service = Service(
            models,
            served_models(models, config),
            checkpoints.protocol(pair.protocol),
            Sampling(temperature, max_new_tokens=max_new_tokens),
            ServerLimits(
                body_bytes=int(max_body * MIB),
                pixels=int(max_pixels * 1e6),
                frames=max_frames,
                video_seconds=max_video,
                context=max_context,
                new_tokens=max_new_tokens,
                running=max_running,
                waiting=max_waiting,
                cache_bytes=int(cache * MIB),
            ),
            Media(ImageStore(), tuple(media_root or ()), fetch=Fetcher() if allow_urls else None),
        )
        logging.basicConfig(level=logging.WARNING)
        settings = uvicorn.Config(
            openai_app(service, api_key),
            host=host,
            port=port,
            ws="none",
            log_level="warning",
            # More connections than requests that may wait are refused with 503.
            limit_concurrency=2 * (max_running + max_waiting) + 32,
            timeout_keep_alive=10,
        )
        # uvicorn ends what was begun, and then hands on the signal that stopped it.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stopped)
        listening = settings.bind_socket()
        url = _url(host, listening.getsockname()[1])
        console.print(f"Serving {', '.join(service.models)} at {url}", soft_wrap=True)
        uvicorn.Server(settings).run(sockets=[listening])


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def _stopped(*_: object) -> NoReturn:
    """All is well with a server that was told to stop."""
    raise SystemExit(0)
