"""A little HTTP server that answers as OpenAI-compatible endpoints do, well and badly."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """An answer: its status, its body, and more headers; perhaps late."""

    body: Json | str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0


def completion(content: Any, finish_reason: Any = "stop", message: Any = (), **choice: Any) -> Json:
    """The body of a completion."""
    reply = {"role": "assistant", "content": content, **dict(message)}
    return {"choices": [{"index": 0, "message": reply, "finish_reason": finish_reason, **choice}]}


def refusal(status: int, message: str, **headers: str) -> Answer:
    """An error in OpenAI's form."""
    return Answer({"error": {"message": message, "type": "error"}}, status, headers)


class LittleEndpoint(ThreadingHTTPServer):
    """Answers requests one after the other as a list says, the last answer again and again.

    Attributes:
        requests: The bodies of the requests for completions, in order.
        keys: The Authorization of all requests.
        most: The largest number of requests at once.
    """

    daemon_threads = True

    def __init__(self, answers: Sequence[Answer], models: Sequence[str] | Answer = ()) -> None:
        self.answers = list(answers)
        if not isinstance(models, Answer):
            models = Answer({"object": "list", "data": [{"id": each} for each in models]})
        self.models = models
        self.requests: list[Json] = []
        self.keys: list[str | None] = []
        self.running = self.most = 0
        lock = Lock()

        class Handler(BaseHTTPRequestHandler):
            server: LittleEndpoint

            def do_GET(self) -> None:
                self.server.keys.append(self.headers["Authorization"])
                self._answer(self.server.models)

            def do_POST(self) -> None:
                server = self.server
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    server.running += 1
                    server.most = max(server.most, server.running)
                    server.keys.append(self.headers["Authorization"])
                    server.requests.append(json.loads(body))
                    answer = server.answers[0]
                    del server.answers[: len(server.answers) > 1]
                try:
                    self._answer(answer)
                finally:
                    with lock:
                        server.running -= 1

            def _answer(self, answer: Answer) -> None:
                time.sleep(answer.delay)
                text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
                if echoed := self.headers["Authorization"]:
                    text = text.replace("AUTHORIZATION", echoed)
                try:
                    self.send_response(answer.status)
                    kind = "text/html" if isinstance(answer.body, str) else "application/json"
                    headers = {"Content-Type": kind, "Content-Length": str(len(text.encode()))}
                    for name, value in {**headers, **answer.headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(text.encode())
                except OSError:  # the client has gone
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@contextmanager
def little_endpoint(
    *answers: Answer, models: Sequence[str] | Answer = ("only",)
) -> Iterator[LittleEndpoint]:
    server = LittleEndpoint(answers or [Answer(completion("<answer>B</answer>"))], models)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
