"""What ``raft gc`` would delete, or has deleted, for a person."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from flows.text import counted
from tasks.versioning.gc import GcPlan


def show_gc(console: Console, found: GcPlan, *, removed: bool, remote: bool) -> None:
    """Print what is deleted, why the rest is kept, and how many bytes that is."""
    title = "deleted" if removed else "to delete"
    table = Table("run", f"weights of iterations {title}", "kept", box=None, pad_edge=False)
    for run in sorted({v.run for v in found.verdicts}):
        going = [str(g.iteration) for g in found.removable if g.run.name == run]
        kept = Counter(v.kept for v in found.verdicts if v.run == run and v.kept)
        reasons = ", ".join(f"{count} × {reason}" if count > 1 else str(reason) for reason, count in kept.items())
        table.add_row(run, " ".join(going) or "-", reasons or "tables and digests only")
    if found.verdicts:
        console.print(table)
    for path in found.scratch:
        console.print(f"folder {title}: {path}", markup=False, soft_wrap=True)
    weights, folders = counted(len(found.removable), "iteration"), counted(len(found.scratch), "folder")
    what = f"weights of {weights} and {folders}: {amount(found.freed)}"
    if not found.removable and not found.scratch:
        console.print("nothing to delete")
    elif removed:
        console.print(f"deleted {what}")
    else:
        console.print(f"would delete {what}; to delete: raft gc --yes")
    if found.objects and not remote:
        console.print(
            f"kept in DVC's remote: {counted(len(found.objects), 'object')}; remote=true deletes them as well "
            "(only if no other workspace uses that remote)"
        )


def amount(count: int) -> str:
    """A number of bytes with a unit: 1.2 GB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
