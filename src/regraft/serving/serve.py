"""Run the HTTP application: on loopback unless a token is set, in the foreground or in a thread of this process."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from regraft.artifact.describe import describe
from regraft.errors import GateError, MachineError, Problem, UsageError
from regraft.registry import missing_extra
from regraft.serving.options import ServeOptions
from regraft.serving.predictor import Predictor
from regraft.serving.replay import replay_artifact

if TYPE_CHECKING:
    import uvicorn

TOKEN_VARIABLE = "REGRAFT_TOKEN"  # noqa: S105 - the name of the variable, not a secret
_EXTRA = "serve"
_STOP_S = 30.0


def serve(
    artifact: Path | str | Predictor, options: ServeOptions | None = None, *, say: Callable[[str], None] = lambda text: None
) -> None:
    """Serve an artifact until Ctrl-C.

    Args:
        artifact: Folder of the artifact, or a predictor loaded from one.
        options: Where to listen, limits, token.
        say: Called with sentences for people: the address, what is served.

    Raises:
        UsageError: The address is not loopback and there is no token, or it cannot be listened on.
        GateError: The artifact does not answer its golden rows as it did.
    """
    with _stoppable(), BackgroundServer(artifact, options or ServeOptions()) as server:
        asked = "POST /predict, POST /retrieve" if server.predictor.task.paired else "POST /predict"
        say(f"serving on {server.url} ({asked}, GET /health, GET /info, GET /openapi.json); Ctrl-C stops")
        try:
            server.wait()
        except KeyboardInterrupt:
            say("stopped")


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM, which service managers send, end the server as Ctrl-C does: what is being answered is answered first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class BackgroundServer:
    """Serve an artifact from a thread of this process, inside a `with` block.

    Args:
        artifact: Folder of the artifact, or a predictor loaded from one.
        options: Where to listen, limits, token; by default a free port on loopback.
        timeout_s: Seconds until it must be healthy.

    Example:
        with BackgroundServer("artifact") as server:
            urllib.request.urlopen(server.url + "/health")
    """

    def __init__(
        self, artifact: Path | str | Predictor, options: ServeOptions | None = None, *, timeout_s: float = 120.0
    ) -> None:
        self.options = with_token(options or ServeOptions(port=0))
        check_exposure(self.options)
        self.predictor = artifact if isinstance(artifact, Predictor) else Predictor.load(artifact)
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        # An event and not the thread is waited for: a join that Ctrl-C interrupts takes a living thread for a dead one (3.11).
        self._ended = threading.Event()
        self._ended.set()
        self.url = ""

    def __enter__(self) -> Self:
        """Listen, replay the golden rows, and return when the server is ready."""
        self._server = _server(self.predictor, self.options)
        self._socket = listen(self.options)
        self.url = _url(self._socket)
        self._ended.clear()
        threading.Thread(target=self._run, args=(self._server, self._socket), name="regraft-serve", daemon=True).start()
        try:
            self._until_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Answer what is being answered, then stop."""
        self.stop()

    def wait(self) -> None:
        """Return when the server has stopped."""
        while not self._ended.wait(timeout=0.2):
            pass

    def stop(self) -> None:
        """Stop the server and close its socket; does nothing when it is stopped."""
        if self._server is not None:
            self._server.should_exit = True
        self._ended.wait(timeout=_STOP_S)
        if self._socket is not None:
            self._socket.close()

    def _run(self, server: uvicorn.Server, listener: socket.socket) -> None:
        try:
            server.run(sockets=[listener])
        finally:
            self._ended.set()

    def _until_healthy(self) -> None:
        deadline = time.monotonic() + self._timeout_s
        while time.monotonic() < deadline:
            health = _health(self.url)
            if health.get("status") == "ready":
                return
            if health.get("problems"):
                raise GateError([Problem(**problem) for problem in health["problems"]])
            if self._ended.is_set():
                raise MachineError(Problem(what="the server ended while it started", where=self.url, fix="see its log"))
            time.sleep(0.02)
        got = f"no answer after {self._timeout_s:g} s"
        raise MachineError(Problem(what="the server does not get ready", where=self.url, got=got, fix="see its log"))


def with_token(options: ServeOptions) -> ServeOptions:
    """Return the options with the token of the environment where they have none."""
    token = options.token if options.token is not None else os.environ.get(TOKEN_VARIABLE, "").strip()
    return replace(options, token=token or None)


def is_loopback(host: str) -> bool:
    """Return whether an address can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_exposure(options: ServeOptions) -> None:
    """Refuse to be reachable from other machines without a token.

    Raises:
        UsageError: The host is not loopback and there is no token.
    """
    if not is_loopback(options.host) and not options.token:
        raise UsageError(
            Problem(
                what="serving other machines needs a token",
                where="host",
                got=f"'{options.host}' and no token",
                expected="127.0.0.1, or a token that clients send as 'Authorization: Bearer TOKEN'",
                fix=f"set the environment variable {TOKEN_VARIABLE} to a long random text, then start again",
            )
        )


def listen(options: ServeOptions) -> socket.socket:
    """Return a socket that listens where the options say.

    Raises:
        UsageError: The address is taken, not ours, or not an address.
    """
    where = f"{options.host}:{options.port}"
    try:
        family, kind, number, _, address = socket.getaddrinfo(options.host.strip("[]"), options.port, type=socket.SOCK_STREAM)[
            0
        ]
        listener = socket.socket(family, kind, number)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        fix = "choose another --port, or --port 0 for a free one"
        what = "the server cannot listen there"
        raise UsageError(Problem(what=what, where=where, got=error.strerror or str(error), fix=fix)) from None
    return listener


def _server(predictor: Predictor, options: ServeOptions) -> uvicorn.Server:
    try:
        import fastapi  # noqa: F401 - only to say early that it is missing
        import uvicorn
    except ModuleNotFoundError as error:
        raise missing_extra(error, "serving over HTTP", _EXTRA) from error
    from regraft.serving.app import create_app, info_of

    facts: dict[str, Any] = describe(predictor.artifact) if predictor.artifact else {}
    app = create_app(
        predictor,
        info_of(predictor, facts, options),
        options,
        check=lambda: replay_artifact(predictor),
        loopback_only=is_loopback(options.host) and not options.token,
    )
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=20,
        lifespan="on",
    )
    return uvicorn.Server(config)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _health(url: str) -> dict[str, Any]:
    """Return what /health says, whatever its status; nothing while nobody answers."""
    # Asked over a connection of its own: a proxy of the environment must not stand between a process and itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(_reachable(url) + "/health", timeout=5) as response:
            content = response.read()
    except urllib.error.HTTPError as error:
        with error:
            content = error.read()
    except OSError:
        return {}
    try:
        said: dict[str, Any] = json.loads(content)
    except ValueError:
        return {}
    return said


def _reachable(url: str) -> str:
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
