"""Two models side by side, for a person."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.text import harmless, number
from raft_core.audit.difference import Difference, Overlap, Pass
from raft_core.records.run import BASE

MAX_CHARS = 80


def show_difference(found: Difference) -> RenderableType:
    """Where their histories part, what differs in settings and code, and one row per iteration."""
    head = Text.assemble((f"A = {harmless(found.a)}   B = {harmless(found.b)}", "bold"))
    if found.same:
        return Group(head, Text("the same policy, made from the same prompts, samples and settings", style="green"))
    parts: list[RenderableType] = [head, Text(_parting(found))]
    parts += _pairs("setting", found.settings) + _pairs("determinism fingerprint", found.numerics)
    if found.git[0] != found.git[1]:
        parts.append(Text(f"git commit  A {found.git[0] or 'unknown'}, B {found.git[1] or 'unknown'}"))
    if found.trained_on is not None:
        parts.append(Text.assemble(("prompts trained on: ", "bold"), _overlap(found.trained_on)))
    parts.append(_table(found))
    seen = {(kind, what) for p in found.passes for kind in ("code", "inputs") for what in getattr(p, kind)}
    for kind, title in (("code", "steps whose code differs: "), ("inputs", "inputs that differ: ")):
        if named := sorted(what for k, what in seen if k == kind):
            parts.append(Text.assemble((title, "bold"), harmless(", ".join(named))))
    return Group(*parts)


def _parting(found: Difference) -> str:
    if found.ancestor is None:
        return f"nothing in common: the base policies are {found.base[0]} and {found.base[1]}"
    if found.ancestor == BASE:
        return f"the same base policy {found.base[0]}; they differ from iteration 0 on"
    return f"the same policies up to iteration {found.ancestor}; they differ from iteration {found.ancestor + 1} on"


def _pairs(title: str, pairs: Mapping[str, tuple[Any, Any]]) -> list[Text]:
    return [
        Text.assemble((f"{title} {harmless(key)}  ", "bold"), f"A {_value(a)}, B {_value(b)}")
        for key, (a, b) in pairs.items()
    ]


def _value(value: Any) -> str:
    return harmless(repr(value), MAX_CHARS)


def _table(found: Difference) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for title in ("iteration", "prompts", "samples", "selected", "mean reward", "rewards that differ"):
        table.add_column(title, no_wrap=title == "iteration")
    for one in found.passes:
        if one.same:
            table.add_row(str(one.iteration), Text("identical", style="green"))
        else:
            cells = [Text(_overlap(one.tables[name])) for name in ("prompts", "samples", "selected")]
            table.add_row(str(one.iteration), *cells, *_rewards(one))
    return table


def _overlap(overlap: Overlap | None) -> str:
    if overlap is None:
        return "not on this machine"
    parts = ((overlap.both, "in both"), (overlap.only_a, "only in A"), (overlap.only_b, "only in B"))
    return ", ".join(f"{count:,} {what}" for count, what in parts if count) or "none"


def _rewards(one: Pass) -> tuple[str, str]:
    if one.rewards is None:
        return "not on this machine", ""
    rewards = one.rewards
    means = f"A {number(rewards.mean_a, 3)}, B {number(rewards.mean_b, 3)}"
    if not rewards.both:
        return means, "no samples in common"
    return means, f"{rewards.differ:,} of {rewards.both:,}, by at most {rewards.largest:.3g}"
