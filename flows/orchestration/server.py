"""Prefect's temporary server, tied to the process that needs it: it ends when that process ends in any way.

Prefect starts one if PREFECT_API_URL is not set. Prefect's own would outlive a killed owner, keep that owner's standard
error open, and be ended by Ctrl-C before the flow could report its end. If it dies in the middle of a run, it is
started again on the same port: its database is a file, and Prefect's client retries for a minute. The port is bound
before the server starts, so that two runs that start at the same time never share a server.

All local users can reach its port, so it requires a password: generated for this process, and passed to the server and
to Ray workers in Prefect's settings. It is never on a command line or in a file.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from raft_core.errors import StepError
from raft_core.launch.children import python_module

CHECK_EVERY_S = 0.5
NOT_STARTED = 3
"""Exit code of a server that could not start; Prefect then starts another one."""
MEANT = (0, NOT_STARTED, -signal.SIGTERM)
"""Exit codes of a server that was not killed."""


@contextmanager
def tied() -> Iterator[None]:
    """Run flows inside the block against our temporary server, unless PREFECT_API_URL names another."""
    from prefect.context import SettingsContext, _temporary_global_settings_context
    from prefect.server.api.server import SubprocessASGIServer
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
    SubprocessASGIServer._run_uvicorn_command = _start  # type: ignore[method-assign,assignment]
    with temporary_settings({PREFECT_API_AUTH_STRING: password(), PREFECT_SERVER_API_AUTH_STRING: password()}):
        settings = SettingsContext.get()
        assert settings is not None
        with _temporary_global_settings_context(settings):  # for Prefect's own threads
            yield


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
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer()
    return server.api_url if server.port is not None else "127.0.0.1 (it did not start)"


def _start(server: Any, *, again: bool = False) -> subprocess.Popen[Any]:
    from prefect.settings import get_current_settings

    with _bound(server.port, again=again) as port:
        server.port = port.getsockname()[1]
        process = subprocess.Popen(
            python_module("flows.orchestration.server", str(os.getpid()), str(port.fileno())),
            env={
                **os.environ,
                **get_current_settings().to_environment_variables(exclude_unset=True),
                "PREFECT_SERVER_API_AUTH_STRING": password(),
                "PREFECT_UI_ENABLED": "0",
                "PREFECT__SERVER_EPHEMERAL": "1",
                "PREFECT__SERVER_FINAL": "1",
            },
            start_new_session=True,
            pass_fds=[port.fileno()],
        )
    threading.Thread(target=_revive, args=(server, process), daemon=True).start()
    return process


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


def _revive(server: Any, process: "subprocess.Popen[Any]") -> None:
    """Restart the server if it was killed while it was needed."""
    code = process.wait()
    if code not in MEANT and server.running and server.server_process is process:
        with suppress(OSError):  # the port is taken
            server.server_process = _start(server, again=True)


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
