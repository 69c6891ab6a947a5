"""The command `visreplay serve`: an OpenAI-compatible server."""

import logging
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.serving.limits import ServerLimits
from visreplay.replay_core import Method, load_pair
from visreplay.tasks.commands.options import (
    ListenOptions,
    PairChoice,
    PairOptions,
    ReplayOptions,
    mistakes_told,
    with_options,
)

MIB = 2**20
MILLION = 10**6


_DEFAULT = ServerLimits()


@dataclass(frozen=True)
class LimitOptions:
    """What requests may take: `ServerLimits`, in larger units."""

    max_body: Annotated[float, typer.Option(min=0.001, help="Of a request, in MiB.")] = (
        _DEFAULT.body_bytes / MIB
    )
    body_seconds: Annotated[float, typer.Option(min=0.1, help="For sending a request.")] = (
        _DEFAULT.body_seconds
    )
    max_media: Annotated[int, typer.Option(min=1, help="Images and clips of a request.")] = (
        _DEFAULT.media
    )
    media_seconds: Annotated[float, typer.Option(min=0.1, help="For reading them.")] = (
        _DEFAULT.media_seconds
    )
    max_pixels: Annotated[
        float,
        typer.Option(min=0.001, help="Of a request's images and frames together, in millions."),
    ] = _DEFAULT.pixels / MILLION
    max_frames: Annotated[int, typer.Option(min=1, max=64, help="That a clip is shown with.")] = (
        _DEFAULT.frames
    )
    max_video: Annotated[float, typer.Option(min=0.1, help="Of a clip, in seconds.")] = (
        _DEFAULT.video_seconds
    )
    max_context: Annotated[int, typer.Option(min=1, help="Tokens of a conversation.")] = (
        _DEFAULT.context
    )
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = _DEFAULT.new_tokens
    max_running: Annotated[
        int,
        typer.Option(min=1, help="Answers written at once; each holds a context in memory."),
    ] = _DEFAULT.running
    max_waiting: Annotated[int, typer.Option(min=0, help="Requests that may wait.")] = (
        _DEFAULT.waiting
    )
    cache: Annotated[
        float, typer.Option(min=0, help="For conversations that were read, in MiB.")
    ] = _DEFAULT.cache_bytes / MIB

    @property
    def limits(self) -> ServerLimits:
        """The same in bytes and pixels."""
        return ServerLimits(
            body_bytes=int(self.max_body * MIB),
            body_seconds=self.body_seconds,
            media=self.max_media,
            media_seconds=self.media_seconds,
            pixels=int(self.max_pixels * MILLION),
            frames=self.max_frames,
            video_seconds=self.max_video,
            context=self.max_context,
            new_tokens=self.max_new_tokens,
            running=self.max_running,
            waiting=self.max_waiting,
            cache_bytes=int(self.cache * MIB),
        )


@with_options
def serve(
    pair: PairOptions,
    replay: ReplayOptions,
    limits: LimitOptions,
    listen: ListenOptions,
    method: Annotated[Method, typer.Option(help="How policy+replay replays.")] = Method.TOKEN,
    with_base: Annotated[
        bool,
        typer.Option(
            "--with-base/--without-base",
            help="Serve the base too, which takes the memory of all its layers.",
        ),
    ] = True,
    media_root: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, file_okay=False, help="Folder whose files clients may name by file: URLs."
        ),
    ] = None,
    allow_urls: Annotated[
        bool,
        typer.Option("--allow-urls", help="Fetch images and clips from public http(s) URLs."),
    ] = False,
    temperature: Annotated[
        float,
        typer.Option(
            min=0, max=2, help="Where a request says nothing; 0 is greedy for single answers."
        ),
    ] = 0.0,
    drain: Annotated[
        int, typer.Option(min=0, help="Seconds for what runs to end, when the server is stopped.")
    ] = 60,
) -> None:
    """Serve chat completions to OpenAI's clients: policy, policy+replay and base."""
    console = Console(stderr=True, highlight=False)
    with mistakes_told():
        try:
            import uvicorn

            from visreplay.agent.openai.routes import ServiceConfig, openai_app, served_models
            from visreplay.agent.serving.http import HeadersInTime
            from visreplay.tools.fetch import Fetcher
        except ModuleNotFoundError as error:
            raise ImportError(
                f"the server needs {error.name}: pip install 'visreplay[serve]'"
            ) from error
        listen.check()
        checkpoints = PairChoice.of(pair.policy, pair.base, console)
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
        bounds = limits.limits
        service = ServiceConfig(
            models,
            served_models(models, config),
            checkpoints.protocol(pair.protocol),
            Sampling(temperature, max_new_tokens=bounds.new_tokens),
            bounds,
            tuple(media_root or ()),
            Fetcher() if allow_urls else None,
        )
        logging.basicConfig(level=logging.WARNING)
        settings = uvicorn.Config(
            openai_app(service, listen.api_key),
            http=HeadersInTime,
            host=listen.host,
            port=listen.port,
            ws="none",
            log_level="warning",
            timeout_keep_alive=10,
            timeout_graceful_shutdown=drain,
        )
        # uvicorn ends what was begun, and then hands on the signal that stopped it.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stopped)
        listening = settings.bind_socket()
        url = _url(listen.host, listening.getsockname()[1])
        console.print(f"Serving {', '.join(service.models)} at {url}", soft_wrap=True)
        uvicorn.Server(settings).run(sockets=[listening])


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def _stopped(*_: object) -> NoReturn:
    """All is well with a server that was told to stop."""
    raise SystemExit(0)
