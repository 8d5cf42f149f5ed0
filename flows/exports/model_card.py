"""A Hugging Face model card: the page that a model hub shows, written from the records alone."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from flows.exports.dossier import Dossier, counted, label
from flows.exports.form import ADAPTER, fine_tuning, form
from flows.exports.sources import named
from flows.text import harmless, number, percent
from raft_core.evaluation.rough import HOLDS_FROM
from raft_core.metrics.base import Figure
from raft_core.metrics.registry import in_table, own
from raft_core.records.run import BASE

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

DIGITS = 12
"""Digits of a sha256 that a table of components shows."""
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&@]|(?<=:)/(?=/)|(?<=www)\.)")


def shown(dossier: Dossier) -> list[Figure]:
    """The held-out figures that a card reports: those of a run's table."""
    metrics = [*own(), *dossier.run.config.evaluation.metrics]
    held_out = (figure for metric in metrics if not metric.needs_batch for figure in metric.figures)
    return in_table(held_out)


def model_card(dossier: Dossier) -> str:
    """README.md of the policy: metadata block, then Markdown. The same records give the same text."""
    from huggingface_hub import ModelCard, ModelCardData

    kind = form(dossier)
    data = ModelCardData(
        model_name=dossier.model_name,
        library_name=kind.library,
        pipeline_tag=kind.task,
        tags=["raft", "reward-ranked-fine-tuning", *(["lora"] if kind.library == "peft" else [])],
        license="other",
        license_name="see-components-and-licences",
        eval_results=_results(dossier),
    )
    body = "\n".join(
        [
            *_withdrawn(dossier),
            f"# {plain(dossier.model_name)}, {label(dossier.iteration)}",
            "",
            _opening(dossier),
            "",
            "## Intended use",
            "",
            *_use(dossier),
            "",
            "## How to load it",
            "",
            *_loading(dossier),
            "",
            "## Figures",
            "",
            *_figures(dossier),
            "",
            "## Data",
            "",
            *_data(dossier),
            "",
            "## How it was made",
            "",
            *_made(dossier),
            "",
            "## Limits and risks",
            "",
            *_limits(dossier),
            "",
            "## Components and licences",
            "",
            *_components(dossier),
            "",
            "## Digests",
            "",
            *_digests(dossier),
            "",
        ]
    )
    return str(ModelCard(f"---\n{data.to_yaml(line_break=chr(10))}\n---\n\n{body}").content)


def plain(text: object) -> str:
    """``text`` in one line of Markdown that stays text: no markup, no link, no HTML."""
    return _SPECIAL.sub(r"\\\1", harmless(str(text))).replace("\\<", "&lt;").replace("\\&", "&amp;")


def _results(dossier: Dossier) -> "list[EvalResult]":
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="held-out-prompts",
            dataset_name="held-out prompts of the run",
            dataset_revision=dossier.chain[0].outputs.get("tables/prompts.parquet"),
            metric_type=figure.name,
            metric_name=figure.title,
            metric_value=round(float(dossier.report[figure.name]), 6),
        )
        for figure in shown(dossier)
        if dossier.report.get(figure.name) is not None
    ]


def _withdrawn(dossier: Dossier) -> list[str]:
    """The first lines of the card of a withdrawn policy; empty for others."""
    gone = dossier.withdrawal
    return [f"> **{plain(gone.notice)}**", ">", f"> {plain(gone.statement)}. Do not use it.", ""] if gone else []


def _opening(dossier: Dossier) -> str:
    source = plain(dossier.base.policy.source or "an unnamed model")
    if dossier.iteration == BASE:
        return f"The initial policy of run {plain(dossier.run.name)}, {form(dossier).noun}: {source}."
    count = dossier.iteration + 1
    return (
        f"This is {form(dossier).noun}. RAFT (reward-ranked fine-tuning, Dong et al. 2023, arXiv:2304.06767) aligned "
        f"{source} in {count} iteration{'s' if count > 1 else ''}. Each iteration sampled completions, scored them "
        "with rewards, validated them, kept the best, and fine-tuned the policy on those."
    )


def _use(dossier: Dossier) -> list[str]:
    rewards = ", ".join(plain(p.role) for p in named(dossier) if p.role.startswith("reward"))
    return [
        f"It was trained to score higher on {rewards} for prompts like those described below. Other tasks "
        "were not measured. Use it for such prompts or as a starting point, and test it on your own task before you "
        "serve it."
    ]


def _loading(dossier: Dossier) -> list[str]:
    lines = ["```python", *form(dossier).loading.splitlines(), "```"]
    if form(dossier) is ADAPTER:
        lines += ["", "`raft pull` writes the adapter and the initial policy merged into one transformers folder."]
    return lines


