"""Promises of `vrshq.cluster.storage.web`: who is called, how much comes, and what a refusal says."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from vrshq.cluster.storage.errors import StorageError, StorageNotFoundError
from vrshq.cluster.storage.fetch import GIVEN_BY_USER, Wanted, fetch_to_local
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.web import AddressRefusedError, WebAccess, is_public

PUBLIC_ONLY = Wanted(access=WebAccess(allowed=True))
MIB = 2**20


class Web(ThreadingHTTPServer):
    """A web server: /status/N answers N, /to/URL redirects, /endless has no length, /long?N states N bytes, else 5 bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.asked: list[str] = []
        self.sent = 0
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are what is tested."""


class _Answers(BaseHTTPRequestHandler):
    server: Web

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        kind, _, rest = self.path[1:].partition("/")
        if kind == "status":
            self.send_response(int(rest))
            self.end_headers()
        elif kind == "to":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
        else:
            self.send_response(200)
            length = {"endless": None, "long": 10**12}.get(kind, 5)
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            for _ in range(1 if length == 5 else 200):
                self.wfile.write(b"video" if length == 5 else bytes(MIB))
                self.server.sent += 1

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetched(uri: str, scratch: Path, wanted: Wanted) -> bytes:
    with fetch_to_local(uri, scratch, 0.0, wanted) as path:
        return Path(path).read_bytes()


def test_no_web_server_is_called_by_default(web: Web, tmp_path: Path) -> None:
    with pytest.raises(AddressRefusedError, match=r"a\.mp4: cannot fetch: .* limits\.allow_http=true"):
        fetched(f"{web.uri}/a.mp4", tmp_path, Wanted())
    assert web.asked == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0177.0.0.1", "0x7f.1", "127.1", "0", "[::ffff:127.0.0.1]", "127.0.0.1."],
)
def test_no_spelling_of_this_machine_is_called(host: str, web: Web, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"not a public address|not a canonical"):
        fetched(f"http://{host}:{web.server_address[1]}/a.mp4", tmp_path, PUBLIC_ONLY)
    assert web.asked == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
        ),
        *("224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "192.0.2.1", "168.63.129.16"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1"),
        *("::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a00:1", "2002:a00:1::", "::7f00:1"),
    ],
)
def test_addresses_of_machines_and_networks_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, list[str]], None]:
    """Lets a name stand for one address after the other, as a hostile name server does."""
    real, known = socket.getaddrinfo, dict[str, list[str]]()

    def answer(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host in known:
            addresses = known[host]
            host = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        return real(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return known.__setitem__


def test_a_name_is_judged_by_the_address_that_is_connected_to(
    web: Web, names: Callable[[str, list[str]], None], tmp_path: Path
) -> None:
    names("videos.example", ["127.0.0.1"])
    with pytest.raises(AddressRefusedError, match=r"leads to 127\.0\.0\.1, .* limits\.allow_private_addresses=true"):
        fetched(f"http://videos.example:{web.server_address[1]}/a.mp4", tmp_path, PUBLIC_ONLY)
    assert web.asked == []


def test_a_redirect_to_a_private_address_is_not_followed(
    web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The server's own address counts as public, the machine that it points to does not.
    monkeypatch.setattr("vrshq.cluster.storage.web.is_public", lambda address: address == "127.0.0.1")
    assert fetched(f"{web.uri}/to/{web.uri}/a.mp4", tmp_path, PUBLIC_ONLY) == b"video"
    for target in ("http://127.0.0.2", "http://[::1]", "http://169.254.169.254/latest", "file:///etc/passwd"):
        with pytest.raises(StorageError, match=r"leads to|RedirectClientError"):
            fetched(f"{web.uri}/to/{target}", tmp_path, PUBLIC_ONLY)


def test_private_addresses_are_called_where_they_are_allowed(web: Web, tmp_path: Path) -> None:
    assert fetched(f"{web.uri}/to/{web.uri}/x::y.mp4?a/b::c", tmp_path, GIVEN_BY_USER) == b"video"
    assert web.asked[-1] == "/x::y.mp4?a/b::c"


@pytest.mark.parametrize(("path", "most"), [("long", 0), ("endless", 100)])
def test_a_download_is_bounded_by_what_the_server_states_and_by_what_comes(
    path: str, most: int, web: Web, tmp_path: Path
) -> None:
    seen: list[int] = []

    def check(_: int, size: int) -> None:
        seen.append(size)
        if size > 3 * MIB:
            raise StorageError(f"{size} bytes")

    with pytest.raises(StorageError, match=r"^\d+ bytes$"):
        fetched(f"{web.uri}/{path}/a.mp4", tmp_path, Wanted(check=check, access=GIVEN_BY_USER.access))
    assert seen[0] == (10**12 if path == "long" else 0)
    assert max(seen[1:], default=0) <= 4 * MIB + most
    assert web.sent < 200
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "the server answers 401 Unauthorized; it asks for a login"),
        (403, "the server answers 403 Forbidden; the address may be signed and have expired"),
        (410, "the server answers 410 Gone; the address may be signed and have expired"),
        (418, "the server answers 418 I'm a Teapot"),
        (429, "the server answers 429 Too Many Requests; it is asked too often"),
        (500, "the server answers 500 Internal Server Error; tried for 0 s"),
        (503, "the server answers 503 Service Unavailable; tried for 0 s"),
    ],
)
def test_a_refusal_says_the_servers_status(status: int, words: str, web: Web, tmp_path: Path) -> None:
    for act in (
        lambda: fetched(f"{web.uri}/status/{status}", tmp_path, GIVEN_BY_USER),
        lambda: Folder(f"{web.uri}/status", 0.0).read_bytes(str(status)),
        lambda: Folder(f"{web.uri}/status", 0.0).exists(str(status)),
    ):
        with pytest.raises(StorageError, match=rf"/status/{status}: cannot .*: {re.escape(words)}") as caught:
            act()
        assert not isinstance(caught.value, StorageNotFoundError)
        assert "\n" not in str(caught.value)


def test_only_a_404_is_called_missing(web: Web, tmp_path: Path) -> None:
    with pytest.raises(StorageNotFoundError, match=r"/status/404: cannot fetch: no such file or folder$"):
        fetched(f"{web.uri}/status/404", tmp_path, GIVEN_BY_USER)
    assert not Folder(f"{web.uri}/status").exists("404")
