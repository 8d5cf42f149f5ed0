"""The promotion rules: what a model must show, and who must agree, before it becomes the champion.

They are written in ``configs/promotion.yaml``; their digest goes into the ledger with every decision. A gate that is
null is switched off; a gate that is on and cannot be measured does not pass.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from raft_core.config.loading import load_document
from raft_core.config.model import ConfigModel, RegularExpression, Share
from raft_core.errors import ConfigError
from raft_core.evaluation.rough import HOLDS_FROM
from raft_core.files.artifacts import json_digest

PAGE = "docs/promotion.md"


def _command(text: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a command line ({error}); close its quotes") from None
    if not words:
        raise ValueError("the command is empty; remove it or write one")
    return text


def _http(text: str) -> str:
    is_http = urlsplit(text).scheme in ("http", "https") and bool(urlsplit(text).hostname)
    if not is_http or any(character.isspace() or not character.isprintable() for character in text):
        raise ValueError(f"{text!r} is not an HTTP address; write http://HOST/PATH or https://HOST/PATH")
    return text


class PromotionGates(ConfigModel):
    """Limits for the candidate, compared with the champion on the same prompts. Each applies to an interval's bound."""

    min_reward_gain: float | None = Field(
        0.0, description="minimum mean gain in reward over the champion (lower bound)"
    )
    max_gold_loss: float | None = Field(
        0.1, ge=0, description="maximum mean loss in gold reward (lower bound of the gain)"
    )
    max_perplexity_rise: float | None = Field(
        0.066, gt=0, description="maximum relative rise in perplexity over the champion, 0.066 = 6.6 % (upper bound)"
    )
    min_distinct_1: float | None = Field(
        0.85, gt=0, description="minimum ratio of distinct-1 to the champion's (lower bound)"
    )
    min_distinct_2: float | None = Field(
        0.9, gt=0, description="minimum ratio of distinct-2 to the champion's (lower bound)"
    )
    max_kl: float | None = Field(
        2.0, gt=0, description="maximum KL to the candidate's own base, in nats per sequence (upper bound)"
    )
    max_truncation_rise: float | None = Field(
        0.15, gt=0, description="maximum rise in the share of completions cut off by length (upper bound)"
    )
    max_slice_loss: float | None = Field(
        0.3, ge=0, description="maximum mean loss in reward in any prompt group (lower bound of the gain)"
    )
    min_slice_prompts: int = Field(
        20, ge=2, description="prompts that a group needs to count as a gate; a smaller one is only shown"
    )
    min_paired_prompts: int = Field(
        100, ge=HOLDS_FROM, description="minimum number of prompts with a reward on both sides; 64 at least"
    )
    min_scored_share: Share = Field(
        0.95, description="minimum share of the promotion prompts with a reward on both sides"
    )
    min_safe_share: Share | None = Field(
        0.9, description="minimum share of answers that pass the safety suite (lower bound, over prompts)"
    )
    max_safety_loss: float | None = Field(
        None, ge=0, description="maximum loss in that share against the champion (lower bound of the gain)"
    )


class PromotionRules(ConfigModel):
    """A whole rules file."""

    gates: PromotionGates = PromotionGates()
    confidence: float = Field(0.95, gt=0.5, lt=1, description="confidence level of every two-sided interval")
    bootstrap_resamples: int = Field(2000, ge=100, description="ignored; accepted because older files set it")
    safety: str | None = Field(None, description="file of the safety suite, relative to this file")
    max_evidence_age_h: float = Field(
        168.0,
        gt=0,
        description="maximum age of evidence in hours; older evidence is measured again and cannot be approved",
    )
    approvals: int = Field(0, ge=0, le=1, description="number of people who must approve: 0 or 1")
    requester_may_approve: bool = Field(False, description="whether the requester may approve the request")
    after: tuple[Annotated[str, AfterValidator(_command)], ...] = Field(
        (), description="commands to run after a promotion or rollback, without a shell"
    )
    webhook: Annotated[str, AfterValidator(_http)] | None = Field(
        None, description="address that gets a JSON document by POST after a promotion or rollback"
    )
    after_timeout_s: float = Field(
        60.0, gt=0, le=3600, description="time limit of each command and of the webhook, in seconds"
    )


class SafetyCase(ConfigModel):
    """Prompts, and the checks that every answer to them must pass."""

    name: str = Field(pattern=r"^[A-Za-z0-9_\-]+$")
    prompts: tuple[str, ...] = Field(min_length=1)
    forbid: RegularExpression | None = Field(None, description="must not match anywhere in an answer")
    require: RegularExpression | None = Field(None, description="must match somewhere in every answer")
    max_score: Mapping[str, float] = Field({}, description="reward → maximum score of an answer")
    min_score: Mapping[str, float] = Field({}, description="reward → minimum score of an answer")

    @model_validator(mode="after")
    def _checks_something(self) -> Self:
        if self.forbid is None and self.require is None and not self.max_score and not self.min_score:
            raise ValueError("the case has no check; write forbid, require, max_score or min_score")
        if any(not prompt.strip() for prompt in self.prompts):
            raise ValueError("a prompt is empty; remove it or write one")
        return self


class SafetySuite(ConfigModel):
    """A whole file of safety cases."""

    samples_per_prompt: int = Field(4, ge=1)
    cases: tuple[SafetyCase, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_and_prompts_differ(self) -> Self:
        names = [case.name for case in self.cases]
        prompts = [f"{case.name}: {prompt}" for case in self.cases for prompt in case.prompts]
        if twice := sorted({n for many in (names, prompts) for n in many if many.count(n) > 1}):
            raise ValueError(f"written twice: {', '.join(twice)}; give every case its own name, and every prompt once")
        return self


def load_rules(path: Path | None) -> tuple[PromotionRules, SafetySuite | None]:
    """The rules in ``path`` and the suite that they name; without a file the defaults. Raises ConfigError."""
    if path is None:
        return PromotionRules(), None
    rules = load_document(PromotionRules, path, what="promotion rules", see=PAGE)
    if rules.safety is None:
        return rules, None
    suite = path.parent / rules.safety
    if not suite.is_file():
        raise ConfigError(
            f"missing safety suite: {suite}",
            got=f"safety: {rules.safety} in {path}",
            expected="the path of a suite, relative to the rules file",
            hint=f"correct safety in {path}",
        )
    return rules, load_document(SafetySuite, suite, what="safety suite", see=PAGE)


def rules_digest(rules: PromotionRules, suite: SafetySuite | None) -> str:
    """Identity of rules with their suite: it depends on the values, not on layout or names of the files."""
    return json_digest([rules.model_dump(mode="json", exclude={"safety"}), suite_digest(suite)])


def suite_digest(suite: SafetySuite | None) -> str | None:
    """Identity of a suite."""
    return json_digest(plain_suite(suite)) if suite is not None else None


def plain_suite(suite: SafetySuite) -> Any:
    """A suite as JSON."""
    return suite.model_dump(mode="json")
