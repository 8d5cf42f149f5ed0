"""A Hugging Face model card: what the hub shows of a model, from the records alone."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from flows.exports.dossier import Dossier, counted, label
from flows.exports.sources import named
from flows.text import harmless, number, percent
from raft_core.evaluation.rough import HOLDS_FROM
from raft_core.metrics.registry import in_table, own
from raft_core.records.run import BASE

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&@]|(?<=:)/(?=/)|(?<=www)\.)")


def shown(dossier: Dossier) -> list[tuple[str, str]]:
    """(name, title) of the held-out figures that a card reports: those of a run's table."""
    metrics = [*own(), *dossier.run.config.evaluation.metrics]
    held_out = (figure for metric in metrics if not metric.needs_batch for figure in metric.figures)
    return [(figure.name, figure.title) for figure in in_table(held_out)]


def model_card(dossier: Dossier) -> str:
    """README.md of the policy: metadata block, then Markdown. The same records give the same text."""
    from huggingface_hub import ModelCard, ModelCardData

    lora = dossier.run.config.finetuning.lora is not None and dossier.iteration != BASE
    data = ModelCardData(
        model_name=dossier.model_name,
        library_name="peft" if lora else "transformers",
        pipeline_tag="text-generation",
        tags=["raft", "reward-ranked-fine-tuning", *(["lora"] if lora else [])],
        license="other",
        license_name="that-of-its-parts",
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
            "## Parts and licences",
            "",
            *_parts(dossier),
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
            metric_type=name,
            metric_name=title,
            metric_value=round(float(dossier.report[name]), 6),
        )
        for name, title in shown(dossier)
        if dossier.report.get(name) is not None
    ]


def _withdrawn(dossier: Dossier) -> list[str]:
    """The first lines of the card of a policy that nobody is to use; none for others."""
    gone = dossier.withdrawal
    return [f"> **{plain(gone.notice)}**", ">", f"> {plain(gone.told)}. Do not use it.", ""] if gone else []


def _opening(dossier: Dossier) -> str:
    source = plain(dossier.base.policy.source or "its own weights")
    if dossier.iteration == BASE:
        return f"The initial policy of run {plain(dossier.run.name)}: {source}."
    trained = f"{dossier.iteration + 1} iteration{'s' if dossier.iteration else ''}"
    kind = "A LoRA adapter" if dossier.link.policy.base else "A full checkpoint"
    return (
        f"{kind}: {source} aligned by RAFT (reward-ranked fine-tuning, Dong et al. 2023, arXiv:2304.06767) "
        f"in {trained}. In each, completions were sampled, scored by rewards, validated, the best kept, and trained on."
    )


def _use(dossier: Dossier) -> list[str]:
    rewards = ", ".join(plain(p.role) for p in named(dossier) if p.role.startswith("reward"))
    return [
        f"It was made to score higher on {rewards} for prompts like those below, and was measured on nothing else. "
        "Use it for that, or as a starting point; test it on your own task before you serve it."
    ]


def _figures(dossier: Dossier) -> list[str]:
    rows = []
    for name, title in shown(dossier):
        before, after = dossier.reports[0].get(name), dossier.report.get(name)
        low, high = dossier.report.get(f"{name}_low"), dossier.report.get(f"{name}_high")
        interval = f"{number(low, 3)} to {number(high, 3)}" if low is not None else ""
        if after is not None:
            rows.append([title, number(before, 3), number(after, 3), interval])
    confidence = f"{dossier.run.config.evaluation.confidence:.0%}"
    count = number(dossier.report.get("num_prompts"), 0)
    rough = ", rough for so few prompts" if (dossier.report.get("num_prompts") or 0) < HOLDS_FROM else ""
    return [
        f"On the same {count} held-out prompts; intervals: {confidence}{rough}.",
        "",
        *table(["figure", "initial policy", "this policy", "interval"], rows),
    ]


def _data(dossier: Dossier) -> list[str]:
    links = [link for link in dossier.lineage.links if link.iteration != BASE]
    if not links:
        return ["None: it was not trained by this run."]
    rows = [
        [label(link.iteration), *(counted(link, name) for name in ("prompts", "samples", "quarantined", "selected"))]
        for link in reversed(links)
    ]
    since = " Rows that were erased on purpose since are counted: it was trained with them."
    return [
        "Every completion that it was trained on was sampled from the policy before it; prompts and sources stand "
        "in the run's tables (a dash: not on the machine that wrote this card)."
        + (since if any(link.counts.erased for link in links) else ""),
        "",
        *table(["", "prompts", "sampled", "quarantined", "selected"], rows),
    ]


def _made(dossier: Dossier) -> list[str]:
    config, numerics = dossier.run.config, dossier.commit.content.get("numerics", {})
    tuning, sampling = config.finetuning, config.sampling
    weights = f"LoRA r {tuning.lora.r}" if tuning.lora else "all weights"
    facts = [
        f"sampling: {sampling.samples_per_prompt} completions of {sampling.prompts_per_iteration} prompts an "
        f"iteration, temperature {sampling.temperature:g}, at most {sampling.max_new_tokens} tokens",
        f"selection: {config.selection.type}",
        f"fine-tuning: {weights}, learning rate {tuning.learning_rate:g}",
        f"gates: {dossier.view.status}; {dossier.view.reason}".replace(" -> ", " → "),
        f"numerics: {', '.join(f'{key} {value}' for key, value in sorted(numerics.items()))}",
        f"code of the model folder: {'run (trust_remote_code)' if config.policy.trust_remote_code else 'not run'}",
        f"seed: {config.seed}",
    ]
    return [f"- {plain(fact)}" for fact in facts]


def _limits(dossier: Dossier) -> list[str]:
    report = dossier.report
    lines = [
        "- A reward model is not the taste that it stands for: a policy that is trained against it long enough "
        "exploits it. The gates watch KL, perplexity and diversity for that; they cannot exclude it.",
        "- It inherits what its initial policy and the people behind the rewards got wrong.",
    ]
    if report.get("truncation"):
        lines.append(f"- {percent(report['truncation'])} of its held-out completions were cut by the length limit.")
    slices = {name: value for name, value in (report.get("slices") or {}).items() if value is not None}
    if len(slices) > 1:
        worst = min(slices, key=lambda name: (slices[name], name))
        among = f"reward {number(slices[worst])}, all groups {number(report.get('reward'))}"
        lines.append(f"- It does worst on the group {plain(worst)} ({among}).")
    return lines


def _parts(dossier: Dossier) -> list[str]:
    rows = [[part.role, part.reference, part.licence] for part in named(dossier)]
    return [
        *table(["part", "reference", "made from, licence"], rows),
        "",
        "Check what these allow before you publish the weights.",
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
        *table(["what", "sha256"], [[name, digest] for name, digest in facts]),
        "",
        "`raft lineage show` and `raft lineage verify` follow them back to the first prompts.",
    ]


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A Markdown table whose cells stay cells."""
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    return lines + [f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows]