def _figures(dossier: Dossier) -> list[str]:
    rows = []
    for figure in shown(dossier):
        name, title = figure.name, figure.title
        before, after = dossier.reports[0].get(name), dossier.report.get(name)
        low, high = dossier.report.get(f"{name}_low"), dossier.report.get(f"{name}_high")
        interval = f"{number(low, 3)} to {number(high, 3)}" if low is not None else ""
        if after is not None:
            rows.append([title, number(before, 3), number(after, 3), interval])
    confidence = f"{dossier.run.config.evaluation.confidence:.0%}"
    count = number(dossier.report.get("num_prompts"), 0)
    rough = "; rough, because there are few prompts" if (dossier.report.get("num_prompts") or 0) < HOLDS_FROM else ""
    return [
        f"Both policies completed the same {count} held-out prompts. The last column is the {confidence} confidence "
        f"interval of this policy{rough}.",
        "",
        *table(["figure", "initial policy", "this policy", f"{confidence} interval"], rows),
        "",
        *(
            f"- {figure.title[:1].upper()}{figure.title[1:]}: {figure.meaning}."
            for figure in shown(dossier)
            if figure.meaning and dossier.report.get(figure.name) is not None
        ),
    ]


def _data(dossier: Dossier) -> list[str]:
    links = [link for link in dossier.lineage.links if link.iteration != BASE]
    if not links:
        return ["None: this run did not train it."]
    rows = [
        [label(link.iteration), *(counted(link, name) for name in ("prompts", "samples", "quarantined", "selected"))]
        for link in reversed(links)
    ]
    since = " Rows that were erased on purpose later are counted, because the policy was trained on them."
    return [
        "Every completion that it was trained on was sampled from the policy of the iteration before. The prompts and "
        "their sources are in the tables of the run. A dash means that the table was not on the machine that wrote "
        "this card. Quarantined completions failed a check of the data and were not used."
        + (since if any(link.counts.erased for link in links) else ""),
        "",
        *table(["", "prompts", "sampled", "quarantined", "selected"], rows),
    ]


def _made(dossier: Dossier) -> list[str]:
    config, fingerprint = dossier.run.config, dossier.commit.content.get("numerics", {})
    sampling = config.sampling
    facts = [
        f"sampling: {sampling.prompts_per_iteration} prompts per iteration, {sampling.samples_per_prompt} completions "
        f"per prompt, temperature {sampling.temperature:g}, at most {sampling.max_new_tokens} tokens",
        f"selection: {config.selection.type}",
        f"fine-tuning: {fine_tuning(dossier)}",
        f"end of the run: {dossier.view.status}; {dossier.view.reason}".replace(" -> ", " → "),
        "determinism fingerprint (what must be equal to get the same bits): "
        f"{', '.join(f'{key} {value}' for key, value in sorted(fingerprint.items()))}",
        f"code of the model folder: {'run (trust_remote_code)' if config.policy.trust_remote_code else 'not run'}",
        f"seed: {config.seed}",
    ]
    return [f"- {plain(fact)}" for fact in facts]


def _limits(dossier: Dossier) -> list[str]:
    report = dossier.report
    lines = [
        "- A reward only approximates what people want, and a policy that is trained on it long enough exploits it. "
        "Gates limit the KL divergence, the perplexity and the loss of diversity; they cannot rule it out.",
        "- It inherits the errors and biases of its initial policy and of the rewards.",
    ]
    if report.get("truncation"):
        lines.append(f"- {percent(report['truncation'])} of its held-out completions were cut at the length limit.")
    slices = {name: value for name, value in (report.get("slices") or {}).items() if value is not None}
    if len(slices) > 1:
        worst = min(slices, key=lambda name: (slices[name], name))
        among = f"reward {number(slices[worst])}, all groups {number(report.get('reward'))}"
        lines.append(f"- Its weakest group of prompts is {plain(worst)} ({among}).")
    return lines


def _components(dossier: Dossier) -> list[str]:
    rows = [[part.role, part.reference, part.licence, (part.digest or "–")[:DIGITS]] for part in named(dossier)]
    return [
        *table(["component", "reference", "made from, licence", f"sha256, first {DIGITS} digits"], rows),
        "",
        "Check these licences before you publish the weights.",
    ]


def _digests(dossier: Dossier) -> list[str]:
    facts = [
        ("commit", dossier.link.commit),
        ("policy folder", dossier.link.policy.digest),
        ("policy identity", dossier.link.policy.identity),
        ("initial policy", dossier.base.policy.digest),
        ("configuration", dossier.link.config),
    ]
    return [
        *table(["what", "digest"], [[name, digest] for name, digest in facts]),
        "",
        "`raft lineage show` follows them back to the first prompts; `raft lineage verify` hashes the files again.",
    ]


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A Markdown table whose cells stay cells."""
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    return lines + [f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows]
