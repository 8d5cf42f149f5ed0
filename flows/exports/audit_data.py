"""The data, its validation, the completions, the ledger and the digests of an auditor's page."""

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc
from markupsafe import Markup

from flows.exports.charts import Series, curves, histogram
from flows.exports.dossier import Dossier, label
from flows.exports.form import fine_tuning, form
from flows.exports.sources import named
from flows.text import number, percent
from raft_core.config.loading import dump_config
from raft_core.files.plain_json import MAX_LOG_BYTES, read_json
from raft_core.promotion.ledger import Entry
from raft_core.records.pinned import changes_of
from raft_core.records.run import BASE, Commit
from raft_core.redaction import redacted, redacted_text

MOST_SOURCES, MOST_PAIRS, MOST_ITERATIONS, MOST_WARNINGS, MOST_CHARS = 12, 6, 10, 12, 600
CODE_RAN, CODE_DID_NOT_RUN = "run (policy.trust_remote_code: true)", "not run (policy.trust_remote_code: false)"
TITLES = {"rolled_back": "rolled back"}
FIRST_FACTS = (
    "requester",
    "requested_by",
    "approver",
    "approved_by",
    "by",
    "who",
    "reason",
    "why",
    "decision",
    "run",
    "iteration",
)
"""Keys of a ledger entry that are shown first."""


def sections(dossier: Dossier) -> dict[str, Any]:
    """The template's values ``data_tiles`` … ``digests``."""
    return {
        "data_tiles": _tiles(dossier),
        "num_erased": _num_erased(dossier),
        "histogram": _histogram(dossier),
        "loss": _loss(dossier),
        "sources": _sources(dossier),
        "components": _components(dossier),
        "quarantine": _quarantine(dossier),
        "validation": _validation(dossier),
        "pairs": _pairs(dossier),
        "ledger": [*map(_entry, dossier.entries)],
        "made": _made(dossier),
        "warnings": _warnings(dossier),
        "config": redacted_text(dump_config(dossier.run.config)),
        "commands": _commands(dossier),
        "by_hand": _by_hand(dossier),
        "digests": [*map(_digests, dossier.chain)],
    }


def _trained(dossier: Dossier) -> range:
    """The iterations that trained the policy."""
    return range(dossier.iteration + 1)


def _tiles(dossier: Dossier) -> list[dict[str, Any]]:
    links = [link for link in dossier.lineage.links if link.iteration != BASE]

    def total(name: str) -> int | None:
        counts = [getattr(link.counts, name) for link in links]
        return None if None in counts else sum(counts)

    def erased(name: str) -> str:
        lost = sum(link.counts.erased.get(name, 0) for link in links)
        return f"; {lost:,} erased since" if lost else ""

    tokens = sum(int(_finetuned(dossier, i).get("num_tokens", 0)) for i in _trained(dossier))
    samples, selected = total("samples"), total("selected")
    share = percent(selected / samples) if samples and selected is not None else "–"
    return [
        {"name": title, "value": number(total(count), 0), "more": more + erased(count)}
        for title, count, more in (
            ("prompts drawn", "prompts", f"in {len(links)} iteration{'' if len(links) == 1 else 's'}"),
            ("completions sampled", "samples", _per_prompt(dossier)),
            ("quarantined", "quarantined", "failed a check; recorded, never trained on"),
            ("selected", "selected", f"{share} of all; {tokens:,} tokens trained on"),
        )
    ]


def _num_erased(dossier: Dossier) -> int:
    """Rows that the policy was trained on and that were erased later."""
    return sum(sum(link.counts.erased.values()) for link in dossier.lineage.links)


def _per_prompt(dossier: Dossier) -> str:
    sampling = dossier.run.config.sampling
    return f"{sampling.samples_per_prompt} per prompt, temperature {sampling.temperature:g}"


def _finetuned(dossier: Dossier, iteration: int) -> Mapping[str, Any]:
    path = dossier.run.folder(iteration) / "finetune.json"
    try:
        document = read_json(path, MAX_LOG_BYTES)
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _histogram(dossier: Dossier) -> Markup:
    if dossier.iteration == BASE:
        return Markup("")
    scored = dossier.table(dossier.iteration, "scored", ["reward"])
    selected = dossier.table(dossier.iteration, "selected", ["reward"])
    if scored is None or selected is None:
        return Markup("")
    everything, chosen = (table["reward"].drop_null().to_pylist() for table in (scored, selected))
    return histogram("Rewards of all candidates and of the selected ones", everything, chosen)


def _loss(dossier: Dossier) -> Mapping[str, Any] | None:
    losses = [float(row["loss"]) for i in _trained(dossier) for row in dossier.training_log(i) if "loss" in row]
    if len(losses) < 2:
        return None
    labels = [str(step) for step in range(1, len(losses) + 1)]
    svg = curves("Fine-tuning loss of each optimiser step", [Series(losses)], labels)
    return {"svg": svg, "change": f"{number(losses[0])} → {number(losses[-1])}"}


