"""The evidence of a promotion: what one policy answers to the promotion prompts, which nothing else reads.

promotions/KEY/           KEY: the content address of policy, prompts, settings, rewards and suite
  evaluation.parquet, perplexity.parquet, safety.parquet
  evidence.json           what was measured
promotions/KEY.json       when it was measured (kept outside the hashed folder)
promotions/KEY.DIGEST/    older evidence, measured before and too old since: the ledger names it by its digest

Evidence is about one policy, so the evidence of a champion is used against every later candidate.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError, InputError
from raft_core.files.artifacts import digest_of, json_digest, write_json
from raft_core.files.locks import exclusive
from raft_core.files.plain_json import read_json
from raft_core.forgetting.exclusions import read_exclusions, without
from raft_core.policies.base import OpenSampler, modality
from raft_core.promotion.pairs import Evidence
from raft_core.promotion.requests import CLOCKS_DIFFER
from raft_core.promotion.rules import SafetyCase, SafetySuite, suite_digest
from raft_core.prompts.splits import split_prompts
from raft_core.records.pinned import check_pins
from raft_core.records.steps import StepKey, run_cached
from raft_core.records.tables import EVALUATION, PERPLEXITY, PROMPTS, SAFETY, read_table, to_table, write_table
from raft_core.references import resolve
from raft_core.rewards.load import Rewards, check_rewards
from raft_core.types import Progress, Prompt, Sample
from tasks.loop.iteration import derived_seed
from tasks.loop.measure import (
    Subject,
    answer,
    base_logprobs,
    components,
    evaluation_table,
    measuring_key,
    perplexity_table,
    sample_all,
    score_samples,
)
from tasks.loop.prepare import perplexity_texts
from tasks.loop.template_date import refuse_undated
from tasks.promotion.verified import VerifiedPolicy

Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Examination:
    """The prompts that both sides answer, and how answers are scored: from the candidate's configuration."""

    config: RaftConfig
    prompts: tuple[Prompt, ...]
    texts: tuple[str, ...]
    rewards: Rewards
    suite: SafetySuite | None
    num_left_out: int
    """Promotion prompts left out because one side was trained on them."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """Evidence of one policy: its tables, the digest of their folder, and when it was measured."""

    evidence: Evidence
    digest: str
    folder: Path
    time: str


def examination(candidate: VerifiedPolicy, reference: VerifiedPolicy, suite: SafetySuite | None) -> Examination:
    """Read and check the prompts, texts, rewards and suite of a comparison.

    Prompts that either side was trained on (another run may have split them differently) are left out, and so are
    excluded ones.

    Raises InputError if no promotion prompt is left, ConfigError for a suite that names an unknown reward, and if the
    code of a reward is not the one that the candidate was made with.
    """
    config = candidate.run.config
    splits = split_prompts(config.prompts, config.seed, resolve)
    workspace = candidate.run.path.parent.parent
    prompts = without(splits, read_exclusions(workspace))[0].promotion
    if not prompts:
        raise InputError(
            f"run {candidate.run.name} has no promotion prompts",
            expected="prompts that are neither trained on nor held out",
            hint="set prompts.promotion (a file) or prompts.promotion_share, then align again",
        )
    seen = {prompt for side in (candidate, reference) for prompt in _trained_on(side)}
    unseen = tuple(prompt for prompt in prompts if prompt.prompt_id not in seen)
    if not unseen:
        raise InputError(
            f"no promotion prompt is left to compare {candidate.ref} with {reference.ref}",
            got=f"one side was trained on each of the {len(prompts)} prompts",
            expected="prompts that neither side was trained on",
            hint="give the run a promotion split of its own (prompts.promotion), then align again",
        )
    rewards = check_rewards(config.scoring)
    check_pins(candidate.run, rewards.sources)
    if suite is not None:
        _check_suite(suite, rewards)
    texts, _ = perplexity_texts(config, workspace)
    return Examination(config, unseen, tuple(texts), rewards, suite, len(prompts) - len(unseen))


def check_side(side: VerifiedPolicy, exam: Examination, store: Path, *, now: datetime, max_age: timedelta) -> None:
    """Raise InputError for a policy that cannot answer these prompts, before any model loads.

    Existing evidence shows that it can; then nothing is checked and no library is imported.
    """
    _, key = _measurement(side, exam)
    if not _is_young(store / f"{key.digest}.json", now, max_age):
        refuse_undated(side.run)
        asked = [*exam.prompts, *(_suite_prompts(exam.suite) if exam.suite else ())]
        modality(side.run.config.policy.type).checkpoint.check(side.run.config.policy, asked, exam.config.sampling)


def gather(
    side: VerifiedPolicy,
    exam: Examination,
    store: Path,
    *,
    now: datetime,
    max_age: timedelta,
    progress: Progress,
    warn: Warn,
) -> Gathered:
    """The evidence of one side, measured unless it was measured within ``max_age``.

    If two processes need it at once, one measures and the other waits. ``store``: the folder ``promotions``.
    """
    subject, key = _measurement(side, exam)
    folder, when = store / key.digest, store / f"{key.digest}.json"

    def compute() -> None:
        aside, work = (store / f".{key.digest}.{kind}" for kind in ("aside", "work"))
        shutil.rmtree(aside, ignore_errors=True)
        _measure(subject, exam, aside, work, progress, warn)
        write_json(aside / "evidence.json", {"inputs": dict(key.inputs), "settings": key.settings})
        aside.rename(folder)
        shutil.rmtree(work, ignore_errors=True)
        write_json(when, {"time": now.isoformat()})

    with exclusive(store / f".{key.digest}.lock"):
        if not _is_young(when, now, max_age):
            _keep_aside(folder)
            (store / ".steps" / f"{key.digest}.json").unlink(missing_ok=True)
        run_cached(store, key, {"evidence": folder}, compute)
        measured = _time(when) or now
    return Gathered(_read(folder), digest_of(folder), folder, measured.isoformat())


def drop_evidence(store: Path, key: str) -> None:
    """Remove all evidence under ``key``, older folders and scratch included. Waits for a process that measures it."""
    with exclusive(store / f".{key}.lock"):
        for path in (store / f"{key}.json", store / ".steps" / f"{key}.json"):
            path.unlink(missing_ok=True)
        for folder in (*evidence_folders(store, key), *(store / f".{key}.{kind}" for kind in ("aside", "work"))):
            shutil.rmtree(folder, ignore_errors=True)


def evidence_folders(store: Path, key: str) -> list[Path]:
    """The folders of evidence under ``key``: the present one, then older ones."""
    return [path for path in (store / key, *sorted(store.glob(f"{key}.*"))) if path.is_dir()]


def _keep_aside(folder: Path) -> None:
    """Rename evidence that is too old to ``KEY.DIGEST``, because an entry of the ledger may name it."""
    if not folder.exists():
        return
    kept = folder.with_name(f"{folder.name}.{digest_of(folder)[:12]}")
    if kept.exists():
        shutil.rmtree(folder)
    else:
        folder.rename(kept)


def _measurement(side: VerifiedPolicy, exam: Examination) -> tuple[Subject, StepKey]:
    """What is measured of one side, and its content address."""
    subject = Subject(side.policy, side.base, exam.config, side.run.config.policy, derived_seed("promotion"))
    prompts = json_digest([[p.prompt_id, p.group] for p in exam.prompts])
    suite = suite_digest(exam.suite)
    return subject, measuring_key("promotion", subject, prompts, exam.texts, exam.rewards, suite=suite)


def _measure(subject: Subject, exam: Examination, out: Path, work: Path, progress: Progress, warn: Warn) -> None:
    with subject.open(subject.policy) as model:
        answers = answer(subject, model, exam.prompts, exam.texts, work / "prompts", progress)
        judged = _judge(subject, model, exam, work / "suite", progress, warn) if exam.suite is not None else None
    del model  # before the base policy needs the memory
    is_base = subject.policy.identity == subject.base.identity
    under_base = answers.policy_logprobs if is_base else base_logprobs(subject, answers.samples)
    table = evaluation_table(
        answers, under_base, exam.prompts, exam.rewards, exam.config.scoring.max_failed_share, warn
    )
    write_table(out / "evaluation.parquet", table, EVALUATION)
    write_table(out / "perplexity.parquet", perplexity_table(answers, exam.texts), PERPLEXITY)
    if judged is not None:
        write_table(out / "safety.parquet", to_table(SAFETY, judged), SAFETY)


def _read(folder: Path) -> Evidence:
    safety = folder / "safety.parquet"
    return Evidence(
        read_table(folder / "evaluation.parquet", EVALUATION),
        read_table(folder / "perplexity.parquet", PERPLEXITY),
        read_table(safety, SAFETY) if safety.exists() else None,
    )


def _trained_on(side: VerifiedPolicy) -> Iterator[str]:
    for iteration in range(side.ref.iteration + 1):
        yield from read_table(side.run.table(iteration, "prompts"), PROMPTS, ["prompt_id"])["prompt_id"].to_pylist()


def _is_young(when: Path, now: datetime, max_age: timedelta) -> bool:
    """Whether evidence is neither too old nor dated in the future, which would leave its age unknown."""
    return (time := _time(when)) is not None and -CLOCKS_DIFFER <= now - time <= max_age


def _time(path: Path) -> datetime | None:
    try:
        measured = datetime.fromisoformat(read_json(path)["time"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return measured if measured.tzinfo is not None else None


# -- the safety suite ------------------------------------------------------------------------------


def _suite_prompts(suite: SafetySuite) -> list[Prompt]:
    return [Prompt.of(text) for text in dict.fromkeys(text for case in suite.cases for text in case.prompts)]


def _check_suite(suite: SafetySuite, rewards: Rewards) -> None:
    named = {name for case in suite.cases for name in (*case.max_score, *case.min_score)}
    if unknown := sorted(named - rewards.identities.keys()):
        raise ConfigError(
            f"the safety suite names rewards that the run does not have: {', '.join(unknown)}",
            expected=f"rewards of the run: {', '.join(rewards.identities)}",
            hint="correct max_score and min_score in the suite",
        )


def _judge(
    subject: Subject, model: OpenSampler, exam: Examination, work: Path, progress: Progress, warn: Warn
) -> list[dict[str, Any]]:
    """SAFETY rows: one per case and answer to one of its prompts."""
    assert exam.suite is not None
    prompts = _suite_prompts(exam.suite)
    known = {prompt.prompt_id: prompt for prompt in prompts}
    sampling, num = exam.config.sampling, exam.suite.samples_per_prompt
    samples = sample_all(model, prompts, sampling, num, subject.seed, work, progress)
    scores = components(*score_samples(samples, known, exam.rewards, exam.config.scoring.max_failed_share, warn))
    return [
        {
            "case": case.name,
            "prompt_id": sample.prompt_id,
            "prompt": known[sample.prompt_id].text,
            "sample_id": sample.sample_id,
            "completion": sample.completion,
            "finish_reason": sample.finish_reason,
            "failed": (failed := ", ".join(failures(case, sample, own))),
            "passed": not failed,
            "components": own,
        }
        for case in exam.suite.cases
        for sample, own in zip(samples, scores, strict=True)
        if known[sample.prompt_id].text in case.prompts
    ]


def failures(case: SafetyCase, sample: Sample, scores: Sequence[dict[str, Any]]) -> list[str]:
    """Which checks of a case an answer fails. A score that is missing fails its check."""
    got = {score["name"]: score["score"] for score in scores}
    found = []
    if sample.finish_reason == "error":
        found.append(f"no answer: {sample.reason}")
    if case.forbid is not None and re.search(case.forbid, sample.completion):
        found.append("forbid")
    if case.require is not None and not re.search(case.require, sample.completion):
        found.append("require")
    for name, limit in case.max_score.items():
        if got.get(name) is None or not got[name] <= limit:
            found.append(f"max_score {name}")
    for name, limit in case.min_score.items():
        if got.get(name) is None or not got[name] >= limit:
            found.append(f"min_score {name}")
    return found
