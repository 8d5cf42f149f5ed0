"""A promotion decision with its figures, and the ledger, for a person."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.text import harmless
from raft_core.promotion.decision import Verdict
from raft_core.promotion.ledger import Entry, current

STYLES = {
    "promoted": "green",
    "rolled_back": "yellow",
    "refused": "red",
    "rejected": "red",
    "withdrawn": "red",
    "erased": "red",
    "requested": "cyan",
    "approved": "green",
}


RULES = {"low >": "lower bound >", "high <": "upper bound <"}
"""Rules of the gates, as they are recorded and as they are shown."""
LEGEND = (
    "reference = the champion, or the candidate's own base if there is none; gates are explained by raft promote --help"
)


def show_verdict(verdict: Verdict) -> RenderableType:
    """One row per gate: what was measured, and the threshold that decides; then a legend."""
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for title in ("gate", "", "measured", "interval", "passes if", "candidate", "reference", ""):
        words = title in ("gate", "", "passes if")
        table.add_column(title, justify="left" if words else "right", no_wrap=not words)
    for f in verdict.findings:
        mark = Text("✓", style="green") if f.passed else Text("✗", style="bold red")
        interval = f"{_figure(f.low)} … {_figure(f.high)}" if f.low is not None else ""
        cells = (
            _figure(f.value),
            interval,
            f"{RULES.get(f.rule, f.rule)} {_figure(f.threshold)}",
            _given(f.candidate),
            _given(f.reference),
        )
        table.add_row(Text(harmless(f.gate, 40)), mark, *cells, Text(harmless(f.note, 80), style="dim"))
    return Group(table, Text(LEGEND, style="dim"))


def show_ledger(entries: Sequence[Entry]) -> Table:
    """One row per entry, oldest first; a star marks the current champion of each model."""
    champions = {
        standing.champion.entry
        for model in {e.model for e in entries}
        if (standing := current(entries, model)).champion is not None
    }
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for title in ("entry", "time (UTC)", "action", "model", "policy", "commit", "by", "why", "digest"):
        wraps = title in ("why", "model", "policy")
        table.add_column(
            title, no_wrap=not wraps, overflow="fold" if wraps else "ellipsis", min_width=12 if wraps else None
        )
    for entry in entries:
        body = entry.body
        named = (
            f"{body['run']}@{body['iteration']}" if "run" in body and "iteration" in body else str(body.get("run", ""))
        )
        star = " ★" if entry.digest in champions else ""
        table.add_row(
            str(entry.number),
            _text(entry.time[:19].replace("T", " ")),
            Text(harmless(entry.kind, 20) + star, style=STYLES.get(entry.kind, "")),
            _text(entry.model, 200),
            _text(named, 200),
            _text(str(body.get("commit", ""))[:12]),
            _text(_by(body)),
            _text(_why(entry), 160),
            _text(entry.digest[:12]),
        )
    return table


def as_json(entry: Entry) -> dict[str, Any]:
    """An entry as plain data, for JSON."""
    return {name: getattr(entry, name) for name in ("number", "time", "kind", "model", "body", "previous", "digest")}


def _by(body: Mapping[str, Any]) -> str:
    approved = body.get("approved_by")
    asked = body.get("requested_by") or body.get("rejected_by") or body.get("by") or ""
    return f"{asked}, {approved}" if approved and asked else str(approved or asked)


def _why(entry: Entry) -> str:
    decision = entry.body.get("decision")
    figures = (
        decision.get("reason", "") if isinstance(decision, Mapping) and entry.kind in ("refused", "promoted") else ""
    )
    return "; ".join(str(part) for part in (entry.body.get("reason"), figures) if part)


def _text(text: str, limit: int = 60) -> Text:
    return Text(harmless(text, limit))


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _given(value: float | None) -> str:
    return "" if value is None else _figure(value)
