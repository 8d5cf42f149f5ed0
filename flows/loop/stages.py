"""What ``dvc.yaml`` needs from us: receipts that a stage leaves behind, and the way around DVC's blind spots.

A receipt is small and holds no clock, so DVC compares content: equal receipts mean that nothing
downstream has to run. DVC itself looks at the receipt of ``align`` only, never at the run; so
``repro`` checks the run first, and takes the receipt away where it does not hold.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.process.environment import inherited
from flows.text import harmless, number
from raft_core.errors import ConfigError, InputError, RaftError, StepError
from raft_core.examples import Receipt
from raft_core.files.artifacts import write_bytes, write_json
from raft_core.files.plain_json import read_json
from raft_core.launch.children import python_module
from raft_core.metrics.registry import table_columns
from raft_core.records.overview import RunView, find_run, view_run
from raft_core.records.run import read_chain, verify_outputs

ALIGN_RECEIPT = Path("data/align.json")
STOP_TIMEOUT_S = 30.0


def write_parts_receipt(path: Path, receipts: Mapping[str, Receipt]) -> None:
    """What the stages of an example hold: names, versions and digests."""
    write_json(path, {name: asdict(receipt) for name, receipt in receipts.items()})


def write_align_receipt(path: Path, workspace: Path, name: str) -> None:
    """How a run ended, and the digest of its last commit, which the whole chain hangs on."""
    run = find_run(workspace, name)
    view = view_run(run)
    write_json(
        path,
        {
            "name": name,
            "status": view.status,
            "best": view.best,
            "reason": view.reason,
            "commit": read_chain(run)[-1].digest,
        },
    )


def fault_of(workspace: Path, receipt: Path) -> str | None:
    """Why the run that ``receipt`` tells of does not hold; None if every byte of it is there."""
    try:
        told = read_json(receipt)
        run = find_run(workspace, told["name"])
        chain = read_chain(run)
        if not chain or chain[-1].digest != told["commit"]:
            return f"run {told['name']} does not end with the commit that {receipt} names"
        for commit in chain:
            verify_outputs(run, commit)
    except FileNotFoundError:
        return f"no {receipt}"
    except RaftError as error:
        return error.what
    except (ValueError, KeyError, TypeError):
        return f"{receipt} is no receipt"
    return None


def repro(workspace: Path, extra: Sequence[str] = ()) -> bool:
    """Run ``dvc repro``; True if the run of ``align`` was there already and nothing had to be done to it.

    Raises ConfigError where there is no dvc.yaml, StepError when a stage fails.
    """
    if not (workspace / "dvc.yaml").exists():
        raise ConfigError(f"no dvc.yaml in {workspace}", hint="go to the clone, or use raft align CONFIG")
    receipt = workspace / ALIGN_RECEIPT
    if fault_of(workspace, receipt) is not None:
        receipt.unlink(missing_ok=True)
    before = _written(receipt)
    code = _run_dvc(["repro", *extra], workspace)
    if code:
        raise StepError(
            "a stage of dvc.yaml failed; its own message stands above",
            got=f"dvc repro exited {code}",
            hint="mend what it names, then run the same command again: finished stages are kept",
        )
    return before is not None and before == _written(receipt)


def _run_dvc(arguments: Sequence[str], workspace: Path) -> int:
    """Run dvc in a group of its own, so that an interrupt reaches its stage once and is waited for."""
    from tasks.versioning.repository import private_site_cache

    environment = inherited(DVC_SITE_CACHE_DIR=str(private_site_cache(workspace)))
    command = python_module("dvc", *arguments)
    with subprocess.Popen(command, cwd=workspace, env=environment, start_new_session=True) as dvc:
        try:
            return dvc.wait()
        except KeyboardInterrupt:
            for wanted, patience_s in ((signal.SIGINT, STOP_TIMEOUT_S), (signal.SIGKILL, None)):
                with suppress(ProcessLookupError):
                    os.killpg(dvc.pid, wanted)
                with suppress(subprocess.TimeoutExpired):
                    dvc.wait(patience_s)
                    break
            raise


def _written(receipt: Path) -> tuple[int, bytes] | None:
    try:
        return receipt.stat().st_mtime_ns, receipt.read_bytes()
    except FileNotFoundError:
        return None


def aligned_run(receipt: Path) -> str:
    """The name of the run that a receipt of ``align`` tells of. Raises InputError if it is none."""
    try:
        return str(read_json(receipt)["name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{receipt} is no receipt", got=error, hint="run raft repro, or raft align --receipt"
        ) from None


def write_report(folder: Path, view: RunView) -> None:
    """``report.json`` (metrics for ``dvc metrics``) and ``report.md`` of a run, without times."""
    rows = [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in view.rows]
    best = next((row for row in rows if row["iteration"] == view.best), {})
    write_json(folder / "report.json", {"run": view.name, "base": rows[0] if rows else {}, "best": best})
    write_bytes(folder / "report.md", _markdown(view, rows).encode())


def _markdown(view: RunView, rows: Sequence[Mapping[str, Any]]) -> str:
    columns = table_columns(view.figures)
    lines = [
        f"# {view.name}",
        "",
        f"{view.status}: {harmless(view.reason)}",
        "",
        f"| iteration | {' | '.join(columns)} |",
        f"|{'---|' * (len(columns) + 1)}",
    ]
    for row in rows:
        label = "base" if row["iteration"] == -1 else str(row["iteration"])
        mark = " ★" if row["iteration"] == view.best else ""
        lines.append(f"| {label}{mark} | {' | '.join(number(row.get(k), d) for k, d in columns.items())} |")
    return "\n".join(lines) + "\n"
