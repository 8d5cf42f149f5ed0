"""Receipts and reports of the stages in ``dvc.yaml``, and ``raft repro``.

A receipt is small and contains no times, so DVC compares its content: if it is equal, later stages do not run. DVC
looks only at the receipt of ``align``, not at the run, so ``repro`` verifies the run first and deletes the receipt if
the run does not verify.
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
from raft_core.records.run import BASE, read_chain, verify_outputs

ALIGN_RECEIPT = Path("data/align.json")
STOP_TIMEOUT_S = 30.0
PLOTTED = ("iteration", "reward", "reward_low", "reward_high", "gold_reward", "perplexity", "kl")
"""Columns of ``rewards.csv``; iteration −1 is the base."""


def write_parts_receipt(path: Path, receipts: Mapping[str, Receipt]) -> None:
    """Write names, versions and digests of an example's stages."""
    write_json(path, {name: asdict(receipt) for name, receipt in receipts.items()})


def write_align_receipt(path: Path, workspace: Path, name: str) -> None:
    """Write how a run ended, and the digest of its last commit, which stands for the whole chain."""
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
    """Why the run that ``receipt`` names does not verify; None if every byte does."""
    try:
        content = read_json(receipt)
        run = find_run(workspace, content["name"])
        chain = read_chain(run)
        if not chain or chain[-1].digest != content["commit"]:
            return f"run {content['name']} does not end with the commit that {receipt} names"
        for commit in chain:
            verify_outputs(run, commit)
    except FileNotFoundError:
        return f"no {receipt}"
    except RaftError as error:
        return error.what
    except (ValueError, KeyError, TypeError):
        return f"{receipt} is not a receipt"
    return None


def repro(workspace: Path, extra: Sequence[str] = ()) -> bool:
    """Run ``dvc repro``; returns True if the run of ``align`` was finished already.

    Raises ConfigError if there is no dvc.yaml, StepError if a stage fails.
    """
    if not (workspace / "dvc.yaml").exists():
        raise ConfigError(f"no dvc.yaml in {workspace}", hint="change to the clone, or use raft align CONFIG")
    receipt = workspace / ALIGN_RECEIPT
    if fault_of(workspace, receipt) is not None:
        receipt.unlink(missing_ok=True)
    before = _written(receipt)
    code = _run_dvc(["repro", *extra], workspace)
    if code:
        raise StepError(
            "a stage of dvc.yaml failed; see its message above",
            got=f"dvc repro exited {code}",
            hint="fix what it reports, then run the same command again: finished stages are not repeated",
        )
    return before is not None and before == _written(receipt)


def _run_dvc(arguments: Sequence[str], workspace: Path) -> int:
    """Run dvc in its own process group, so that we forward an interrupt once and wait for the stage to end."""
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
    """The name of the run in a receipt of ``align``. Raises InputError if the file is not a receipt."""
    try:
        return str(read_json(receipt)["name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{receipt} is not a receipt of raft align", got=error, hint="run raft repro, or raft align --receipt"
        ) from None


def write_report(folder: Path, view: RunView) -> None:
    """Write ``report.json`` (``dvc metrics``), ``rewards.csv`` (``dvc plots``) and ``report.md``, all without times."""
    rows = [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in view.rows]
    best = next((row for row in rows if row["iteration"] == view.best), {})
    rewards = {_number(row["iteration"]): row.get("reward") for row in rows}
    report = {"run": view.name, "base": rows[0] if rows else {}, "best": best, "reward": rewards}
    write_json(folder / "report.json", report)
    lines = [",".join(PLOTTED), *(",".join(_figure(row.get(name)) for name in PLOTTED) for row in rows)]
    write_bytes(folder / "rewards.csv", ("\n".join(lines) + "\n").encode())
    write_bytes(folder / "report.md", _markdown(view, rows).encode())


def _number(iteration: int) -> str:
    """An iteration as a key of a metric, without spaces."""
    return "base" if iteration == BASE else f"{iteration:03d}"


def _figure(value: object) -> str:
    return repr(value) if isinstance(value, int | float) else ""


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
