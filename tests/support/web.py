"""A web server on this machine, good and bad, for tests of code that fetches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

from visreplay.tools.fetch import Address

Answer = Callable[[BaseHTTPRequestHandler], None]


def only_here(address: Address) -> bool:
    """127.0.0.1, but not its neighbours, which stand for private addresses."""
    return str(address) == "127.0.0.1"


class Server(ThreadingHTTPServer):
    """Answers each path in its own way, and keeps the requests."""

    daemon_threads = True

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.closing = Event()
        self.answers: dict[str, Answer] = {
            "/": sends(b"hello"),
            "/missing": sends(b"secret", 404),
            "/endless": endless,
            "/chunks": chunks,
            "/drops": drops(b"HTTP/1.0 200 OK\r\n\r\n", b"x"),
            "/heading": drops(b"HTTP/1.0 200 OK\r\n", b"a"),
            "/sizes": drops(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
            "/silent": drops(b"", b""),
            "/garbage": drops(b"secret banner\r\n\r\n", b""),
            "/short": sends(b"hello", 200, "Content-Length: 9"),
            "/zipped": sends(b"hello", 200, "Content-Encoding: gzip"),
            "/loop": sends(b"", 302, "Location: /loop"),
            "/cookie": sends(b"", 302, "Location: /", "Set-Cookie: a=b"),
            "/bait": redirects_after("Location: /", endless_body),
            "/nowhere": sends(b"hello", 302),
        }

        class Handler(BaseHTTPRequestHandler):
            server: Server

            def do_GET(self) -> None:
                self.server.asked.append((self.path, dict(self.headers)))
                path = self.path.partition("?")[0]
                try:
                    if path.startswith("/to/"):
                        sends(b"secret", 302, "Location: " + path.removeprefix("/to/"))(self)
                    else:
                        self.server.answers[path](self)
                except OSError:  # the client has gone
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        super().__init__((host, port), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def sends(body: bytes, status: int = 200, *headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for header in headers:
            handler.send_header(*header.split(": ", 1))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def drops(start: bytes, drop: bytes) -> Answer:
    """A start, and then drop by drop until the test is over."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        assert isinstance(handler.server, Server)
        handler.wfile.write(start)
        while not handler.server.closing.wait(0.02) and start != b"secret banner\r\n\r\n":
            handler.wfile.write(drop)

    return answer


def endless_body(handler: BaseHTTPRequestHandler) -> None:
    while True:
        handler.wfile.write(b"x" * 2**16)


def endless(handler: BaseHTTPRequestHandler) -> None:
    sends(b"", 200, "Content-Length: 5")(handler)  # a lie
    endless_body(handler)


def chunks(handler: BaseHTTPRequestHandler) -> None:
    handler.protocol_version = "HTTP/1.1"
    sends(b"", 200, "Transfer-Encoding: chunked")(handler)
    while True:
        handler.wfile.write(b"1\r\nx\r\n" * 1000)


def redirects_after(location: str, body: Answer) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        sends(b"", 302, location)(handler)
        body(handler)

    return answer


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
