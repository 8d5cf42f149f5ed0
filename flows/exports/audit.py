"""One HTML page for an auditor: a single file without scripts or network, for the screen and for paper."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from flows.exports import audit_data, audit_figures
from flows.exports.dossier import Dossier, label
from flows.exports.markup import content_policy, environment, preformatted, read_text, verbatim
from flows.text import number
from raft_core.records.run import BASE

CONTENTS = (
    ("chain", "Where it comes from"),
    ("figures", "What changed"),
    ("gates", "Gates"),
    ("promotion", "Promotion"),
    ("data", "Data"),
    ("validation", "Validation"),
    ("samples", "Before and after"),
    ("made", "How it was made"),
    ("verify", "Verify it yourself"),
    ("digests", "Digests"),
)


def audit_page(dossier: Dossier) -> str:
    """The page; the same records give the same bytes."""
    css = Markup(read_text("audit.css"))
    template = environment().get_template("audit.html.j2")
    return template.render(
        d=dossier,
        v=dossier.verification,
        css=css,
        policy=Markup(content_policy(css)),
        contents=CONTENTS,
        name=label,
        plural=plural,
        verbatim=verbatim,
        preformatted=preformatted,
        summary=_summary(dossier),
        tiles=_tiles(dossier),
        **audit_figures.sections(dossier),
        **audit_data.sections(dossier),
    )


def plural(count: int, noun: str) -> str:
    """``1 commit``, ``2 commits``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _summary(dossier: Dossier) -> Markup:
    made = "the initial policy" if dossier.iteration == BASE else f"the policy that {label(dossier.iteration)} made"
    return Markup("This is <strong>{}</strong> of run <strong>{}</strong> ({}), {}. {}").format(
        made, dossier.run.name, dossier.view.status, dossier.lineage.chosen, _state(dossier)
    )


def _state(dossier: Dossier) -> str:
    kinds = [entry.kind for entry in dossier.entries if entry.kind in ("promoted", "rolled_back", "withdrawn")]
    if not kinds:
        return "Nobody has promoted a policy of this run."
    return f"The last decisive entry in the ledger about a policy of this run: {kinds[-1].replace('_', ' ')}."


def _tiles(dossier: Dossier) -> list[dict[str, Any]]:
    now, base = dossier.report, dossier.reports[0]
    return [
        {"name": "held-out reward", "value": number(now.get("reward")), "more": _reach(now, base, "reward")},
        {"name": "gold reward", "value": number(now.get("gold_reward")), "more": _reach(now, base, "gold_reward")},
        {"name": "perplexity of real text", "value": number(now.get("perplexity")), "more": _rise(now, base)},
        {
            "name": "KL to the initial policy",
            "value": number(now.get("kl")),
            "more": f"nats; distinct-2 {number(base.get('distinct_2'), 3)} → {number(now.get('distinct_2'), 3)}",
        },
    ]


def _reach(now: Mapping[str, Any], base: Mapping[str, Any], name: str) -> str:
    low, high = now.get(f"{name}_low"), now.get(f"{name}_high")
    bounds = f"[{number(low)}, {number(high)}]; " if low is not None else ""
    return f"{bounds}base {number(base.get(name))}"


def _rise(now: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    before, after = base.get("perplexity"), now.get("perplexity")
    if not before or after is None:
        return f"base {number(before)}"
    return f"base {number(before)}, {after / before - 1:+.1%}".replace("-", "−")
