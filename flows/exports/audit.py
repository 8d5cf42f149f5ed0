"""One HTML page for an auditor: a single file without scripts that loads nothing; it prints well, too."""

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
    ("gates", "Gates and decisions"),
    ("promotion", "Promotion"),
    ("data", "Training data"),
    ("validation", "Validation"),
    ("samples", "Before and after"),
    ("made", "How it was made"),
    ("verify", "Verify it yourself"),
    ("digests", "Digests"),
    ("terms", "Terms"),
)
TERMS = (
    ("policy", "the language model that is being aligned; the initial policy (base) is the model before any training"),
    ("prompt, completion", "a text given to the policy, and the text that it generates in reply"),
    ("iteration", "one round: sample completions, score them, keep the best, fine-tune the policy on those"),
    ("reward", "a function or model that gives each completion a number; training keeps those with the highest"),
    ("gold reward", "a second reward that is only measured, never used to select training data"),
    ("held-out prompts", "prompts that are set aside for measuring and never used for training"),
    ("confidence interval", "a range that would contain the true mean in the stated share of repeated measurements"),
    ("perplexity", "how surprised the policy is by a fixed reference text; lower is better"),
    (
        "KL divergence",
        "Kullback-Leibler divergence: how far the policy has moved from the initial policy; 0 is unchanged",
    ),
    ("nat", "unit of information based on the natural logarithm; 1 nat is about 1.44 bits"),
    ("distinct-1, distinct-2", "share of different words, and of different word pairs, among all that were generated"),
    ("MSTTR-100", "mean segmental type-token ratio: mean share of different words in stretches of 100 words"),
    ("best of K, headroom", "K completions are sampled per prompt; headroom is the best reward minus the mean reward"),
    ("gate", "a limit on a figure; the run stops after an iteration whose policy is outside it"),
    ("quarantined", "failed a check of the data: recorded with the reason, not used for training"),
    (
        "promotion",
        "making a policy the champion, the one to use in production; the ledger records who decided it and why",
    ),
    ("digest, sha256", "a fingerprint of a file; it changes if any byte of the file changes"),
    ("commit", "the record that completes an iteration: the digests of its files and of the commit before it"),
    (
        "LoRA, adapter",
        "low-rank adaptation: training a small set of added weights (the adapter) instead of all weights",
    ),
    ("DeepSpeed, ZeRO", "the training library, and its method of splitting the training state over processes (ranks)"),
    ("determinism fingerprint", "versions and hardware that must be equal for a rerun to give the same bits"),
)
"""Terms and abbreviations of the page, and what they mean."""


def audit_page(dossier: Dossier) -> str:
    """The whole page. The same records always give the same bytes."""
    css = Markup(read_text("audit.css"))
    template = environment().get_template("audit.html.j2")
    return template.render(
        d=dossier,
        v=dossier.verification,
        css=css,
        policy=Markup(content_policy(css)),
        contents=CONTENTS,
        terms=TERMS,
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
    which = "the initial policy" if dossier.iteration == BASE else f"the policy after {label(dossier.iteration)}"
    chosen = "" if dossier.lineage.chosen == "asked for" else f"; {dossier.lineage.chosen}"
    return Markup("This page is about <strong>{}</strong> of run <strong>{}</strong> ({}{}). {}").format(
        which, dossier.run.name, dossier.view.status, chosen, _state(dossier)
    )


def _state(dossier: Dossier) -> str:
    kinds = [entry.kind for entry in dossier.entries if entry.kind in ("promoted", "rolled_back", "withdrawn")]
    if not kinds:
        return "The ledger records no promotion of a policy of this run."
    return f"Latest promotion, rollback or withdrawal of a policy of this run: {kinds[-1].replace('_', ' ')}."


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
    bounds = f"interval [{low}, {high}]; " if now.get(f"{figure.name}_low") is not None else ""
    before, after = base.get(figure.name), now.get(figure.name)
    change = f", {after / before - 1:+.1%}" if figure.better == "lower" and before and after is not None else ""
    return f"{bounds}base {number(before, figure.decimals)}{change.replace('-', '−')}"
