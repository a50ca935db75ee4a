"""Who may ask what: the checks that stand before every answer of the studio, and the headers behind it.

1. The name that the browser was told (`Host`) has to be one of this server's own, or a web site whose name is made to
   point here (DNS rebinding) would be answered.
2. A page of another site (`Origin`, `Sec-Fetch-Site`), and one without a site (`null`), is refused, for reading too.
3. Whoever asks has a cookie that the address which the command prints sets, and that no other site's page sends along.
4. What changes something says so in a header that a form can't set, and has a body of a bounded size.
5. Answers allow scripts, styles, pictures and videos of this server alone, and nothing in line.

The checks are of the server's, not of the page's: a page that was changed is refused alike.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
SAFE = ("GET", "HEAD")
SIGN = b"x-kinolab"
"""The header of what changes something; a page of another site can't send it without asking first."""
HTTP = "80"
"""The port of an address that names none."""
BODY = 2**20
"""Bytes of a body, where no route allows more (`uploads`)."""
POLICY = "; ".join(
    [
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' blob: data:",
        "media-src 'self' blob:", "connect-src 'self'", "font-src 'self'", "base-uri 'none'", "form-action 'none'",
        "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types svelte-trusted-html",
    ]
)  # fmt: skip
"""What a page of this server may load and run."""
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), microphone=(), geolocation=()",
}


def is_loopback(host: str) -> bool:
    """Whether a server on this host can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Rules:
    """What a server answers to.

    host: what it listens on; port: where; token: what the cookie holds; uploads: bytes of a body, by the path that
    allows more than `BODY`.
    """

    host: str
    port: int
    token: str
    uploads: dict[str, int] = field(default_factory=dict)

    @property
    def cookie(self) -> str:
        """The cookie's name: cookies don't know ports, and two studios have two."""
        return f"kinolab_studio_{self.port}"

    def names(self, host: str) -> bool:
        """Whether a `Host` is this server's: its own name and port, or a number where it listens on all of them.

        A number can't be rebound: it is the address that was asked.
        """
        name, sign, port = host.lower().rpartition(":")
        if not sign or host.endswith("]"):
            name, port = host.lower(), HTTP  # browsers leave it out
        if not name or port != str(self.port):
            return False
        if name in LOOPBACK or name == self.host.lower():
            return True
        if is_loopback(self.host):
            return False
        try:
            ipaddress.ip_address(name.strip("[]"))
            return True
        except ValueError:
            return name == socket.gethostname().lower()

    def limit(self, path: str) -> int:
        """Bytes that the body of a request may have."""
        return self.uploads.get(path, BODY)


class Guarded:
    """An ASGI application behind the rules."""

    def __init__(self, app: App, rules: Rules) -> None:
        self.app, self.rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web sockets
            await send({"type": "websocket.close", "code": 1008})
            return
        refused = self._refused(scope)
        if refused is not None:
            await answer(send, refused[0], refused[1])
            return
        if self._enters(scope):
            await self._welcome(send)
            return
        if not self._known(scope):
            told = "open the address that `kinolab studio` printed: this browser has no key to it yet"
            await (plain if self._reads(scope) else answer)(send, 401, told)
            return
        limited = Limited(receive, self.rules.limit(scope["path"]))
        await self.app(scope, limited, with_headers(send))

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason where a request is refused, whoever asks."""
        headers = _headers(scope)
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or not self.rules.names(hosts[0]):
            return 403, "this is not the name or address that the studio was started with"
        for origin in headers.get(b"origin", []):
            scheme, _, host = origin.partition("://")
            if scheme != "http" or not self.rules.names(host):
                return 403, "asked by a page of another site"
        site = headers.get(b"sec-fetch-site", ["none"])[0]
        entering = scope["path"] == "/" and headers.get(b"sec-fetch-mode", [""])[0] == "navigate"
        if site not in ("same-origin", "none") and not entering:
            return 403, "asked by a page of another site"
        if scope["method"] not in SAFE and headers.get(SIGN) != ["1"]:
            return 403, "what changes something has to be asked by the studio's own page (header X-Kinolab: 1)"
        length = headers.get(b"content-length", ["0"])[0]
        if not length.isdigit() or int(length) > self.rules.limit(scope["path"]):
            return 413, f"larger than the {self.rules.limit(scope['path']):,} bytes that may be sent here"
        return None

    def _known(self, scope: Scope) -> bool:
        """Whether a request has the cookie."""
        for text in _headers(scope).get(b"cookie", []):
            for part in text.split(";"):  # by hand: other servers of this machine may have set cookies of any form
                name, _, value = part.strip().partition("=")
                if name == self.rules.cookie and hmac.compare_digest(value.encode(), self.rules.token.encode()):
                    return True
        return False

    def _reads(self, scope: Scope) -> bool:
        """Whether a person reads the answer: a browser was sent to the page."""
        return scope["path"] == "/" and any("text/html" in text for text in _headers(scope).get(b"accept", []))

    def _enters(self, scope: Scope) -> bool:
        """Whether this is the address that the command prints, with the token."""
        if scope["path"] != "/" or scope["method"] != "GET":
            return False
        asked = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        return bool(asked) and hmac.compare_digest(asked.encode(), self.rules.token.encode())

    async def _welcome(self, send: Send) -> None:
        """Set the cookie, and lead to the page without the token in its address."""
        cookie = f"{self.rules.cookie}={self.rules.token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000"
        headers = [(b"location", b"/"), (b"set-cookie", cookie.encode()), (b"cache-control", b"no-store")]
        start = {"type": "http.response.start", "status": 303, "headers": [*headers, *HEADERS.items()]}
        await send(start)
        await send({"type": "http.response.body", "body": b""})


class TooLargeError(Exception):
    """A body that goes on beyond its limit."""


class Limited:
    """The body of a request, up to its limit, whatever its header said."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self.receive, self.left = receive, limit

    async def __call__(self) -> MutableMapping[str, Any]:
        message = await self.receive()
        if message["type"] == "http.request":
            self.left -= len(message.get("body", b""))
            if self.left < 0:
                raise TooLargeError
        return message


def with_headers(send: Send) -> Send:
    """What is sent, with the headers of every answer."""

    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own = {name.lower() for name, _ in message.get("headers", [])}
            more = [(name, value) for name, value in HEADERS.items() if name not in own]
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await send(message)

    return sent


async def answer(send: Send, status: int, error: str) -> None:
    """A refusal, in one line."""
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"cache-control", b"no-store"), *HEADERS.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def plain(send: Send, status: int, error: str) -> None:
    """The same as a text that a browser shows."""
    body = f"Kinolab studio: {error}.\nIt also stands in queue/.address in the project's folder.\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    headers += [(b"cache-control", b"no-store"), *HEADERS.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(32)


def _headers(scope: Scope) -> dict[bytes, list[str]]:
    """The values of each header, by its name in small letters."""
    found: dict[bytes, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(bytes(name).lower(), []).append(bytes(value).decode("latin-1"))
    return found
