"""Keys and values for engines on other machines: the files of a worker, over HTTP."""

import hmac
import os
import shutil
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from visreplay_connector.fetching import KEY_VARIABLE
from visreplay_connector.handles import HandleError, names_of


class FileServer:
    """Serves the files of a folder by their names, and nothing else.

    Args:
        folder: The folder of the exports.
        host: The address to listen on, which engines can reach. A key in the environment
            (`VISREPLAY_SOURCE_KEY`, on both sides) keeps others out.
        port: The port; 0 takes any.

    Attributes:
        url: The address that handles name as their source.
    """

    def __init__(self, folder: Path, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = ThreadingHTTPServer((host, port), _handler(folder))
        self._server.daemon_threads = True
        bound_host, bound_port = self._server.server_address[:2]
        self.url = f"http://{bound_host!s}:{bound_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        """Return the server itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()


def _handler(folder: Path) -> type[BaseHTTPRequestHandler]:
    key = os.environ.get(KEY_VARIABLE)

    class Handler(BaseHTTPRequestHandler):
        timeout = 60

        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if key is not None and not hmac.compare_digest(given.encode(), key.encode()):
                self.send_error(HTTPStatus.UNAUTHORIZED)
                return
            try:
                (name,) = names_of({"files": [self.path.removeprefix("/")]})
                file = (folder / name).open("rb")
            except (HandleError, OSError):
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            with file:
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", "application/octet-stream")
                self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
                self.end_headers()
                shutil.copyfileobj(file, self.wfile, 2**20)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    return Handler
