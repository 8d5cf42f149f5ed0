"""The git state of the code that runs.

An installed package may be inside a git repository of other code, whose commit says nothing about it.
"""

import subprocess
from pathlib import Path

from raft_core.launch.children import ROOT


def git(*arguments: str) -> str | None:
    """The output of git in our source tree; None if git does not track this code, or is not installed."""
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
