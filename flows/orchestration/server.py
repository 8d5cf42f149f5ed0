"""Prefect's temporary server, tied to the run that needs it: it ends with its owner, however that ends.

Prefect starts one where PREFECT_API_URL names none. By itself it would outlive an owner that was
killed, hold that owner's standard error open, and be ended by a Ctrl-C before the flow could report
its end to it. One that dies in the middle of a run is started again on the same port: its database
is a file, and Prefect's client asks again for a minute. The port is taken before the server starts:
of two runs that begin at once, none takes the other's server for its own.

Every local user reaches its port, so it answers only who knows a password: made for this process, and handed on to the
server, and to workers of Ray, by Prefect's settings. It stands on no command line, and lies in no file.
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
"""Exit code after which Prefect starts another one."""
MEANT = (0, NOT_STARTED, -signal.SIGTERM)
"""Exit codes of a server that nobody killed."""


@contextmanager
def tied() -> Iterator[None]:
    """Flows inside run against a temporary server of ours, with its password, unless PREFECT_API_URL names another."""
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


def _revive(server: Any, process: "subprocess.Popen[Any]") -> None:
    """Start a server again that was killed while it was needed."""
    code = process.wait()
    if code not in MEANT and server.running and server.server_process is process:
        with suppress(OSError):  # somebody else has its port
            server.server_process = _start(server, again=True)


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
