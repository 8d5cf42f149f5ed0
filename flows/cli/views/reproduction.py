"""The result of ``raft lineage reproduce``, for a person."""

from rich.console import Group, RenderableType
from rich.text import Text

from flows.lineage.reproduce import Reproduction
from flows.text import counted, harmless
from raft_core.records.run import BASE

MOST_KEYS = 6


def show_reproduction(found: Reproduction) -> RenderableType:
    """That both runs are identical; or where they first differ, and by how much."""
    compared = found.comparison
    lines = [Text.assemble(("code  ", "dim"), f"{found.commit or 'unknown commit'} in {found.code}")]
    lines += [Text.assemble(("note  ", "yellow"), harmless(note)) for note in found.notes]
    for key, (here, there) in compared.numerics.items():
        lines.append(
            Text(harmless(f"determinism fingerprint differs: {key} was {here!r}, is {there!r}"), style="yellow")
        )
    if compared.code:
        lines.append(Text(f"steps whose code differs: {', '.join(compared.code)}", style="yellow"))
    if compared.same:
        same = f"{counted(compared.commits, 'commit')} and {counted(compared.outputs, 'file')}"
        lines.append(Text(f"reproduced: {same} are identical", style="bold green"))
        return Group(*lines)
    counts = (
        f"{compared.same_commits} of {compared.commits} commits and {compared.same_outputs} of {compared.outputs} files"
    )
    lines.append(Text(f"not reproduced: only {counts} are identical", style="bold red"))
    if compared.missing:
        lines.append(
            Text(f"missing in the second run: iterations {', '.join(map(str, compared.missing))}", style="red")
        )
    if (first := compared.first) is not None:
        where = "the base" if first.iteration == BASE else f"iteration {first.iteration}"
        lines.append(Text.assemble(("first difference  ", "bold"), f"{first.output} of {where}"))
        lines += [Text(f"  {harmless(line)}") for line in first.size]
    elif compared.same_commits < compared.commits:
        said = ", ".join(compared.said[:MOST_KEYS]) + (", …" if len(compared.said) > MOST_KEYS else "")
        lines.append(Text(harmless(f"all files are identical; the commits differ in {said}")))
    return Group(*lines, Text(f"the second run was kept in {found.run}", style="dim"))
