"""What a collection would take, or took, as a person reads it."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from tasks.versioning.gc import GcPlan


def show_collection(console: Console, found: GcPlan, *, removed: bool, remote: bool) -> None:
    """Print what goes, why the rest stays, and how many bytes it is."""
    table = Table("run", "iterations that go", "stays", box=None, pad_edge=False)
    for run in sorted({v.run for v in found.verdicts}):
        going = [str(g.iteration) for g in found.removable if g.run.name == run]
        kept = Counter(v.kept for v in found.verdicts if v.run == run and v.kept)
        reasons = ", ".join(f"{count} × {reason}" if count > 1 else str(reason) for reason, count in kept.items())
        table.add_row(run, " ".join(going) or "-", reasons or "tables and digests")
    if found.verdicts:
        console.print(table)
    for path in found.scratch:
        console.print(f"folder {path}", markup=False, soft_wrap=True)
    what = f"{len(found.removable)} policies, {len(found.scratch)} folders: {amount(found.freed)}"
    if not found.removable and not found.scratch:
        console.print("nothing to collect")
    elif removed:
        console.print(f"removed {what}")
    else:
        console.print(f"would remove {what}; raft gc --yes does it")
    if found.objects and not remote:
        console.print(
            f"{len(found.objects)} objects stay in DVC's remote; remote=true takes them too, if it is yours alone"
        )


def amount(count: int) -> str:
    """Bytes as people say them."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
