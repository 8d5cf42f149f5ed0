"""Prefect's temporary server, tied to the run that needs it: it ends with its owner, however that ends.

Prefect starts one where PREFECT_API_URL names none. By itself it would outlive an owner that was
killed, hold that owner's standard error open, and be ended by a Ctrl-C before the flow could report
its end to it. One that dies in the middle of a run is started again on the same port: its database
is a file, and Prefect's client asks again for a minute.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

CHECK_EVERY_S = 0.5
MEANT = (0, 3, -signal.SIGTERM)
"""Exit codes of a server that nobody killed; 3: its port was taken, and Prefect tries another."""


def tie() -> None:
    """From now on Prefect starts its temporary server through this module."""
    from prefect.server.api.server import SubprocessASGIServer

    SubprocessASGIServer._run_uvicorn_command = _start  # type: ignore[method-assign,assignment]


def _start(server: Any) -> subprocess.Popen[Any]:
    from prefect.settings import get_current_settings

    root, inherited = str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.prefect_server", str(os.getpid()), str(server.port)],
        env={
            **os.environ,
            **get_current_settings().to_environment_variables(exclude_unset=True),
            "PREFECT_UI_ENABLED": "0",
            "PREFECT__SERVER_EPHEMERAL": "1",
            "PREFECT__SERVER_FINAL": "1",
            "PYTHONPATH": f"{root}{os.pathsep}{inherited}" if inherited else root,
        },
        start_new_session=True,
    )
    threading.Thread(target=_revive, args=(server, process), daemon=True).start()
    return process


def _revive(server: Any, process: "subprocess.Popen[Any]") -> None:
    """Start a server again that was killed while it was needed."""
    code = process.wait()
    if code not in MEANT and server.running and server.server_process is process:
        server.server_process = _start(server)


def serve(owner: int, port: int) -> None:
    """Be the server until ``owner``, the process that started this one, ends."""
    threading.Thread(target=_end_with, args=(owner,), daemon=True).start()
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app", factory=True, host="127.0.0.1", port=port, log_level="error",
        lifespan="on",
    )  # fmt: skip


def _end_with(owner: int) -> None:
    while os.getppid() == owner:
        time.sleep(CHECK_EVERY_S)
    os._exit(0)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
