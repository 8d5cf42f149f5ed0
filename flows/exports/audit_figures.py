"""The chain, the figures and the decisions of an auditor's page."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.exports.charts import Series, curves, interval
from flows.exports.dossier import Dossier, Row, counted, label
from flows.text import number
from raft_core import gates
from raft_core.audit.lineage import Link
from raft_core.metrics.base import Figure
from raft_core.metrics.registry import figures as known_figures
from raft_core.records.run import BASE

MOST_COLUMNS = 8
"""Columns of the table of figures: the base, and the iterations around the policy."""


def sections(dossier: Dossier) -> dict[str, Any]:
    """The template's values ``chain``, ``figures``, ``scorecard``, ``slices``, ``limits`` and ``decisions``."""
    return {
        "chain": _chain(dossier),
        "figures": _figures(dossier),
        "scorecard": _scorecard(dossier),
        "slices": _slices(dossier),
        "limits": _limits(dossier),
        "decisions": _decisions(dossier),
        "num_held_out": number(dossier.report.get("num_prompts"), 0),
        "confidence": f"{dossier.run.config.evaluation.confidence:.0%}",
    }


def _chain(dossier: Dossier) -> list[dict[str, Any]]:
    rows = [report for report in dossier.reports if report.get("reward") is not None]
    ends = [report.get(end, report["reward"]) for report in rows for end in ("reward_low", "reward_high")]
    known = [end for end in ends if end is not None] or [0.0, 1.0]
    span = (min(known), max(known))
    when = {event["iteration"]: event["time"] for event in dossier.events("step") if event.get("step") == "commit"}
    return [_chain_row(link, dossier.reports[link.iteration + 1], span, when) for link in dossier.lineage.links]


def _chain_row(link: Link, report: Row, span: tuple[float, float], when: Mapping[int, str]) -> dict[str, Any]:
    base = link.iteration == BASE
    return {
        "name": label(link.iteration),
        "reward": number(report.get("reward")),
        "interval": interval(report.get("reward"), report.get("reward_low"), report.get("reward_high"), span),
        "prompts": "–" if base else counted(link, "prompts"),
        **{name: counted(link, name) for name in ("samples", "quarantined", "selected")},
        "when": str(when.get(link.iteration, ""))[:16].replace("T", " "),
        "policy": link.policy.digest,
        "commit": link.commit,
    }


def _figures(dossier: Dossier) -> list[dict[str, Any]]:
    reports = dossier.reports
    labels = ["base", *map(str, range(len(reports) - 1))]
    found = {limit.metric: limit for limit in _gate_limits(dossier)}
    figures: list[dict[str, Any]] = []
    for figure in _shown(dossier):
        if not figure.headline:
            continue
        name, title, digits = figure.name, capital(figure.title), figure.decimals
        values, low, high = ([report.get(f"{name}{end}") for report in reports] for end in ("", "_low", "_high"))
        limit = found.get(name)
        lines = [(value, "limit") for value in (limit.low, limit.high) if value is not None] if limit else []
        style = "second" if name == "gold_reward" else "main"
        svg = curves(
            title, [Series(values, low, high, style)], labels, mark=dossier.iteration + 1, limits=lines, digits=digits
        )
        if svg:
            before, after = reports[0].get(name), dossier.report.get(name)
            shown = min(digits + 1, 3)
            change = f"{number(before, shown)} → {number(after, shown)}"
            figures.append({"title": title, "note": figure.meaning, "change": change, "svg": svg})
    return figures


def _scorecard(dossier: Dossier) -> Mapping[str, Any]:
    """The base and the iterations around the policy, as many columns as fit on paper."""
    last = min(len(dossier.reports) - 1, max(dossier.iteration + 1, MOST_COLUMNS - 1))
    first = max(1, last - MOST_COLUMNS + 2)
    indices = [0, *range(first, last + 1)]
    rows: list[dict[str, Any]] = []
    for figure in _shown(dossier):
        cells = [_cell(dossier.reports[i], figure) for i in indices]
        if any(cell != "–" for cell in cells):
            rows.append({"name": figure.title, "cells": cells})
    columns = ["base" if i == 0 else f"{i - 1}{' ★' if i == dossier.iteration + 1 else ''}" for i in indices]
    return {"columns": columns, "rows": rows, "left_out": first - 1}


def _shown(dossier: Dossier) -> list[Figure]:
    return list(known_figures(dossier.run.config.evaluation.metrics))


def capital(title: str) -> str:
    """With a capital letter, as a heading begins."""
    return f"{title[:1].upper()}{title[1:]}"


def _cell(report: Row, figure: Figure) -> str:
    return number(report.get(figure.name), figure.decimals)


def _slices(dossier: Dossier) -> list[dict[str, Any]]:
    before, after = dossier.reports[0].get("slices") or {}, dossier.report.get("slices") or {}
    rows: list[dict[str, Any]] = []
    for name in sorted(set(before) | set(after)):
        old, new = before.get(name), after.get(name)
        change = None if old is None or new is None else new - old
        rows.append({"name": name or "(none)", "before": number(old), "after": number(new), "change": signed(change)})
    return rows


def signed(value: float | None) -> str:
    """A change with its sign."""
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


def _gate_limits(dossier: Dossier) -> Sequence[gates.Limit]:
    first = dossier.reports[1] if len(dossier.reports) > 1 else {}
    return gates.limits(dossier.reports[0], first, dossier.run.config.gates)


def _limits(dossier: Dossier) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    titles = {figure.name: figure.title for figure in _shown(dossier)}
    for limit in _gate_limits(dossier):
        value = dossier.report.get(limit.metric)
        inside = value is None or (
            (limit.low is None or value >= limit.low) and (limit.high is None or value <= limit.high)
        )
        bounds = [f"at least {number(limit.low, 3)}" if limit.low is not None else ""]
        bounds += [f"at most {number(limit.high, 3)}" if limit.high is not None else ""]
        rows.append(
            {
                "name": titles[limit.metric],
                "allowed": ", ".join(filter(None, bounds)),
                "value": number(value, 3),
                "inside": inside,
                "verdict": "not measured" if value is None else "inside" if inside else "outside",
            }
        )
    return rows


def _decisions(dossier: Dossier) -> list[dict[str, Any]]:
    config, reports = dossier.run.config, dossier.reports
    rows: list[dict[str, Any]] = []
    for done in range(len(reports)):
        decision = gates.decide(reports[0], reports[1 : done + 1], config.gates, config.iterations)
        this = done == dossier.iteration + 1
        reason = decision.reason.replace(" -> ", " → ")
        rows.append({"name": label(done - 1), "kind": decision.kind, "reason": reason, "this": this})
    return rows
