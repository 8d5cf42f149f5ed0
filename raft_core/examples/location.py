"""The folder of the prepared examples."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """``RAFT_CACHE``, else ``~/.cache/raft-mlops``."""
    return Path(os.environ.get("RAFT_CACHE") or "~/.cache/raft-mlops").expanduser().absolute()
