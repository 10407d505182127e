"""Who may speak to the app: the token, the names it answers to, and writes from its own page alone."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The page loads its own files, pictures that it draws itself, and nothing else; no other page may frame it.
CONTENT_SECURITY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_READS = ("GET", "HEAD")


class Guard:
    """Lets a request through to the app if all of this holds, and adds the headers that keep the page to itself.

    * Its Host is an address or a name of this machine. A foreign name that was made to point here (DNS rebinding) is not.
    * A browser says that it comes from the page itself, or from the address line.
    * A write names the page itself as its Origin.
    * It has the token: in the address, as at the first visit, or in the cookie that the first visit gave.

    Args:
        app: what is guarded.
        token: the secret.
        host: the address that the app listens on, as the user gave it.
        port: the port, which tells the cookies of two apps on this machine apart.
    """

    def __init__(self, app: ASGIApp, *, token: str, host: str, port: int) -> None:
        self._app, self._token = app, token
        self._cookie = f"vrshq-{port}"
        self._names = {"localhost", host.lower()}
        if not is_loopback(host):
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._loopback = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves or refuses one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        given = parse_qs(scope.get("query_string", b"").decode("ascii", "replace")).get("token", [""])[0]
        reason = self._refusal(scope["method"], headers)
        if reason is None and not (self._is_token(given) or self._is_token(self._from_cookie(headers))):
            reason = "the token is missing or wrong; open the address that `vrshq app` printed"
        if reason is not None:
            response = PlainTextResponse(f"refused: {reason}\n", status_code=403, headers=_HEADERS)
            await response(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.update(_HEADERS)
                answer.setdefault("Cache-Control", "no-store")
                if self._is_token(given):
                    cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
                    answer.append("Set-Cookie", cookie)
            await send(message)

        await self._app(scope, receive, guarded)

    def _refusal(self, method: str, headers: Headers) -> str | None:
        """Why a request is refused whatever token it has; None: it is not."""
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self._is_own(host):
            return f"the host {host[:100]!r} is no name of this app"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "the request comes from another page"
        if method not in _READS and headers.get("origin") != f"http://{host}":
            return "the write does not come from the app's own page"
        return None

    def _is_own(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        # an address cannot be made to point elsewhere, as a name can
        return address.is_loopback or not self._loopback

    def _is_token(self, text: str) -> bool:
        return secrets.compare_digest(text.encode(), self._token.encode())

    def _from_cookie(self, headers: Headers) -> str:
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return morsel.value if morsel else ""


def is_loopback(host: str) -> bool:
    """Whether an address to listen on reaches this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
