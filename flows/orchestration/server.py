"""Prefect's temporary server, tied to the run that needs it: it ends with its owner, however that ends.

Where PREFECT_API_URL names no server, a run starts one and sets PREFECT_API_URL for itself. (Prefect would start one
too, but that one outlives an owner that was killed, holds its standard error open, and is ended by a Ctrl-C before the
flow can report its end.) One that dies in the middle of a run is started again on the same port: its database
is a file, and Prefect's client asks again for a minute. The port is taken before the server starts:
of two runs that begin at once, none takes the other's server for its own.

Every local user reaches its port, so it answers only who knows a password: made for this process, and handed on to the
server, and to workers of Ray, by Prefect's settings. It stands on no command line, and lies in no file.
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
"""Exit code after which Prefect starts another one."""
MEANT = (0, NOT_STARTED, -signal.SIGTERM)
"""Exit codes of a server that nobody killed."""


@contextmanager
def tied() -> Iterator[None]:
    """Flows inside run against a temporary server of ours, with its password, unless PREFECT_API_URL names another."""
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
        yield


@contextmanager
def _in_every_thread(settings: Mapping[Any, str]) -> Iterator[None]:
    """Give ``settings`` to Prefect's own threads too: they have what the environment held when it was read last."""
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
    """Of the temporary server of this process, as Prefect has it: USER:PASSWORD."""
    return f"raft:{secrets.token_urlsafe(32)}"


def refuse_results() -> None:
    """Never load a result that a state names: it is a pickle, or names what is to decode it, and a server may lie.

    What our flows return stays in memory.
    """
    from prefect.results import ResultStore

    async def arefused(self: ResultStore, *_: object, **__: object) -> Any:
        return refused()

    def refused(*_: object, **__: object) -> Any:
        raise StepError(
            "Prefect's server tells of a stored result, which is not loaded",
            expected="a result in memory",
            hint="look at who can change flow runs on that server; the run itself goes on with raft resume",
        )

    ResultStore.read = refused  # type: ignore[method-assign]
    ResultStore.aread = arefused  # type: ignore[method-assign]


def address() -> str:
    """Where the temporary server of this process listens, or would."""
    server = temporary_server()
    return server.api_url if server.port else "127.0.0.1 (it did not start)"


@cache
def temporary_server() -> "TemporaryServer":
    """The one of this process."""
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
        """Its address, as PREFECT_API_URL has it."""
        return f"http://127.0.0.1:{self.port}/api"

    def start(self) -> str:
        """Start it, unless it was started; returns its address once it answers.

        Raises RuntimeError, worded like Prefect's own, where it does not within
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.
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
        """End it, if it runs."""
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
        """A new process of the server, and a thread that replaces it if it is killed. ``again``: on the same port."""
        from prefect.settings import get_current_settings

        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        with _bound(self.port, again=again) as port:
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
        """Start a server again that was killed while it was needed."""
        code = process.wait()
        if code not in MEANT and self._needed and self.process is process:
            with suppress(OSError):  # somebody else has its port
                self.process = self.launch(again=True)


def _bound(port: int, *, again: bool) -> socket.socket:
    """A socket of this port, which nobody else can take from now on; another port where it is taken.

    ``again``: the port of a server that died, whose connections linger; its clients know no other one.
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
    """Be the server until ``owner``, the process that started this one, ends."""
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
