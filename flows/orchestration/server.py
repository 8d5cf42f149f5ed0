"""Prefect's temporary server, tied to the process that needs it: it ends when that process ends in any way.

If PREFECT_API_URL is not set, a run starts a server and sets PREFECT_API_URL for itself. Prefect's own would outlive a
killed owner, keep that owner's standard error open, and be ended by Ctrl-C before the flow could report its end. If the
server dies in the middle of a run, it is started again on the same port: its database is a file, and Prefect's client
retries for a minute. The port is bound before the server starts, so that two runs that start at the same time never
share a server.

All local users can reach its port, so it requires a password: generated for this process, and passed to the server and
to Ray workers in Prefect's settings. It is never on a command line or in a file.
"""

import atexit
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from raft_core.errors import StepError
from raft_core.launch.children import python_module

CHECK_EVERY_S = 0.5
STOP_S = 5.0
NOT_STARTED = 3
"""Exit code of a server that could not start; another one is started then."""
MEANT = (0, NOT_STARTED, -signal.SIGTERM)
"""Exit codes of a server that was not killed."""


@contextmanager
def tied() -> Iterator[None]:
    """Run flows inside the block against our temporary server, unless PREFECT_API_URL names another."""
    from prefect.events.worker import EventsWorker
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_SERVER_API_AUTH_STRING,
        temporary_settings,
    )

    refuse_results()
    if PREFECT_API_URL.value():
        yield
        return
    ours = {
        PREFECT_API_URL: temporary_server().start(),
        PREFECT_API_AUTH_STRING: password(),
        PREFECT_SERVER_API_AUTH_STRING: password(),
    }
    with temporary_settings(ours), _in_every_thread(ours):
        try:
            yield
        finally:
            # Prefect sends events from a thread that keeps the address it began with: it must end with our server, or
            # what this process announces later to another one would be sent here.
            EventsWorker.drain_all(timeout=STOP_S, at_exit=False)


@contextmanager
def _in_every_thread(settings: Mapping[Any, str]) -> Iterator[None]:
    """Apply ``settings`` to Prefect's own threads too: those see what the environment held when it was read last."""
    from prefect.context import refresh_global_settings_context

    before = {setting.name: os.environ.get(setting.name) for setting in settings}
    os.environ.update({setting.name: value for setting, value in settings.items()})
    try:
        refresh_global_settings_context()
    finally:  # no child of this process inherits the password
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    try:
        yield
    finally:
        refresh_global_settings_context()


@cache
def password() -> str:
    """USER:PASSWORD of this process's temporary server."""
    return f"raft:{secrets.token_urlsafe(32)}"


def refuse_results() -> None:
    """Never load stored results that a state names: they are pickles, or name their decoder, and a server may lie.

    The results of our flows stay in memory.
    """
    from prefect.results import ResultStore

    async def arefused(self: ResultStore, *_: object, **__: object) -> Any:
        return refused()

    def refused(*_: object, **__: object) -> Any:
        raise StepError(
            "refused to load a stored result that Prefect's server names",
            expected="a result in memory",
            hint="find out who changed flow runs on that server; raft resume continues the run itself",
        )

    ResultStore.read = refused  # type: ignore[method-assign]
    ResultStore.aread = arefused  # type: ignore[method-assign]


def address() -> str:
    """The address of this process's temporary server."""
    server = temporary_server()
    return server.api_url if server.port else "127.0.0.1 (it did not start)"


@cache
def temporary_server() -> "TemporaryServer":
    """The temporary server of this process."""
    return TemporaryServer()


class TemporaryServer:
    """Prefect's server as a child of this process. Holds state, because a server that is killed is replaced by another
    one on the same port until ``stop``."""

    def __init__(self) -> None:
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._needed = False
        self._starting = threading.Lock()

    @property
    def api_url(self) -> str:
        """Its address, in the form of PREFECT_API_URL."""
        return f"http://127.0.0.1:{self.port}/api"

    def start(self) -> str:
        """Start the server unless it is running; returns its address once it answers.

        Raises RuntimeError if it does not answer within PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.
        """
        with self._starting:
            if not self._needed:
                self._needed = True
                atexit.register(self.stop)
                try:
                    self.process = self.launch()
                    self._await_answer()
                except BaseException:
                    self.stop()
                    raise
        return self.api_url

    def stop(self) -> None:
        """Stop the server if it is running."""
        self._needed = False
        atexit.unregister(self.stop)
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process, self.port = None, 0

    def launch(self, *, again: bool = False) -> "subprocess.Popen[bytes]":
        """Start a server process, and a thread that restarts it if it is killed. ``again``: on the same port."""
        from prefect.settings import get_current_settings

        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        with _bound(self.port, again=again) as port:
            port.listen()  # nobody else can take the port while the server loads
            self.port = port.getsockname()[1]
            process = subprocess.Popen(
                python_module("flows.orchestration.server", str(os.getpid()), str(port.fileno())),
                env={
                    **{name: value for name, value in {**os.environ, **settings}.items() if name != "PREFECT_API_URL"},
                    "PREFECT_API_AUTH_STRING": password(),
                    "PREFECT_SERVER_API_AUTH_STRING": password(),
                    "PREFECT_UI_ENABLED": "0",
                    "PREFECT__SERVER_EPHEMERAL": "1",
                    "PREFECT__SERVER_FINAL": "1",
                },
                start_new_session=True,
                pass_fds=[port.fileno()],
            )
        threading.Thread(target=self._revive, args=(process,), daemon=True).start()
        return process

    def _await_answer(self) -> None:
        import httpx
        from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

        limit_s = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if self.process is not None and self.process.poll() == NOT_STARTED:
                self.process = self.launch()
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.api_url}/health", trust_env=False).status_code == 200:
                    return
            time.sleep(0.1)
        code = None if self.process is None else self.process.poll()
        ended = "" if code is None else f"; its process ended with code {code}"
        raise RuntimeError(f"The ephemeral Prefect API server did not answer within {limit_s:g} s{ended}")

    def _revive(self, process: "subprocess.Popen[bytes]") -> None:
        """Restart the server if it was killed while it was needed."""
        code = process.wait()
        if code not in MEANT and self._needed and self.process is process:
            with suppress(OSError):  # the port is taken
                self.process = self.launch(again=True)


def _bound(port: int, *, again: bool) -> socket.socket:
    """A bound socket of this port, or of another port if it is taken.

    ``again``: use exactly this port, which a dead server left, since its clients know no other.
    """
    found = socket.socket()
    try:
        if again:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(("127.0.0.1", port))
    except OSError:
        if again:
            found.close()
            raise
        found.bind(("127.0.0.1", 0))
    return found


def serve(owner: int, bound: socket.socket) -> None:
    """Run the server until ``owner``, the process that started it, ends."""
    threading.Thread(target=_end_with, args=(owner,), daemon=True).start()
    import uvicorn

    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # so that a second server can follow this one
    server = uvicorn.Server(
        uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on")
    )
    server.run(sockets=[bound])
    sys.exit(0 if server.started else NOT_STARTED)


def _end_with(owner: int) -> None:
    while os.getppid() == owner:
        time.sleep(CHECK_EVERY_S)
    os._exit(0)


if __name__ == "__main__":
    serve(int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))