def _sources(dossier: Dossier) -> Mapping[str, Any] | None:
    counts: Counter[str] = Counter()
    for link in dossier.lineage.links:
        if link.iteration != BASE:
            counts.update(link.prompt_sources or {})
    if not counts or set(counts) == {""}:
        return None
    # "movies 17" and "movies 18" are rows of one source.
    files: Counter[str] = Counter()
    for source, count in counts.items():
        files[source.rpartition(" ")[0] if source.rpartition(" ")[2].isdecimal() else source] += count
    total, shown = sum(files.values()), files.most_common(MOST_SOURCES)
    rows = [{"name": name or "(none)", "count": number(n, 0), "bar": _bar(n / total)} for name, n in shown]
    return {"rows": rows, "rest": f"{len(files) - len(shown):,} more sources" if len(files) > len(shown) else ""}


def _bar(share: float) -> Markup:
    return Markup(
        '<svg class="share-bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="6"/><rect class="fill" width="{:.2f}" height="6"/></svg>'
    ).format(100 * share)


def _components(dossier: Dossier) -> list[dict[str, Any]]:
    return [
        {"role": p.role, "reference": p.reference, "licence": p.licence, "digest": (p.digest or "–")[:16]}
        for p in named(dossier)
    ]


def _quarantine(dossier: Dossier) -> list[dict[str, Any]]:
    counts: Counter[tuple[str, str]] = Counter()
    for iteration in _trained(dossier):
        table = dossier.table(iteration, "quarantine", ["stage", "check"])
        for row in table.to_pylist() if table is not None else ():
            counts[row["stage"], row["check"]] += 1
    return [{"stage": s, "check": c, "count": number(n, 0)} for (s, c), n in sorted(counts.items())]


def _validation(dossier: Dossier) -> Mapping[str, Any]:
    iterations = [*_trained(dossier)][-MOST_ITERATIONS:]
    columns = ["suite", "check", "level", "passed", "observed", "expected", "failed_rows"]
    found: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    failures = []
    for iteration in iterations:
        table = dossier.table(iteration, "validation", columns)
        for row in table.to_pylist() if table is not None else ():
            found.setdefault((row["suite"], row["check"]), {})[iteration] = row
            if not row["passed"]:
                failures.append({**row, "name": f"{label(iteration)}, {row['suite']}"})
    rows: list[dict[str, Any]] = []
    for (suite, check), by_iteration in sorted(found.items(), key=lambda item: item[0][0]):
        last = by_iteration[max(by_iteration)]
        cells = [_mark(by_iteration.get(iteration)) for iteration in iterations]
        shown = "" if rows and rows[-1]["in"] == suite else suite
        rows.append(
            {
                "in": suite,
                "suite": shown,
                "check": check.replace("_", " "),
                "level": last["level"],
                "expected": last["expected"],
                "cells": cells,
            }
        )
    counts = Counter(suite for suite, _ in found)
    summary = ", ".join(f"{count} on {suite}" for suite, count in counts.items())
    num_failed = len(failures)
    return {"columns": iterations, "rows": rows, "failures": failures, "summary": summary, "num_failed": num_failed}


