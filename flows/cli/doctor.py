"""Compare what this machine has with what an alignment needs. Nothing is changed."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from packaging.version import InvalidVersion, Version
from rich.table import Table
from rich.text import Text

from flows.text import harmless
from raft_core.redaction import redacted_text

Level = Literal["ok", "warning", "missing"]

MIN_MEMORY_GB, MIN_DISK_GB = 4, 5
PROBE_TIMEOUT_S = 60
CONNECT_TIMEOUT_S = 3
OLDEST_MLFLOW = Version("3.11")
"""Oldest version of an MLflow tracking server that is accepted without a warning."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check. ``missing``: no alignment can run; ``hint``: what to do about it."""

    name: str
    level: Level
    found: str
    hint: str = ""

    def as_json(self) -> dict[str, Any]:
        """One entry of ``raft doctor --json``."""
        return asdict(self)


def diagnose(workspace: Path, tracking_uri: str, cxx: str | None = None) -> list[Finding]:
    """Run all checks; a failed check is a finding, not an exception. ``cxx``: the compiler that the user chose."""
    return [
        python_version(),
        environment_path(),
        *packages(),
        compiler(cxx),
        cores(),
        memory(),
        disk(workspace),
        gpu(),
        *example_assets(),
        *dvc_remote(workspace),
        tracking(tracking_uri),
    ]


def python_version() -> Finding:
    """Version and path of this Python; pip does not install RAFT on versions before 3.11."""
    return Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")


def environment_path() -> Finding:
    """DeepSpeed cannot link its operators in an environment whose path contains a space."""
    if " " in sys.prefix:
        return Finding(
            "environment",
            "missing",
            sys.prefix,
            "create it again with `make env`, which chooses a path without a space",
        )
    return Finding("environment", "ok", sys.prefix)


def packages() -> Iterator[Finding]:
    """Compare the requirements of pyproject.toml with what is installed; all that fit are one finding."""
    from packaging.requirements import Requirement

    fitting = 0
    for text in metadata.requires("raft-mlops") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found = ""
        if found and requirement.specifier.contains(found, prereleases=True):
            fitting += 1
        else:
            yield Finding(
                requirement.name, "missing", found or "not installed", f"install {requirement}: run `make env`"
            )
    torch = metadata.version("torch") if importlib.util.find_spec("torch") else "not installed"
    yield Finding("packages", "ok", f"{fitting} requirements are met; torch {torch}")


