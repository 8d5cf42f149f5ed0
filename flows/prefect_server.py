"""Prefect's temporary server, tied to the run that needs it: it ends with its owner, however that ends.

Prefect starts one where PREFECT_API_URL names none. By itself it would outlive an owner that was
killed, hold that owner's standard error open, and be ended by a Ctrl-C before the flow could report
its end to it. One that dies in the middle of a run is started again on the same port: its database
is a file, and Prefect's client asks again for a minute. The port is taken before the server starts:
of two runs that begin at once, none takes the other's server for its own.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from raft_core.children import python_module

CHECK_EVERY_S = 0.5
NOT_STARTED = 3
"""Exit code after which Prefect starts another one."""
MEANT = (0, NOT_STARTED, -signal.SIGTERM)
"""Exit codes of a server that nobody killed."""


def tie() -> None:
    """From now on Prefect starts its temporary server through this module."""
    from prefect.server.api.server import SubprocessASGIServer

    SubprocessASGIServer._run_uvicorn_command = _start  # type: ignore[method-assign,assignment]


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
            python_module("flows.prefect_server", str(os.getpid()), str(port.fileno())),
            env={
                **os.environ,
                **get_current_settings().to_environment_variables(exclude_unset=True),
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
