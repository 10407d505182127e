"""A proxy in front of an S3 server that injects faults and counts requests.

The signature of an S3 request covers its Host header. The proxy therefore forwards the headers unchanged, so that the server
checks the signature against the proxy's address, which the client signed.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

FAULTS = ("503", "cut_upload", "cut_before_answer", "cut_in_body")
SLOW_DOWN = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"""

REFUSED = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>PreconditionFailed</Code><Message>At least one of the pre-conditions you specified did not hold</Message>\
<Condition>If-None-Match</Condition></Error>"""


class FaultyProxy:
    """A proxy that listens on `port` inside a `with` block and forwards requests, some of them with a fault.

    Each fault has a rate (0..1), which may be changed at any time, and is drawn for each request:

    * `rate_503`: the proxy answers "503 SlowDown"; the server does not get the request.
    * `rate_cut_upload`: half of the request's body goes to the server, then both connections are reset. Requests without a
      body are not affected.
    * `rate_cut_before_answer`: the server executes the request, and the answer is lost.
    * `rate_cut_in_body`: the client gets the headers and half of the body, then the connection ends. Answers without a body
      are not affected.

    `script` is called first with (method, path). It returns the name of a fault or an HTTP status such as "429", "" for no
    fault, or None to use the rates. With one client that sends one request at a time, a seed gives the same faults again.

    Args:
        target_port: port of the server on this machine.
        seed: seed of the draws.
        rate_503: see above.
        rate_cut_upload: see above.
        rate_cut_before_answer: see above.
        rate_cut_in_body: see above.
        delay_s: pause before each answer, in seconds.
        script: see above.
        conditional_over: folder that the server serves. The proxy then honours `If-None-Match: *` of uploads, as S3 does and
            rclone does not: it answers 412 where the object exists, and lets conditional uploads through one at a time.

    Attributes:
        counts: requests by (method, path without query), including those with a fault.
        faults: number of times that each fault happened.
        answered_bytes: total size of the bodies of all answers.
    """

    def __init__(
        self,
        target_port: int,
        *,
        seed: int = 0,
        rate_503: float = 0.0,
        rate_cut_upload: float = 0.0,
        rate_cut_before_answer: float = 0.0,
        rate_cut_in_body: float = 0.0,
        delay_s: float = 0.0,
        script: Callable[[str, str], str | None] | None = None,
        conditional_over: Path | None = None,
    ) -> None:
        self.target_port = target_port
        self.rate_503, self.rate_cut_upload = rate_503, rate_cut_upload
        self.rate_cut_before_answer, self.rate_cut_in_body = rate_cut_before_answer, rate_cut_in_body
        self.delay_s, self.script = delay_s, script
        self.conditional_over, self.conditional_upload = conditional_over, threading.Lock()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.faults: Counter[str] = Counter()
        self.answered_bytes = 0
        self._random, self._lock = random.Random(seed), threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def spoil_next(self, fault: str, times: int, method: str = "", part: str = "") -> None:
        """Injects a fault into the next `times` requests of a method ("": any) whose path contains `part`."""
        left = [times]

        def script(asked: str, path: str) -> str | None:
            with self._lock:
                if left[0] and method in ("", asked) and part in path:
                    left[0] -= 1
                    return fault
            return None

        self.script = script

    def draw(self, method: str, path: str) -> str:
        """Counts a request; returns its fault: one of FAULTS, an HTTP status, or "" for none."""
        with self._lock:
            self.counts[method, path] += 1
        fault = self.script(method, path) if self.script else None  # without the lock, because a script may wait
        with self._lock:
            if fault is None:
                rates = (self.rate_503, self.rate_cut_upload, self.rate_cut_before_answer, self.rate_cut_in_body)
                drawn = [name for name, rate in zip(FAULTS, rates, strict=True) if self._random.random() < rate]
                fault = drawn[0] if drawn else ""
            return fault

    def note(self, fault: str) -> None:
        """Counts a fault that happened."""
        with self._lock:
            self.faults[fault] += 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    proxy: FaultyProxy

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """Closes without the base class's shutdown, so that the client sees a reset."""
        self.close_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores clients that close the connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_one_request(self) -> None:
        """Reads a request of any method, injects a fault if one is drawn, forwards it and answers."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = proxy.draw(self.command, unquote(self.path.partition("?")[0]))
        time.sleep(proxy.delay_s)
        if fault.isdigit():
            proxy.note(fault)
            self._answer(int(fault), [("Content-Type", "application/xml")], SLOW_DOWN if fault == "503" else b"")
            return
        if proxy.conditional_over is not None and self.headers.get("If-None-Match") == "*":
            with proxy.conditional_upload:
                if (proxy.conditional_over / unquote(self.path.partition("?")[0]).lstrip("/")).exists():
                    self._answer(412, [("Content-Type", "application/xml")], REFUSED)
                else:
                    self._forward(proxy, body, fault)
            return
        self._forward(proxy, body, fault)

    def _forward(self, proxy: FaultyProxy, body: bytes, fault: str) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", proxy.target_port, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                # The base class answers Expect; the signature does not cover it.
                if name.lower() not in ("expect", "connection"):
                    upstream.putheader(name, value)
            if fault == "cut_upload" and body:
                upstream.endheaders(body[: len(body) // 2])
                _reset(upstream.sock)
                proxy.note(fault)
                self._hang_up()
                return
            upstream.endheaders(body)
            response = upstream.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):  # the server is down, so the client sees a closed connection
            self._hang_up()
            return
        finally:
            upstream.close()
        if fault == "cut_before_answer":
            proxy.note(fault)
            self._hang_up()
            return
        if fault == "cut_in_body" and content:
            proxy.note(fault)
            # The connection ends with FIN, which a careless client takes for the end of the content.
            self._answer(response.status, response.getheaders(), content, len(content) // 2)
            self.close_connection = True
        else:
            self._answer(response.status, response.getheaders(), content)

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, sent: int | None = None) -> None:
        self.send_response_only(status)
        told_length = False
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
                told_length |= name.lower() == "content-length"
        if not told_length:  # the answer to a HEAD has the object's length already
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])
            with self.server.proxy._lock:
                self.server.proxy.answered_bytes += len(content[:sent])

    def _hang_up(self) -> None:
        self.close_connection = True
        _reset(self.connection)


def _reset(connection: socket.socket) -> None:
    """Closes the connection with a reset (RST) instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
