"""Fetching, over real sockets: a server on this machine, whose address a test allows."""

import socket
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from threading import Event

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from web import Server, only_here, sends, serving

from visreplay.tools import ToolError
from visreplay.tools.fetch import Fetcher, is_public


def refused(url: str, fetcher: Fetcher | None = None) -> str:
    """Give the error about a URL that is not read."""
    with pytest.raises(ToolError) as caught:
        (fetcher or Fetcher(allowed=only_here)).get(url)
    assert "secret" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names of the test's own, and the answers that each gets, one after the other."""
    known: dict[str, list[str]] = {}
    look_up = socket.getaddrinfo

    def answer(host: str, port: int, *args: object, **options: object) -> object:
        answers = known.get(host)
        if answers is None:
            return look_up(host, port, *args, **options)  # type: ignore[arg-type]
        addresses = answers.pop(0).split()
        return [entry for a in addresses for entry in look_up(a, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return known


def test_a_url_is_read(server: Server) -> None:
    assert Fetcher(allowed=only_here).get(server.url) == b"hello"
    assert Fetcher(allowed=only_here).get(server.url + "/?a=%20#part") == b"hello"
    assert [path for path, _ in server.asked] == ["/", "/?a=%20"]
    assert server.asked[0][1]["Host"] == f"127.0.0.1:{server.server_port}"


def test_by_default_nothing_on_this_machine_is_asked(server: Server) -> None:
    port = server.server_port
    for host in (
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "localhost",
        "localhost.",
        "LOCALHOST",
        "l%6fcalhost",
        "\N{FULLWIDTH DIGIT ONE}27.0.0.1",
        "169.254.169.254",
        "[fe80::1%25lo]",
        socket.gethostname(),
    ):
        message = refused(f"http://{host}:{port}/", Fetcher(timeout=10))
        assert "not all of its addresses are public" in message or "no URL" in message, host
    assert not server.asked


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700:4700::1111", True),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("100.64.0.1", False),
        ("168.63.129.16", False),
        ("192.0.0.192", False),
        ("192.88.99.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::ffff:8.8.8.8", False),
        ("::8.8.8.8", False),
        ("64:ff9b::808:808", False),
        ("64:ff9b:1::1", False),
        ("2002:808:808::1", False),
        ("2001:0:808:808::1", False),
        ("2001:db8::1", False),
        ("fd00:ec2::254", False),
        ("fec0::1", False),
        ("ff0e::1", False),
        ("3fff::1", False),
        ("3fff:fff:ffff::1", False),
        ("4000::1", False),
        ("2001:2::1", False),
        ("2001:10::1", False),
        ("2001:20::1", False),
        ("2001:1ff::1", False),
        ("2001:200::1", True),
        ("2001:db8::1", False),
        ("2620:4f:8000::1", False),
        ("5f00::1", False),
        ("192.31.196.1", False),
        ("192.52.193.1", False),
        ("192.175.48.1", False),
        ("192.0.0.9", False),
        ("192.0.1.1", True),
        ("198.18.0.1", False),
        ("203.0.113.1", False),
        ("240.0.0.1", False),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) is public


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "http and https"),
        ("ftp://example.org/a.png", "http and https"),
        ("gopher://127.0.0.1/", "http and https"),
        ("data:image/png;base64,AAAA", "http and https"),
        ("//example.org/a.png", "http and https"),
        ("a.png", "http and https"),
        ("", "http and https"),
        ("http://", "http and https"),
        ("http:///a.png", "http and https"),
        ("http://user:secret@127.0.0.1/", "user's name or password"),
        ("http://user@127.0.0.1/", "user's name or password"),
        ("http://127.0.0.1:0/", "port 0"),
        ("http://127.0.0.1:65536/", "port 65536"),
        ("http://127.0.0.1:http/", "no URL"),
        ("http://[::1/", "no URL"),
        ("http://127.0.0.1/\r\nHost: a", "no URL"),
        ("http://\ud800/", "no URL"),
        ("http://" + "a" * 64 + ".org/", "not known"),
        ("http://a b/", "not known"),
        ("http://nowhere.invalid/", "not known"),
        ("http://127.0.0.1:1/", "cannot be reached"),
    ],
)
def test_what_is_no_url_of_a_web_server(url: str, message: str) -> None:
    assert message in refused(url)


def test_redirects_are_followed_and_no_cookie_is_kept(server: Server) -> None:
    assert Fetcher(allowed=only_here).get(server.url + "/cookie") == b"hello"
    assert Fetcher(allowed=only_here).get(server.url + "/to/" + server.url) == b"hello"
    assert not any("Cookie" in headers for _, headers in server.asked)


def test_redirects_have_an_end(server: Server) -> None:
    fetcher = Fetcher(allowed=only_here, max_redirects=3)
    assert "more than 3 times" in refused(server.url + "/loop", fetcher)
    assert len(server.asked) == 4
    assert "answered 302" in refused(server.url + "/nowhere")


