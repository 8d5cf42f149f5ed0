"""Which code runs: its source tree, and what git says of it.

An installed package lies in somebody's environment, perhaps inside a repository of other code: that
repository's commit says nothing of it.
"""

import subprocess
from pathlib import Path

from raft_core.launch.children import ROOT


def git(*arguments: str) -> str | None:
    """What git says of the code that runs; None where it does not know it, or is not installed."""
    me = Path(__file__).resolve().relative_to(ROOT)
    if _ask("ls-files", "--error-unmatch", "--", str(me)) is None:
        return None
    return _ask(*arguments)


def _ask(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
