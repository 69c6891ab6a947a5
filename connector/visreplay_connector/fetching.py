"""Files of keys and values of workers on other machines, fetched before a request is scheduled."""

import logging
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import uuid4

from visreplay_connector.handles import HandleError

logger = logging.getLogger("vllm.visreplay_connector")

KEY_VARIABLE = "VISREPLAY_SOURCE_KEY"
"""The environment variable with the key that workers ask for, where they ask for one."""

MAX_BYTES = 16 * 2**30
_SECONDS = 60.0


class Fetcher:
    """Fetches files over HTTP into the connector's folder, and keeps them within a bound.

    A file that a running request needs stays, whatever its size.

    Args:
        folder: Where files are kept.
        options: `sources` and `max_bytes` of the connector's options.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        self._folder = folder
        self._sources = tuple(str(each).rstrip("/") for each in options.get("sources", ()))
        self._max_bytes = int(options.get("max_bytes", MAX_BYTES))
        self._threads = ThreadPoolExecutor(4, "visreplay-fetch")
        self._running: dict[str, list[Future[None]]] = {}
        self._needed: dict[str, list[str]] = {}
        self._kept: OrderedDict[str, int] = OrderedDict()
        self._fetching: dict[str, Future[None]] = {}
        self._lock = threading.Lock()

    def begin(self, request_id: str, handle: Mapping[str, Any], names: Sequence[str]) -> bool:
        """Begin to fetch what a request names and the folder lacks.

        Returns:
            Whether the request has to wait.

        Raises:
            HandleError: It names a source that is not allowed.
        """
        source = handle.get("source")
        if source is None:
            return False
        if source not in self._sources:
            raise HandleError(
                f"its source {str(source)[:80]!r} is none of the connector's sources: name it in "
                "kv_connector_extra_config"
            )
        with self._lock:
            self._needed[request_id] = list(names)
            for name in names:
                if name in self._kept:
                    self._kept.move_to_end(name)
                elif name not in self._fetching and not (self._folder / name).exists():
                    self._fetching[name] = self._threads.submit(self._fetch, source, name)
            waits = [self._fetching[name] for name in names if name in self._fetching]
            self._running[request_id] = waits
        return bool(waits)

    def arrived(self, request_id: str) -> bool:
        """Tell whether all files of a request have come.

        Raises:
            HandleError: One of them does not come.
        """
        waits = self._running.get(request_id, [])
        if not all(each.done() for each in waits):
            return False
        for each in waits:
            if error := each.exception():
                raise HandleError(f"a file cannot be fetched: {error}") from error
        return True

    def end(self, request_id: str) -> None:
        """Tell that a request needs its files no more."""
        with self._lock:
            self._running.pop(request_id, None)
            if self._needed.pop(request_id, None) is not None:
                self._shrink()

    def _fetch(self, source: str, name: str) -> None:
        path = self._folder / name
        part = path.with_suffix(f".{uuid4().hex}.part")
        headers = (
            {"Authorization": f"Bearer {key}"} if (key := os.environ.get(KEY_VARIABLE)) else {}
        )
        try:
            with urlopen(Request(f"{source}/{name}", headers=headers), timeout=_SECONDS) as answer:
                size = int(answer.headers["Content-Length"])
                if size > self._max_bytes:
                    raise HandleError(f"{name} has {size} bytes, but {self._max_bytes} are kept")
                with part.open("wb") as file:
                    shutil.copyfileobj(answer, file, 2**20)
            if part.stat().st_size != size:
                raise OSError(f"{name} ended early")
            part.rename(path)
        except HTTPError as error:
            error.close()  # it holds the connection
            raise
        finally:
            part.unlink(missing_ok=True)
            with self._lock:
                self._fetching.pop(name, None)
                if path.exists():
                    self._kept[name] = path.stat().st_size
                    self._shrink()

    def _shrink(self) -> None:
        """Remove files that no request needs, the least recently used first."""
        needed = {name for names in self._needed.values() for name in names}
        for name in list(self._kept):
            if sum(self._kept.values()) <= self._max_bytes:
                return
            if name not in needed:
                (self._folder / name).unlink(missing_ok=True)
                del self._kept[name]
