"""Hash many files at once: in threads, and each file once even if it has several names.

hashlib releases the GIL, so threads hash at the speed of the disk or of all cores.
"""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from raft_core.files.plain_json import open_regular

Algorithm = Literal["sha256", "md5"]
_Content = tuple[int, int, int, int]


class FileHashes:
    """Digests that are cached for the life of this object.

    It has state because a run's table, the same table in another run and the object in DVC's cache can be one file
    under three names, which is read once. Create a new object for every verification, so that no cached digest is
    trusted later.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or max(4, os.cpu_count() or 1)
        self.num_bytes = 0
        """Bytes hashed so far."""
        self._known: dict[tuple[_Content, Algorithm], str] = {}

    def prime(self, paths: Iterable[Path], algorithm: Algorithm = "sha256") -> None:
        """Hash ``paths`` in parallel, the largest first. A file that cannot be read raises when it is asked for."""
        waiting: dict[_Content, Path] = {}
        for path in paths:
            try:
                content = _content(path)
            except OSError:
                continue
            if (content, algorithm) not in self._known:
                waiting.setdefault(content, path)
        largest_first = sorted(waiting.items(), key=lambda item: -item[0][2])
        with ThreadPoolExecutor(self.threads) as pool:
            found = pool.map(lambda item: _hash_or_none(item[1], algorithm), largest_first)
            for (content, _), digest in zip(largest_first, found, strict=True):
                if digest is not None:
                    self._known[content, algorithm] = digest
                    self.num_bytes += content[2]

    def sha256(self, path: Path) -> str:
        """sha256 of a file. Raises OSError, and ValueError if it is not a regular file."""
        return self._digest(path, "sha256")

    def md5(self, path: Path) -> str:
        """md5 of a file, as DVC names it. Raises OSError, and ValueError if it is not a regular file."""
        return self._digest(path, "md5")

    def _digest(self, path: Path, algorithm: Algorithm) -> str:
        key = (_content(path), algorithm)
        if key not in self._known:
            self._known[key] = _hash(path, algorithm)
            self.num_bytes += key[0][2]
        return self._known[key]


def _content(path: Path) -> _Content:
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _hash(path: Path, algorithm: Algorithm) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _hash_or_none(path: Path, algorithm: Algorithm) -> str | None:
    try:
        return _hash(path, algorithm)
    except (OSError, ValueError):
        return None
