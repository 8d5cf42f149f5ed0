"""Opens DVC's repositories, with a site cache that nobody else can write to.

DVC keeps pickles there (of diskcache: CVE-2025-69872), by default in a folder under ``/var/tmp`` that every user of
the machine may write to: whoever leaves one there has it run by the next command that opens a repository.
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
    """The DVC repository that ``folder`` lies in. ``wait`` for its lock instead of giving up after 3 s.

    Raises DvcException, OSError, or StepError for a site cache that is not ours alone.
    """
    config = {"core": {"site_cache_dir": str(private_site_cache(folder))}}
    repo = Repo(str(folder), config=config, _wait_for_lock=wait)
    try:
        yield repo
    finally:
        repo.close()


def private_site_cache(folder: Path) -> Path:
    """The site cache for the repository that ``folder`` lies in: a folder that nobody else enters, made if need be.

    ``.dvc/tmp/site-UID``, or what DVC_SITE_CACHE_DIR names. Raises StepError for one that others may have written to.
    """
    above = (folder.resolve(), *folder.resolve().parents)
    root = next((path for path in above if (path / ".dvc").is_dir()), None)
    if root is None:
        raise StepError(f"no DVC repository in {folder}", hint="go to the workspace of the run")
    ours = root / ".dvc" / "tmp" / f"site-{os.geteuid()}"
    chosen = Path(site_cache_dir(str(ours)))  # the environment comes first there
    chosen.parent.mkdir(parents=True, exist_ok=True)
    chosen.mkdir(mode=0o700, exist_ok=True)
    found, whole = chosen.stat(), chosen.resolve()
    if found.st_uid != os.geteuid() or not any(map(_closed, (whole, *whole.parents))):
        raise StepError(
            f"DVC's site cache may hold what another user left there: {chosen}",
            got=f"{stat.filemode(found.st_mode)}, of user {found.st_uid}",
            expected=f"a folder of user {os.geteuid()} that nobody else can enter: mode 0700, or below such a one",
            hint="remove it: it is made anew" if chosen == ours else "remove it, or unset DVC_SITE_CACHE_DIR",
        )
    return chosen


def _closed(folder: Path) -> bool:
    """Whether a folder is ours, and nobody else comes through it."""
    found = folder.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & 0o077