def _mark(row: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if row is None:
        return {"passed": None, "mark": "·"}
    return {"passed": row["passed"], "mark": "✓" if row["passed"] else "✗"}


def _pairs(dossier: Dossier) -> list[dict[str, Any]]:
    if dossier.iteration == BASE:
        return []
    columns = ["prompt_id", "prompt", "completion", "reward"]
    tables = [dossier.table(iteration, "evaluation", columns) for iteration in (BASE, dossier.iteration)]
    if tables[0] is None or tables[1] is None:
        return []
    before = tables[0].slice(0, MOST_PAIRS).to_pylist()
    wanted = pc.is_in(tables[1]["prompt_id"], value_set=tables[0]["prompt_id"].slice(0, MOST_PAIRS).combine_chunks())
    after = {row["prompt_id"]: row for row in tables[1].filter(wanted).to_pylist()}
    return [
        {
            "prompt": row["prompt"],
            "before": row["completion"],
            "after": after[row["prompt_id"]]["completion"],
            "reward_before": f"reward {number(row['reward'])}",
            "reward_after": f"reward {number(after[row['prompt_id']]['reward'])}",
        }
        for row in before
        if row["prompt_id"] in after
    ]


def _entry(entry: Entry) -> dict[str, Any]:
    body = redacted(dict(entry.body))
    decision = body.get("decision")
    findings = decision.get("findings") if isinstance(decision, Mapping) else None
    if isinstance(decision, Mapping):
        body["decision"] = decision.get("reason")
    order = [key for key in FIRST_FACTS if key in body] + sorted(set(body) - set(FIRST_FACTS))
    return {
        "kind": entry.kind,
        "title": f"{entry.model}: {TITLES.get(entry.kind, entry.kind)}",
        "number": entry.number,
        "time": entry.time[:16].replace("T", " ") + " UTC",
        "digest": entry.digest,
        "facts": [(key.replace("_", " "), text) for key in order for text in [_fact(body[key])] if text],
        "gates": [_gate(row) for row in findings or () if isinstance(row, Mapping)],
    }


def _gate(row: Mapping[str, Any]) -> dict[str, Any]:
    low, high = row.get("low"), row.get("high")
    between = f" [{number(low, 3)}, {number(high, 3)}]" if low is not None else ""
    rule = f"{row.get('rule', '')} {number(row.get('threshold'), 3)}".strip()
    note = str(row.get("note") or "")
    return {
        "gate": str(row.get("gate", "")).replace("_", " "),
        "value": f"{number(row.get('value'), 3)}{between}",
        "rule": rule,
        "note": note,
        "passed": bool(row.get("passed")),
    }


def _fact(value: Any) -> str:
    if isinstance(value, Mapping) and all(isinstance(inner, str | int | float) for inner in value.values()):
        value = ", ".join(f"{key.replace('_', ' ')} {inner}" for key, inner in sorted(value.items()))
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
    return (
        text
        if len(text) <= MOST_CHARS
        else f"{text[:MOST_CHARS]}… ({len(text):,} characters; raft ledger shows all of it)"
    )


def _made(dossier: Dossier) -> list[tuple[str, str]]:
    config, content = dossier.run.config, dossier.commit.content
    started = dossier.events("started")
    facts = [
        ("kind of model", form(dossier).noun),
        ("sampling", _per_prompt(dossier)),
        ("selection", config.selection.type),
        ("fine-tuning", fine_tuning(dossier)),
        ("code of the model folder", CODE_RAN if config.policy.trust_remote_code else CODE_DID_NOT_RUN),
        ("code and data of the rewards", _rewards(dossier)),
        ("git commit of the code", _distinct(started, "git_commit")),
        ("machine", _distinct(started, "host")),
        (
            "determinism fingerprint",
            ", ".join(f"{key} {value}" for key, value in sorted(content.get("numerics", {}).items())),
        ),
        ("seed", str(config.seed)),
        ("time spent", _spent(dossier)),
    ]
    return [(key, text) for key, text in facts if text]


def _rewards(dossier: Dossier) -> str:
    """Whether the rewards stayed the same from the base to this policy, according to the commits."""
    if not all(commit.content.get("rewards") for commit in dossier.chain):
        return "not recorded for every iteration"
    changed = [f"{what} (accepted before iteration {iteration})" for iteration, what in changes_of(dossier.chain)]
    return "; ".join(changed) or "unchanged from the first iteration to the last"


def _distinct(events: Sequence[Mapping[str, Any]], name: str) -> str:
    return ", ".join(dict.fromkeys(str(event[name]) for event in events if event.get(name))) or "not recorded"


def _spent(dossier: Dossier) -> str:
    spent: Counter[str] = Counter()
    for event in dossier.events("step"):
        if int(event.get("iteration", BASE)) <= dossier.iteration:
            spent[str(event.get("step"))] += float(event.get("seconds") or 0.0)  # type: ignore[assignment]
    parts = ", ".join(f"{step} {seconds:,.0f} s" for step, seconds in spent.most_common() if seconds >= 0.5)
    return f"{sum(spent.values()):,.0f} s: {parts}" if spent else ""


def _warnings(dossier: Dossier) -> list[str]:
    counted = Counter(redacted_text(text) for text in dossier.view.warnings)
    return [f"{text} ({count} times)" if count > 1 else text for text, count in list(counted.items())[:MOST_WARNINGS]]


def _commands(dossier: Dossier) -> str:
    name = dossier.run.name
    reference = f"{name}@{'base' if dossier.iteration == BASE else dossier.iteration}"
    return "\n".join(
        [
            f"raft lineage show {reference}      # the chain of commits, back to the first prompts",
            f"raft lineage verify {name}    # hash every file again and follow the chain",
            f"raft export html {reference}       # write this page again and compare",
        ]
    )


def _by_hand(dossier: Dossier) -> str:
    """Shell commands and the digests that they must print; a test runs them."""
    folder = "base" if dossier.iteration == BASE else f"iterations/{dossier.iteration:03d}"
    where = f"runs/{dossier.run.name}/{folder}"
    lines = [f"sha256sum {shlex.quote(f'{where}/commit.json')}", f"# {dossier.link.commit}"]
    if digest := dossier.link.outputs.get("policy"):
        listing = "find . -type f | sed 's|^\\./||' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
        lines += ["", f"cd {shlex.quote(f'{where}/policy')} && {listing}", f"# {digest}"]
    return "\n".join(lines)


def _digests(commit: Commit) -> Mapping[str, Any]:
    return {"name": label(commit.iteration).capitalize(), "rows": list(_digest_rows(commit))}


def _digest_rows(commit: Commit) -> Iterator[tuple[str, str]]:
    yield "commit.json", commit.digest
    yield from sorted(commit.outputs.items())
    for name, step in sorted(commit.content.get("steps", {}).items()):
        yield f"step {name}: its key", str(step.get("key"))
        read: Mapping[str, Any] = step.get("inputs", {})
        for what, digest in sorted(read.items()):
            if digest is not None:
                yield f"step {name} read {what}", str(digest)
