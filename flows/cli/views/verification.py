"""What a verification found, for a person."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.lineage.verification import Checked, Scope
from flows.text import harmless
from raft_core.audit.verification import Problem, Verification

MOST_UNSEEN = 8


def show_checked(checked: Checked, scope: Scope) -> RenderableType:
    """A row a run, then every problem, then what could not be seen."""
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for title in ("run", "commits", "outputs", ""):
        table.add_column(title, justify="left" if title in ("run", "") else "right", no_wrap=title != "")
    for name, found in checked.runs.items():
        table.add_row(harmless(name), f"{found.num_commits:,}", f"{found.num_outputs:,}", _verdict(found, scope))
    parts: list[RenderableType] = [table] if checked.runs else []
    parts += [_problem(problem) for problem in checked.problems]
    parts += [Text.assemble(("erased  ", "yellow"), harmless(line)) for f in checked.runs.values() for line in f.erased]
    for found in checked.runs.values():
        parts += [Text.assemble(("gone by gc  ", "yellow"), harmless(line)) for line in found.collected]
    parts += _unseen([*(line for found in checked.runs.values() for line in found.unseen), *checked.unseen])
    return Group(*parts, _summary(checked, scope))


def _verdict(found: Verification, scope: Scope) -> Text:
    if not found.ok:
        return Text(f"{len(found.problems)} problems", style="red")
    if not scope.rehash:
        return Text("the chain holds", style="green")
    told = "the chain holds, every byte that is here verifies"
    return Text(told + (f"; {len(found.erased)} tables with erased rows" if found.erased else ""), style="green")


def _problem(problem: Problem) -> Text:
    return Text.assemble((f"{problem.kind}  ", "bold red"), harmless(problem.message))


def _unseen(lines: Sequence[str]) -> list[Text]:
    if not lines:
        return []
    shown = [Text.assemble(("not seen  ", "yellow"), harmless(line)) for line in lines[:MOST_UNSEEN]]
    rest = len(lines) - MOST_UNSEEN
    return [*shown, *([Text(f"not seen  and {rest:,} more (--json lists them)", style="yellow")] if rest > 0 else [])]


def _summary(checked: Checked, scope: Scope) -> Text:
    if not scope.rehash:
        looked = "chain alone"
    else:
        looked = f"{checked.num_bytes / 1e6:,.0f} MB hashed, {checked.num_objects:,} objects of DVC"
    problems = len(checked.problems)
    verdict = Text(f"{problems} problems" if problems else "no problem", style="bold red" if problems else "bold green")
    return Text.assemble(verdict, (f" ({looked}, {checked.seconds:.1f} s)", "dim"))
