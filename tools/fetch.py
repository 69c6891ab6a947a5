"""Fetch URLs of untrusted callers: from public addresses only, and within limits."""

import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from ssl import SSLContext
from threading import Thread
from typing import Any

from visreplay.tools.types import ToolError, preview

try:
    import httpcore
    from httpx import URL, InvalidURL
except ImportError as error:
    raise ImportError(f"fetching needs httpx ({error}): pip install 'visreplay[serve]'") from error

Address = IPv4Address | IPv6Address

_UNICAST = ip_network("2000::/3")
_OTHERS = tuple(
    map(
        ip_network,
        (
            *("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"),
            *("192.0.0.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24"),
            *("192.175.48.0/24", "168.63.129.16/32"),
        ),
    )
)
"""Networks that `ipaddress` does not know, or not in each version: those of IANA's registries of
special-purpose addresses that lie among the others (IETF's protocols with Teredo and ORCHID,
documentation, 6to4, which leads to any IPv4 address, and its relays, AS112, AMT; RFC 6890 and RFC
9637); Oracle's metadata, in 192.0.0.0/24; Azure's service for its machines."""
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = ((b"User-Agent", b"visreplay"), (b"Accept", b"*/*"), (b"Accept-Encoding", b"identity"))


def is_public(address: Address) -> bool:
    """Tell whether an address belongs to the public internet.

    In IPv6 only global unicast does: addresses that embed an IPv4 address (mapped, 6to4, NAT64) may
    lead anywhere.
    """
    if address.version == 6 and address not in _UNICAST:
        return False
    other = any(address in network for network in _OTHERS)
    return address.is_global and not address.is_multicast and not other


@dataclass(frozen=True)
class Fetcher:
    """A reader of http and https URLs.

    It uses no proxy, cookie or password, whatever the environment says. Its errors repeat nothing
    of a server's answer but the status, and the host of a redirect.

    Attributes:
        max_bytes: Largest size of a body, counted as it arrives.
        timeout: Time for everything, in seconds: names, redirects, and servers that send slowly.
        max_redirects: Largest number of redirects that are followed.
        allowed: Decides which addresses may be contacted. A host is contacted only if all of its
            addresses are allowed, and at the addresses that were checked, wherever its name points
            a moment later.
    """

    max_bytes: int = 20 * 2**20
    timeout: float = 20.0
    max_redirects: int = 5
    allowed: Callable[[Address], bool] = is_public

    def get(self, url: str) -> bytes:
        """Read the body of a URL.

        Raises:
            ToolError: The URL may not be read, its body is too large, or it does not come in time.
        """
        backend = _Backend(self.allowed, time.monotonic() + self.timeout)
        try:
            with httpcore.ConnectionPool(network_backend=backend) as pool:
                return self._follow(pool, url)
        except httpcore.TimeoutException as error:
            raise ToolError(
                f"{preview(url)} took longer than the {self.timeout:g} s that are allowed"
            ) from error
        except httpcore.ConnectError as error:
            raise ToolError(f"{preview(url)} cannot be reached: {error}") from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            # The error leaves out the exception's text, which quotes the server.
            raise ToolError(f"{preview(url)} broke off, or is not on a web server") from error

    def _follow(self, pool: httpcore.ConnectionPool, url: str) -> bytes:
        target = _checked(url)
        for _ in range(self.max_redirects + 1):
            where = httpcore.URL(
                scheme=target.raw_scheme,
                host=target.raw_host,
                port=target.port,
                target=target.raw_path,
            )
            headers = [(b"Host", target.netloc), *_HEADERS]
            # A redirect's own body is not read.
            with pool.stream("GET", where, headers=headers) as response:
                location = _header(response, b"location")
                if response.status not in _REDIRECTS or not location:
                    return self._body(response, url)
            target = _checked(location, target)
        raise ToolError(f"{preview(url)} is redirected more than {self.max_redirects} times")

    def _body(self, response: httpcore.Response, url: str) -> bytes:
        if response.status != 200:
            raise ToolError(f"{preview(url)} cannot be read: the server answered {response.status}")
        if _header(response, b"content-encoding") not in ("", "identity"):
            raise ToolError(f"{preview(url)} came compressed, which was not requested")
        body = bytearray()
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > self.max_bytes:
                raise ToolError(f"{preview(url)} has more than the {self.max_bytes} bytes allowed")
        return bytes(body)


class _Backend(httpcore.NetworkBackend):
    """A network backend that connects to checked addresses only, before a deadline."""

    def __init__(self, allowed: Callable[[Address], bool], deadline: float) -> None:
        self._allowed = allowed
        self._deadline = deadline
        self._sockets = httpcore.SyncBackend()

    def left(self) -> float:
        """Compute the seconds until the deadline.

        Raises:
            httpcore.ReadTimeout: The deadline has passed.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the time is up")
        return left

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = [ip_address(address) for address in self._look_up(host, port)]
        # One error for both: it must not reveal which names exist in this network.
        if not addresses or not all(map(self._allowed, addresses)):
            raise ToolError(
                f"the host {preview(host)} is not contacted: it is not known, or not all of its "
                "addresses are public"
            )
        failed = httpcore.ConnectError()
        for address in addresses:
            try:
                return _Stream(self._sockets.connect_tcp(str(address), port, self.left()), self)
            except httpcore.ConnectError as error:
                failed = error
        raise failed

    def _look_up(self, host: str, port: int) -> list[str]:
        """Resolve a host, in a thread, since the system's resolver has no timeout."""
        addresses: Future[list[str]] = Future()

        def work() -> None:
            try:
                known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                addresses.set_result(list(dict.fromkeys(str(entry[4][0]) for entry in known)))
            except (OSError, UnicodeError):
                addresses.set_result([])

        Thread(target=work, daemon=True).start()
        try:
            return addresses.result(self.left())
        except TimeoutError as error:
            raise httpcore.ConnectTimeout("the time is up") from error


class _Stream(httpcore.NetworkStream):
    """A connection on which each wait ends at the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, backend: _Backend) -> None:
        self._stream = stream
        self._backend = backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._backend.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._backend.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        secure = self._stream.start_tls(ssl_context, server_hostname, self._backend.left())
        return _Stream(secure, self._backend)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _checked(url: str, base: URL | None = None) -> URL:
    """Parse a URL, relative to the one that redirects to it, and check that it may be read."""
    try:
        target = URL(url) if base is None else base.join(url)
    except (InvalidURL, ValueError) as error:
        raise ToolError(f"{_named(url, base)} is no URL that can be read") from error
    if target.scheme not in ("http", "https") or not target.host:
        raise ToolError(f"{_named(url, base)} is not fetched: only http and https URLs are")
    if target.userinfo:
        raise ToolError("a URL with a user's name or password is not fetched: leave them out")
    if target.port is not None and not 0 < target.port < 2**16:
        raise ToolError(f"there is no port {target.port}; ports are 1 to 65535")
    return target


def _named(url: str, base: URL | None) -> str:
    return preview(url) if base is None else "what the URL is redirected to"


def _header(response: httpcore.Response, name: bytes) -> str:
    """Get a header's value; empty if there is none."""
    values = [value for key, value in response.headers if key.lower() == name]
    return values[0].decode("utf-8", "replace").strip() if values else ""
