"""The result of ``raft lineage verify``, for a person."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.lineage.verification import Checked, Scope
from flows.text import counted, harmless
from raft_core.audit.verification import Problem, Verification

MOST_UNSEEN = 8


def show_checked(checked: Checked, scope: Scope) -> RenderableType:
    """One row per run, then every problem, then what could not be checked."""
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for title in ("run", "commits", "files", "result"):
        left = title in ("run", "result")
        table.add_column(title, justify="left" if left else "right", no_wrap=title != "result")
    for name, found in checked.runs.items():
        table.add_row(harmless(name), f"{found.num_commits:,}", f"{found.num_outputs:,}", _verdict(found, scope))
    parts: list[RenderableType] = [table] if checked.runs else []
    parts += [_problem(problem) for problem in checked.problems]
    parts += [Text.assemble(("erased  ", "yellow"), harmless(line)) for f in checked.runs.values() for line in f.erased]
    for found in checked.runs.values():
        parts += [Text.assemble(("deleted by gc  ", "yellow"), harmless(line)) for line in found.collected]
    parts += _unseen([*(line for found in checked.runs.values() for line in found.unseen), *checked.unseen])
    return Group(*parts, _summary(checked, scope))


def _verdict(found: Verification, scope: Scope) -> Text:
    if not found.ok:
        return Text(_problems(len(found.problems)), style="red")
    if not found.num_commits:
        return Text("nothing committed yet", style="dim")
    if not scope.rehash:
        return Text("the chain of commits is intact", style="green")
    erased = f"; {counted(len(found.erased), 'table')} with erased rows" if found.erased else ""
    return Text(f"intact: every file on this machine matches its digest{erased}", style="green")


def _problems(count: int) -> str:
    return counted(count, "problem") if count else "no problems"


def _problem(problem: Problem) -> Text:
    return Text.assemble((f"{problem.kind}  ", "bold red"), harmless(problem.message))


def _unseen(lines: Sequence[str]) -> list[Text]:
    if not lines:
        return []
    shown = [Text.assemble(("not checked  ", "yellow"), harmless(line)) for line in lines[:MOST_UNSEEN]]
    rest = len(lines) - MOST_UNSEEN
    return [*shown, *([Text(f"not checked  and {rest:,} more (--json lists all)", style="yellow")] if rest > 0 else [])]


def _summary(checked: Checked, scope: Scope) -> Text:
    if not scope.rehash:
        looked = "only the chain of commits"
    else:
        looked = f"{checked.num_bytes / 1e6:,.0f} MB hashed, {counted(checked.num_objects, 'DVC object')}"
    problems = len(checked.problems)
    verdict = Text(_problems(problems), style="bold red" if problems else "bold green")
    return Text.assemble(verdict, (f" ({looked}, {checked.seconds:.1f} s)", "dim"))
