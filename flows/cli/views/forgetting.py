"""What ``raft lineage forget`` would do, and what it has done."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.forgetting.follow_up import NOT_ERASED, FollowUp, PolicyAliases
from flows.forgetting.forget import Forgotten, Plan
from flows.text import counted, harmless
from raft_core.promotion.ledger import Champions
from raft_core.records.run import BASE

MOST = 8


def show_plan(plan: Plan, titles: PolicyAliases, *, erase: bool) -> RenderableType:
    """The plan: prompts, iterations, models and registered versions that are affected, and what would be done."""
    lines = [Text(f"to forget: {harmless(plan.because)} ({counted(len(plan.target.prompts), 'prompt')})", style="bold")]
    lines += [Text(f"  {prompt_id}  {harmless(text, 120)}") for prompt_id, text in list(plan.prompts.items())[:MOST]]
    if len(plan.prompts) > MOST:
        lines.append(Text(f"  and {len(plan.prompts) - MOST:,} more"))
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for title in ("used in", "prompts", "samples", "selected"):
        table.add_column(title, justify="left" if title == "used in" else "right", no_wrap=title != "used in")
    for touched in plan.iterations:
        table.add_row(
            Text(_set(touched.run, touched.iteration)),
            f"{touched.prompts:,}",
            f"{touched.samples:,}",
            f"{touched.selected:,}",
        )
    models = [
        _place(m.run, m.iteration)
        + _marked(titles, m.run, m.iteration, *([] if m.through is None else [f"through {m.through}"]))
        for m in plan.models
    ]
    versions = [
        f"{v.name} version {v.version}{_marked(titles, v.origin.run, v.origin.iteration)}" for v in plan.versions
    ]
    lines_after = [
        Text.assemble(("models trained on it: ", "bold"), _some(models)),
        Text.assemble(("versions to withdraw: ", "bold"), _some(versions)),
        Text(
            "later runs: will leave it out (it is added to exclusions.jsonl)"
            if plan.target.prompts or plan.target.sources
            else "later runs: leave out no prompt, since it was found in completions only"
        ),
    ]
    if erase:
        here = f"in the tables of {_some(plan.holders)}" if plan.holders else "(the tables on this machine have none)"
        warning = f"ERASED for good: its rows {here}, in DVC's cache and remotes, in Prefect's database; weights stay"
        lines_after.append(Text(warning, style="bold red"))
    if plan.unseen:
        lines_after.append(
            Text(
                f"! not searched, since they are not on this machine: the tables of {_some(plan.unseen)}",
                style="yellow",
            )
        )
    return Group(*lines, *([table] if plan.iterations else []), *lines_after)


def show_forgotten(plan: Plan, done: Forgotten, after: FollowUp) -> RenderableType:
    """What was done, who is champion now, and what is left to do by hand."""
    lines: list[Text] = []
    for one in done.withdrawn:
        lost = f", which was {', '.join(one.aliases)}" if one.aliases else ""
        lines.append(Text(f"withdrawn: {one.version.name} version {one.version.version}{lost}", style="green"))
    if (erased := done.erased) is not None:
        lines.append(
            Text(
                f"erased: {counted(erased.rows, 'row')} of {counted(len(erased.tombstones), 'iteration')}, "
                f"{counted(erased.objects, 'DVC object')}, {counted(len(erased.evidence), 'measurement')} of "
                f"promotions, the parameters of {counted(erased.flow_runs, 'Prefect flow run')}; "
                "raft lineage verify lists the tables",
                style="green",
            )
        )
        lines += [Text.assemble(("! left to you: ", "yellow"), harmless(line)) for line in erased.left]
        lines += [Text(_prepared(path)) for path in plan.prepared]
        lines += [Text("not erased; do this yourself where it applies:"), *(Text(f"  {line}") for line in NOT_ERASED)]
    else:
        lines.append(Text("its rows and the weights were kept; --erase deletes the rows"))
    lines += [_champion(name, standing) for name, standing in after.champions.items()]
    lines.append(Text(f"record this in git: git add {' '.join(after.to_commit)}, then git commit", style="bold"))
    if erased is not None and erased.unfinished:
        lines += [Text.assemble(("! not finished: ", "red"), harmless(line)) for line in erased.unfinished]
        lines.append(Text("run the same command again when it can be reached: it finishes the erasure", style="red"))
    return Group(*lines)


def plan_as_json(plan: Plan, titles: PolicyAliases) -> dict[str, Any]:
    """The plan as plain data; it holds the prompts' texts."""
    return {
        "because": plan.because,
        "prompts": {i: plan.prompts.get(i) for i in sorted(plan.target.prompts)},
        "sets": [asdict(t) for t in plan.iterations],
        "models": [{**asdict(m), "titles": list(titles.get((m.run, m.iteration), ()))} for m in plan.models],
        "versions": [{"name": v.name, "version": v.version} for v in plan.versions],
        "runs": [run.name for run in plan.runs],
        "holders": list(plan.holders),
        "files": [str(path) for path in plan.files],
        "prepared": [str(path) for path in plan.prepared],
        "unseen": list(plan.unseen),
    }


def forgotten_as_json(done: Forgotten, after: FollowUp) -> dict[str, Any]:
    """What was done as plain data."""
    erased = done.erased
    return {
        "excluded": done.excluded,
        "withdrawn": [
            {"name": w.version.name, "version": w.version.version, "aliases": list(w.aliases)} for w in done.withdrawn
        ],
        "champions": {
            name: None if (holder := standing.champion) is None else _place(holder.run, holder.iteration)
            for name, standing in after.champions.items()
        },
        "to_commit": list(after.to_commit),
        "not_erased": [] if erased is None else list(NOT_ERASED),
        "erased": None
        if erased is None
        else {
            "rows": erased.rows,
            "objects": erased.objects,
            "flow_runs": erased.flow_runs,
            "evidence": erased.evidence,
            "left": erased.left,
            "unfinished": erased.unfinished,
            "tombstones": {name: tombstone.digest for name, tombstone in erased.tombstones.items()},
        },
    }


def _place(run: str, iteration: int) -> str:
    return f"{harmless(run)}@{'base' if iteration == BASE else iteration}"


def _set(run: str, iteration: int) -> str:
    return _place(run, iteration) + (" (held-out prompts)" if iteration == BASE else "")


def _marked(titles: PolicyAliases, run: str, iteration: int, *more: str) -> str:
    """Aliases and notes of a model, in brackets."""
    said = ", ".join([*titles.get((run, iteration), ()), *more])
    return f" ({said})" if said else ""


def _prepared(path: Path) -> str:
    return harmless(
        f"the prepared data of an example still contains it: {path}. Nothing needs to be done, since later runs leave "
        "it out"
    )


def _champion(name: str, standing: Champions) -> Text:
    if standing.champion is not None:
        return Text(harmless(f"{name}: the champion is {_place(standing.champion.run, standing.champion.iteration)}"))
    ways = "promote one that was not trained on it: raft promote RUN@N"
    if (back := standing.previous) is not None:
        ways = f"return to {_place(back.run, back.iteration)}: raft rollback --model {name} --reason WHY; or {ways}"
    return Text(harmless(f"{name} has no champion now; {ways}"), style="yellow")


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - MOST:,} more" if len(names) > MOST else ""
    return harmless(", ".join(names[:MOST]) or "none") + rest
