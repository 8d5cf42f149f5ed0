"""How a policy was made: one row per iteration, newest first, back to its base."""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.text import harmless, number
from raft_core.audit.lineage import Counts, Lineage, Link
from raft_core.records.run import BASE

MOST_SOURCES = 2


def show_lineage(lineage: Lineage) -> RenderableType:
    """One row per commit; each commit contains the digest of the one in the row below."""
    first, last = lineage.links[0], lineage.links[-1]
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for title in ("", "weights", "reward", "made from", "commit"):
        table.add_column(title, no_wrap=title != "made from", justify="right" if title == "reward" else "left")
    for link in lineage.links:
        label = "base" if link.iteration == BASE else f"iteration {link.iteration}"
        table.add_row(label, link.policy.digest[:12], number(link.reward), _made_from(link), link.commit[:12])
    head = Text.assemble(
        (f"policy {first.policy.identity}", "bold"),
        f"  {_label(first)} of run {harmless(lineage.run)}",
        (f"  ({lineage.chosen})", "dim"),
    )
    parts: list[RenderableType] = [head, table, Text(f"configuration {last.config[:12]}", style="dim")]
    if elsewhere := sorted({f"{_label(link)}/{name}" for link in lineage.links for name in link.elsewhere}):
        shown = ", ".join(elsewhere[:6]) + (f" and {len(elsewhere) - 6} more" if len(elsewhere) > 6 else "")
        parts.append(Text(f"! not on this machine: {shown}; to fetch them: dvc pull", style="yellow"))
    return Group(*parts)


def _label(link: Link) -> str:
    return "base" if link.iteration == BASE else f"iteration {link.iteration}"


def _made_from(link: Link) -> Text:
    if link.iteration == BASE:
        pulled = link.policy.ancestors
        from_commit = f" (written from commit {pulled[0].commit[:12]})" if pulled else ""
        return Text(harmless(link.policy.source or "unknown source") + from_commit)
    counts: Counts = link.counts
    steps = [
        f"{count:,} {what}{_erased(counts, what)}"
        for count, what in ((counts.prompts, "prompts"), (counts.samples, "samples"), (counts.selected, "selected"))
        if count is not None
    ]
    lost = counts.erased.get("quarantined")
    also = f", {lost:,} of them erased" if lost else ""
    dropped = f" ({counts.quarantined:,} quarantined{also})" if counts.quarantined else ""
    return Text(f"{' → '.join(steps)}{dropped}{_sources(link.prompt_sources)}")


def _erased(counts: Counts, name: str) -> str:
    lost = counts.erased.get(name)
    return f" ({lost:,} erased)" if lost else ""


def _sources(sources: Mapping[str, int] | None) -> str:
    named = [harmless(source, 60) for source in sources or () if source]
    if not named:
        return ""
    rest = f" and {len(named) - MOST_SOURCES:,} more" if len(named) > MOST_SOURCES else ""
    return f" from {', '.join(named[:MOST_SOURCES])}{rest}"