def compiler(cxx: str | None = None) -> Finding:
    """A C++ compiler that finds Python's headers; only needed by a DeepSpeed JSON that asks for a fused operator."""
    command = cxx or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    hint = (
        "only needed for DeepSpeed's fused operators: install a compiler and Python's headers (on Debian: "
        "apt-get install g++ python3-dev)"
    )
    if command is None:
        return Finding("C++ compiler", "warning", "none found", hint)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text("#include <Python.h>\n#include <vector>\nint main() { return std::vector<int>(1)[0]; }\n")
        flags = ["-std=c++17", "-I" + sysconfig.get_paths()["include"], "-c", str(source), "-o", f"{source}.o"]
        try:
            made = subprocess.run(
                [*command.split(), *flags], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return Finding("C++ compiler", "warning", f"{command}: {error}", hint)
    if made.returncode:
        return Finding("C++ compiler", "warning", f"{command}: {_first_line(made.stderr)}", hint)
    return Finding("C++ compiler", "ok", command)


def cores() -> Finding:
    """Processor cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding(
        "cores",
        "ok" if usable > 1 else "warning",
        str(usable),
        "" if usable > 1 else "an alignment is faster with two or more",
    )


def memory() -> Finding:
    """Free memory."""
    import psutil

    free, total = (getattr(psutil.virtual_memory(), name) / 2**30 for name in ("available", "total"))
    short = free < MIN_MEMORY_GB
    hint = f"configs/reviews.yaml needs about {MIN_MEMORY_GB} GB: close other programs" if short else ""
    return Finding("memory", "warning" if short else "ok", f"{free:.1f} of {total:.1f} GB free", hint)


def disk(workspace: Path) -> Finding:
    """Free disk space in the workspace."""
    place = next(path for path in (workspace, *workspace.parents) if path.exists())
    free = shutil.disk_usage(place).free / 2**30
    short = free < MIN_DISK_GB
    hint = (
        f"configs/reviews.yaml needs about {MIN_DISK_GB} GB: free some space, or set RAFT_WORKSPACE to another disk"
        if short
        else ""
    )
    return Finding("disk", "warning" if short else "ok", f"{free:.1f} GB free in {workspace}", hint)


def gpu() -> Finding:
    """CUDA devices that nvidia-smi lists (torch is not loaded for this)."""
    if (command := shutil.which("nvidia-smi")) is None:
        return Finding("GPU", "ok", "no NVIDIA GPU found: everything runs on the CPU")
    try:
        listed = subprocess.run(
            [command, "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("GPU", "warning", str(error), "repair the driver, or use the CPU")
    if listed.returncode:
        return Finding(
            "GPU", "warning", _first_line(listed.stdout + listed.stderr), "repair the driver, or use the CPU"
        )
    return Finding("GPU", "ok", "; ".join(listed.stdout.split("\n")).strip("; "))


def example_assets() -> Iterator[Finding]:
    """Which assets of the examples are prepared; missing ones are prepared when they are needed."""
    from raft_core.errors import RaftError
    from raft_core.examples import cache_folder
    from raft_core.examples.presets import EXAMPLES
    from raft_core.references import resolve

    def prepared(example: str, asset: str) -> bool:
        try:
            return resolve(f"example:{example}/{asset}").exists()
        except RaftError:
            return False

    for name, example in EXAMPLES.items():
        there = [asset for asset in example.assets if prepared(name, asset)]
        rest = len(example.assets) - len(there)
        hint = f"raft prepare {name} (not required: raft align does it when needed)" if rest else ""
        yield Finding(
            f"example {name}", "ok", f"{len(there)} of {len(example.assets)} assets prepared in {cache_folder()}", hint
        )


def dvc_remote(workspace: Path) -> Iterator[Finding]:
    """DVC's repository and its default remote, read from the files in .dvc."""
    from configparser import ConfigParser
    from configparser import Error as ConfigFault

    parser = ConfigParser(interpolation=None)
    try:
        read = parser.read([workspace / ".dvc" / "config", workspace / ".dvc" / "config.local"])
    except ConfigFault as error:
        yield Finding("DVC", "missing", _first_line(str(error)), f"correct {workspace / '.dvc' / 'config'}")
        return
    if not read:
        yield Finding(
            "DVC", "warning", f"no .dvc folder in {workspace}", "run dvc init, or set versioning.enabled=false"
        )
        return
    remote = parser.get("core", "remote", fallback="none")
    section = f"'remote \"{remote}\"'"
    url = parser.get(section, "url", fallback="") if parser.has_section(section) else ""
    hint = "" if url else "run dvc remote add --default NAME URL, or set versioning.push=false"
    yield Finding("DVC remote", "ok" if url else "warning", f"{remote} {redacted_text(url)}".strip(), hint)


def tracking(uri: str) -> Finding:
    """MLflow's address: a server must answer, a database must be in a folder that can be written."""
    shown = redacted_text(uri)
    try:
        address = urlsplit(uri)
        port = address.port or (443 if address.scheme == "https" else 80)
    except ValueError:  # its text may hold a part of a password
        return Finding(
            "MLflow",
            "warning",
            f"{shown}: not a valid address",
            "correct MLFLOW_TRACKING_URI (write / in a password as %2F)",
        )
    if address.scheme in ("http", "https"):
        try:
            _connect(address.hostname or "", port)
        except (OSError, ValueError) as error:
            return Finding(
                "MLflow",
                "warning",
                f"no answer from {shown}: {error}",
                "start the server, or unset MLFLOW_TRACKING_URI",
            )
        served = _served_version(uri)
        if served is not None and served < OLDEST_MLFLOW:
            hint = f"update the server to {OLDEST_MLFLOW} or later: older versions have known security faults"
            return Finding("MLflow", "warning", f"{shown} is MLflow {served}", hint)
        return Finding("MLflow", "ok", f"{shown} answers" + (f", MLflow {served}" if served else ""))
    if address.scheme == "sqlite":
        folder = Path(uri.removeprefix("sqlite:///")).parent
        if not os.access(folder, os.W_OK):
            return Finding(
                "MLflow", "missing", f"{shown}: cannot write to {folder}", "set MLFLOW_TRACKING_URI to another address"
            )
    return Finding("MLflow", "ok", shown)


def _connect(host: str, port: int) -> None:
    import socket

    socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()


def _served_version(uri: str) -> Version | None:
    """Version of an MLflow server; None if it does not report one."""
    import requests

    try:
        answer = requests.get(f"{uri.rstrip('/')}/version", timeout=CONNECT_TIMEOUT_S)
        return Version(answer.text.strip()) if answer.ok else None
    except (requests.RequestException, InvalidVersion):
        return None


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[0][:200]


def show_findings(findings: Sequence[Finding]) -> Table:
    """One row per finding."""
    marks = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "missing": ("✗", "red")}
    table = Table(box=None, show_header=False, padding=(0, 1))
    for finding in findings:
        advice = f" → {finding.hint}" if finding.hint else ""
        table.add_row(
            Text(*marks[finding.level]), Text(finding.name), Text(f"{harmless(finding.found)}{harmless(advice)}")
        )
    return table