def test_no_redirect_leads_to_where_nothing_may_be_asked(server: Server) -> None:
    with serving(Server("127.0.0.2", server.server_port)) as private:
        for target, message in (
            (f"http://127.0.0.2:{private.server_port}/", "not all of its addresses"),
            (f"//127.0.0.2:{private.server_port}/", "not all of its addresses"),
            (f"http://[::1]:{private.server_port}/", "not all of its addresses"),
            (server.url.replace("//", "//user:secret@"), "user's name or password"),
            ("file:///etc/passwd", "http and https"),
            ("ftp://127.0.0.1/", "http and https"),
            ("http://127.0.0.1:secret/", "no URL"),
        ):
            assert message in refused(server.url + "/to/" + target), target
        assert Fetcher(allowed=lambda _: True).get(f"http://127.0.0.2:{private.server_port}/")
        assert len(private.asked) == 1


def test_a_name_is_looked_up_once_and_all_its_addresses_count(
    server: Server, names: dict[str, list[str]]
) -> None:
    with serving(Server("127.0.0.2", server.server_port)) as private:
        url = f"http://pictures.test:{server.server_port}/"
        names["pictures.test"] = ["127.0.0.1", "127.0.0.2"]  # as a rebinding server answers
        assert Fetcher(allowed=only_here).get(url) == b"hello"
        assert names["pictures.test"] == ["127.0.0.2"]
        assert server.asked[0][1]["Host"] == f"pictures.test:{server.server_port}"
        for answer in ("127.0.0.2", "127.0.0.1 127.0.0.2", "127.0.0.2 127.0.0.1", "10.0.0.1", ""):
            names["pictures.test"] = [answer]
            assert "not all of its addresses are public" in refused(url)
        assert len(server.asked) == 1
        assert not private.asked


def test_the_next_address_is_asked_where_one_does_not_answer(
    server: Server, names: dict[str, list[str]]
) -> None:
    names["pictures.test"] = ["127.0.0.3 127.0.0.1"]  # nobody listens at the first
    url = f"http://pictures.test:{server.server_port}/"
    assert Fetcher(allowed=lambda _: True).get(url) == b"hello"


@pytest.mark.parametrize("path", ["/endless", "/chunks"])
def test_no_more_is_read_than_allowed(server: Server, path: str) -> None:
    if path == "/endless":  # what goes beyond the length that was promised is not read at all
        assert Fetcher(max_bytes=5, allowed=only_here).get(server.url + path) == b"xxxxx"
    else:
        fetcher = Fetcher(max_bytes=10_000, allowed=only_here)
        assert "more than the 10000 bytes" in refused(server.url + path, fetcher)
    assert "more than the 4 bytes" in refused(server.url, Fetcher(max_bytes=4, allowed=only_here))
    assert Fetcher(max_bytes=5, allowed=only_here).get(server.url) == b"hello"


def test_the_body_of_a_redirect_is_not_read(server: Server) -> None:
    assert Fetcher(max_bytes=5, allowed=only_here).get(server.url + "/bait") == b"hello"


@pytest.mark.parametrize("path", ["/drops", "/heading", "/sizes", "/silent"])
def test_a_server_that_sends_drop_by_drop_is_left(server: Server, path: str) -> None:
    message = refused(server.url + path, Fetcher(timeout=0.3, allowed=only_here))
    assert "longer than the 0.3 s" in message


def test_a_resolver_that_does_not_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: late.wait() and [])
    message = refused("http://slow.test/", Fetcher(timeout=0.2))
    late.set()
    assert "longer than the 0.2 s" in message


def test_time_does_not_begin_again_with_a_redirect(server: Server) -> None:
    def wait(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.1)
        sends(b"", 302, "Location: /wait")(handler)

    server.answers["/wait"] = wait
    fetcher = Fetcher(timeout=0.5, max_redirects=1000, allowed=only_here)
    assert "longer than the 0.5 s" in refused(server.url + "/wait", fetcher)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/missing", "answered 404"),
        ("/garbage", "not on a web server"),
        ("/short", "broke off"),
        ("/zipped", "came compressed"),
    ],
)
def test_what_a_server_cannot_send(server: Server, path: str, message: str) -> None:
    assert message in refused(server.url + path)


def test_neither_proxies_nor_passwords_are_taken_from_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert Fetcher(allowed=only_here).get(server.url) == b"hello"
    assert not any("Authorization" in headers for _, headers in server.asked)


def test_without_httpx_all_else_works_and_the_extra_is_named() -> None:
    lines = ("import sys", "sys.modules['httpcore'] = None", "import visreplay.tools")
    without = [sys.executable, "-c", "; ".join((*lines, "import visreplay.tools.fetch"))]
    ended = subprocess.run(without, capture_output=True, text=True, check=False)
    assert "pip install 'visreplay[serve]'" in ended.stderr
    without[-1] = "; ".join(lines)
    subprocess.run(without, check=True)


def certified(folder: Path, name: str) -> Path:
    """A key and a certificate that it signed for a name, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(1))
        .not_valid_after(now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / "server.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


def test_a_certificate_is_checked_against_the_name_not_the_address(
    tmp_path: Path, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certified(tmp_path, "pictures.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = Server()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # failed handshakes
    names["pictures.test"] = ["127.0.0.1"] * 2
    names["other.test"] = ["127.0.0.1"]
    port = server.server_port
    with serving(server):
        assert "certificate" in refused(f"https://pictures.test:{port}/")  # of nobody known
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        assert Fetcher(allowed=only_here).get(f"https://pictures.test:{port}/") == b"hello"
        for host in ("other.test", "127.0.0.1"):
            assert "certificate" in refused(f"https://{host}:{port}/")
