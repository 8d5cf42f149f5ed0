"""Open DVC repositories with a site cache that nobody else can write to.

DVC stores pickles there (diskcache, CVE-2025-69872), by default in a folder under ``/var/tmp`` that all users can write
to: a pickle that somebody puts there would run in the next command that opens a repository.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dvc.dirs import site_cache_dir
from dvc.repo import Repo

from raft_core.errors import StepError


@contextmanager
def opened(folder: Path, *, wait: bool = False) -> Iterator[Repo]:
    """The DVC repository that contains ``folder``. ``wait`` for its lock instead of giving up after 3 s.

    Raises DvcException, OSError, or StepError for a site cache that other users can write to.
    """
    config = {"core": {"site_cache_dir": str(private_site_cache(folder))}}
    repo = Repo(str(folder), config=config, _wait_for_lock=wait)
    try:
        yield repo
    finally:
        repo.close()


def private_site_cache(folder: Path) -> Path:
    """The private site cache of the repository that contains ``folder``, created if missing.

    ``.dvc/tmp/site-UID``, or the value of DVC_SITE_CACHE_DIR. Raises StepError if others may have written to it.
    """
    above = (folder.resolve(), *folder.resolve().parents)
    root = next((path for path in above if (path / ".dvc").is_dir()), None)
    if root is None:
        raise StepError(f"no DVC repository in {folder}", hint="change to the workspace of the run")
    ours = root / ".dvc" / "tmp" / f"site-{os.geteuid()}"
    chosen = Path(site_cache_dir(str(ours)))  # the environment comes first there
    chosen.parent.mkdir(parents=True, exist_ok=True)
    chosen.mkdir(mode=0o700, exist_ok=True)
    found, whole = chosen.stat(), chosen.resolve()
    if found.st_uid != os.geteuid() or not any(map(_closed, (whole, *whole.parents))):
        raise StepError(
            f"other users may have written to DVC's site cache {chosen}",
            got=f"mode {stat.filemode(found.st_mode)}, owned by user {found.st_uid}",
            expected=f"a folder of user {os.geteuid()} with mode 0700, or inside one",
            hint="remove it; it is created again" if chosen == ours else "remove it, or unset DVC_SITE_CACHE_DIR",
        )
    return chosen


def _closed(folder: Path) -> bool:
    """Whether a folder is ours and closed to other users."""
    found = folder.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & 0o077
