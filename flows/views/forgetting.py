"""What forgetting would touch, and what was done."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.lineage.forget import Forgotten, Plan
from flows.views.text import harmless
from raft_core.records.run import BASE

MOST = 8


def show_plan(plan: Plan, *, erase: bool) -> RenderableType:
    """The dry list: prompts, sets, models, versions, and what would be done."""
    lines = [Text(f"to forget: {harmless(plan.because)}, {len(plan.target.prompts):,} prompts", style="bold")]
    lines += [Text(f"  {prompt_id}  {harmless(text, 120)}") for prompt_id, text in list(plan.prompts.items())[:MOST]]
    if len(plan.prompts) > MOST:
        lines.append(Text(f"  and {len(plan.prompts) - MOST:,} more"))
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for title in ("set", "prompts", "samples", "selected"):
        table.add_column(title, justify="left" if title == "set" else "right")
    for touched in plan.iterations:
        table.add_row(Text(_place(touched.run, touched.iteration)), f"{touched.prompts:,}", f"{touched.samples:,}",
                      f"{touched.selected:,}")  # fmt: skip
    models = [
        _place(m.run, m.iteration) + ("" if m.through is None else f" (through {m.through})") for m in plan.models
    ]
    versions = [f"{v.name} version {v.version}" for v in plan.versions]
    lines_after = [
        Text.assemble(("models trained on it: ", "bold"), _some(models)),
        Text.assemble(("versions to withdraw: ", "bold"), _some(versions)),
        Text("every later run leaves it out (exclusions.jsonl)"),
    ]
    if erase:
        lines_after.append(Text(
            f"ERASED for good: its rows in the tables of {_some([run.name for run in plan.runs])}, in DVC's cache and "
            "remote; weights stay", style="bold red"))  # fmt: skip
    if plan.unseen:
        lines_after.append(Text(f"! not seen: the tables of {_some(plan.unseen)}", style="yellow"))
    return Group(*lines, *([table] if plan.iterations else []), *lines_after)


def show_forgotten(done: Forgotten) -> RenderableType:
    """What was done, and what is left to do by hand."""
    lines = [Text("excluded from every later run" if done.excluded else "nothing new to exclude", style="green")]
    for one in done.withdrawn:
        lost = f", no longer {', '.join(one.aliases)}" if one.aliases else ""
        lines.append(Text(f"withdrawn: {one.version.name} version {one.version.version}{lost}", style="green"))
    if (erased := done.erased) is not None:
        lines.append(Text(
            f"erased: {erased.rows:,} rows of {len(erased.tombstones)} iterations, {erased.objects:,} objects of DVC, "
            f"evidence of {len(erased.evidence):,} measurements; raft lineage verify says where",
            style="green"))  # fmt: skip
        lines.append(Text("commit erased.json, tables.dvc, exclusions.jsonl and the ledger to git"))
        lines += [Text.assemble(("! left to you: ", "yellow"), harmless(line)) for line in erased.left]
        lines += [Text.assemble(("! not finished: ", "red"), harmless(line)) for line in erased.unfinished]
        if erased.unfinished:
            lines.append(Text("give the same command again when that is there: it finishes this", style="red"))
    return Group(*lines)


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data; it holds the prompts' texts."""
    return {
        "because": plan.because, "prompts": {i: plan.prompts.get(i) for i in sorted(plan.target.prompts)},
        "sets": [asdict(t) for t in plan.iterations], "models": [asdict(m) for m in plan.models],
        "versions": [{"name": v.name, "version": v.version} for v in plan.versions],
        "runs": [run.name for run in plan.runs], "files": [str(path) for path in plan.files],
        "unseen": list(plan.unseen),
    }  # fmt: skip


def forgotten_as_json(done: Forgotten) -> dict[str, Any]:
    """What was done as plain data."""
    erased = done.erased
    return {
        "excluded": done.excluded,
        "withdrawn": [
            {"name": w.version.name, "version": w.version.version, "aliases": list(w.aliases)} for w in done.withdrawn
        ],
        "erased": None if erased is None else {
            "rows": erased.rows, "objects": erased.objects, "evidence": erased.evidence,
            "left": erased.left, "unfinished": erased.unfinished,
            "tombstones": {name: tombstone.digest for name, tombstone in erased.tombstones.items()},
        },
    }  # fmt: skip


def _place(run: str, iteration: int) -> str:
    return f"{harmless(run)}@{'base (held out)' if iteration == BASE else iteration}"


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - MOST:,} more" if len(names) > MOST else ""
    return harmless(", ".join(names[:MOST]) or "none") + rest
