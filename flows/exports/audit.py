"""One HTML page for an auditor: a single file without scripts or network, for the screen and for paper."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from flows.exports import audit_data, audit_figures
from flows.exports.dossier import Dossier, label
from flows.exports.markup import content_policy, environment, preformatted, read_text, verbatim
from flows.text import number
from raft_core.metrics.base import Figure
from raft_core.metrics.registry import figures as known_figures
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
    """One for each headline figure, with what it was of the base."""
    now, base = dossier.report, dossier.reports[0]
    return [
        {
            "name": figure.title,
            "value": number(now.get(figure.name), figure.decimals),
            "more": _since(now, base, figure),
        }
        for figure in known_figures(dossier.run.config.evaluation.metrics)
        if figure.headline and not figure.percent
    ]


def _since(now: Mapping[str, Any], base: Mapping[str, Any], figure: Figure) -> str:
    low, high = (number(now.get(f"{figure.name}{end}"), figure.decimals) for end in ("_low", "_high"))
    bounds = f"[{low}, {high}]; " if now.get(f"{figure.name}_low") is not None else ""
    return f"{bounds}base {number(base.get(figure.name), figure.decimals)}"
