"""What a request must pass before anybody parses it: host, token, size. Plain ASGI, so that nothing large is ever held."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from regraft.errors import Problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_OPEN_PATHS = frozenset({"/health"})
_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


class Guard:
    """Stand before an application.

    Args:
        app: The application.
        token: Secret that a request must carry; none is asked for if empty.
        max_body_bytes: Longest body.
        loopback_only: Whether the request's Host must name this machine; a web page that points its own name at 127.0.0.1 could
            otherwise have a browser on this machine ask on its behalf.
    """

    def __init__(self, app: App, *, token: str, max_body_bytes: int, loopback_only: bool) -> None:
        self.app = app
        self._token = token.encode()
        self._max_body_bytes = max_body_bytes
        self._loopback_only = loopback_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a refusal, or let the application answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal:
            await refuse(send, *refusal)
            return
        body = await self._body(receive)
        if body is None:
            await refuse(send, 413, self._too_large("more than that"))
            return
        await self.app(scope, _given(body, receive), send)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, Problem] | None:
        host = _host_name(headers.get(b"host", b"").decode("latin-1"))
        if self._loopback_only and host not in _LOOPBACK_NAMES:
            fix = "ask 127.0.0.1 or localhost, or serve on another address with a token"
            what = "this server answers only requests to this machine"
            return 421, Problem(what=what, where="Host", got=f"'{host}'", expected="127.0.0.1 or localhost", fix=fix)
        wanted = b"Bearer " + self._token
        if (
            self._token
            and scope["path"] not in _OPEN_PATHS
            and not hmac.compare_digest(headers.get(b"authorization", b""), wanted)
        ):
            got = "another token" if b"authorization" in headers else "no token"
            fix = "send the token the server was started with"
            what = "the request carries no valid token"
            return 401, Problem(what=what, where="Authorization", got=got, expected="Bearer TOKEN", fix=fix)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body_bytes:
            return 413, self._too_large(f"{int(length)} bytes")
        return None

    def _too_large(self, got: str) -> Problem:
        expected = f"at most {self._max_body_bytes} bytes"
        return Problem(
            what="the request is too large", where="body", got=got, expected=expected, fix="send fewer rows a request"
        )

    async def _body(self, receive: Receive) -> bytes | None:
        """Return the body, or nothing if it is longer than allowed: the rest is then never read."""
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes:
                return None
            if not message.get("more_body", False):
                return bytes(body)


async def refuse(send: Send, status: int, problem: Problem) -> None:
    """Answer with a problem as JSON."""
    body = json.dumps({"problems": [problem.to_json()]}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status in {401, 413}:
        headers.append((b"www-authenticate", b"Bearer") if status != 413 else (b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _given(body: bytes, receive: Receive) -> Receive:
    """Return a receiver that gives a body already read, then whatever comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _host_name(host: str) -> str:
    """Return the name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
