"""Run a command that is stopped when the process that started it ends, however it ends: ``launched.py COMMAND…``.

The owner keeps the other end of standard input open and writes nothing. When it closes, the process group of the
command gets SIGTERM, and SIGKILL ten seconds later.
"""

import os
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 10.0


def main(command: list[str]) -> int:
    """Run ``command`` and return its exit code, as a shell reports it."""
    signal.signal(
        signal.SIGTERM, lambda *_: None
    )  # ignored here: it is meant for the command, which is in the same group
    threading.Thread(target=_end_with_owner, daemon=True).start()
    code = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    return code if code >= 0 else 128 - code


def _end_with_owner() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
