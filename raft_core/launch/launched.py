"""Runs a command that ends with the process that asked for it, however that ends: ``launched.py COMMAND…``.

The owner holds the other end of standard input, which closes with it, and writes nothing. The command's process group
then gets SIGTERM, and SIGKILL ten seconds later.
"""

import os
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 10.0


def main(command: list[str]) -> int:
    """The command's exit code, as a shell tells it."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # meant for the command, which is in this group
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
