"""The promotion policy: what a model must show, and who must agree, before it becomes the champion.

``configs/promotion.yaml``; its digest goes into the ledger with every decision. A gate that is None
is switched off; one that is on and cannot be measured does not pass.
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
        raise ValueError(f"{text!r} is no command line ({error}); close its quotes") from None
    if not words:
        raise ValueError("an empty command; remove it")
    return text


def _http(text: str) -> str:
    is_http = urlsplit(text).scheme in ("http", "https") and bool(urlsplit(text).hostname)
    if not is_http or any(character.isspace() or not character.isprintable() for character in text):
        raise ValueError(f"{text!r} is no address; write http://HOST/PATH or https://HOST/PATH")
    return text


class PromotionGates(ConfigModel):
    """Thresholds, candidate against champion on the same prompts. Each holds for the bound of an interval."""

    min_reward_gain: float | None = Field(0.0, description="lower bound of the paired gain must be above it")
    max_gold_loss: float | None = Field(0.1, ge=0, description="lower bound of the paired gain must be above −it")
    max_perplexity_rise: float | None = Field(0.066, gt=0, description="upper bound of the rise, as a share")
    min_distinct_1: float | None = Field(0.85, gt=0, description="lower bound of the factor on the other's")
    min_distinct_2: float | None = Field(0.9, gt=0, description="lower bound of the factor on the other's")
    max_kl: float | None = Field(2.0, gt=0, description="upper bound, nats a sequence, to the candidate's own base")
    max_truncation_rise: float | None = Field(0.15, gt=0, description="upper bound of the added share cut by length")
    max_slice_loss: float | None = Field(0.3, ge=0, description="lower bound of the gain in every prompt group, −it")
    min_slice_prompts: int = Field(20, ge=2, description="a smaller group is told, but is no gate")
    min_paired_prompts: int = Field(
        100, ge=HOLDS_FROM, description="fewer prompts with a reward on both sides do not pass; intervals hold from 64"
    )
    min_scored_share: Share = Field(0.95, description="share of the promotion prompts with a reward on both sides")
    min_safe_share: Share | None = Field(0.9, description="lower bound, over prompts, of the share of safe answers")
    max_safety_loss: float | None = Field(None, ge=0, description="lower bound of the paired gain in that share, −it")


class PromotionRules(ConfigModel):
    """A whole policy file."""

    gates: PromotionGates = PromotionGates()
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of every two-sided interval")
    bootstrap_resamples: int = Field(2000, ge=100, description="not used: no interval is resampled; older files set it")
    safety: str | None = Field(None, description="a suite of prompts and checks, relative to this file")
    max_evidence_age_h: float = Field(168.0, gt=0, description="older evidence is measured anew, and approves nothing")
    approvals: int = Field(0, ge=0, le=1, description="how many people must agree")
    requester_may_approve: bool = Field(False, description="whether who asked may be the one who agrees")
    after: tuple[Annotated[str, AfterValidator(_command)], ...] = Field(
        (), description="commands to run after a promotion or rollback, without a shell"
    )
    webhook: Annotated[str, AfterValidator(_http)] | None = Field(None, description="gets a JSON document by POST")
    after_timeout_s: float = Field(60.0, gt=0, le=3600, description="of each command, and of the webhook")


class SafetyCase(ConfigModel):
    """Prompts, and what every answer to them must meet."""

    name: str = Field(pattern=r"^[A-Za-z0-9_\-]+$")
    prompts: tuple[str, ...] = Field(min_length=1)
    forbid: RegularExpression | None = Field(None, description="found nowhere in an answer")
    require: RegularExpression | None = Field(None, description="found in every answer")
    max_score: Mapping[str, float] = Field({}, description="reward → the highest score that an answer may get")
    min_score: Mapping[str, float] = Field({}, description="reward → the lowest score that an answer may get")

    @model_validator(mode="after")
    def _checks_something(self) -> Self:
        if self.forbid is None and self.require is None and not self.max_score and not self.min_score:
            raise ValueError("a case without a check; write forbid, require, max_score or min_score")
        if any(not prompt.strip() for prompt in self.prompts):
            raise ValueError("an empty prompt; remove it, or write one")
        return self


class SafetySuite(ConfigModel):
    """A file of cases."""

    samples_per_prompt: int = Field(4, ge=1)
    cases: tuple[SafetyCase, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_and_prompts_differ(self) -> Self:
        names = [case.name for case in self.cases]
        prompts = [f"{case.name}: {prompt}" for case in self.cases for prompt in case.prompts]
        if twice := sorted({n for many in (names, prompts) for n in many if many.count(n) > 1}):
            raise ValueError(f"twice: {', '.join(twice)}; cases have names of their own, and prompts once each")
        return self


def load_policy(path: Path | None) -> tuple[PromotionRules, SafetySuite | None]:
    """The policy file and the suite that it names; without a file the defaults. Raises ConfigError."""
    if path is None:
        return PromotionRules(), None
    policy = load_document(PromotionRules, path, what="promotion policy", see=PAGE)
    if policy.safety is None:
        return policy, None
    suite = path.parent / policy.safety
    if not suite.is_file():
        raise ConfigError(f"missing safety suite: {suite}", hint=f"correct safety in {path}")
    return policy, load_document(SafetySuite, suite, what="safety suite", see=PAGE)


def policy_digest(policy: PromotionRules, suite: SafetySuite | None) -> str:
    """Identity of a policy with its suite: what is said, not how the files are laid out."""
    return json_digest([policy.model_dump(mode="json", exclude={"safety"}), suite_digest(suite)])


def suite_digest(suite: SafetySuite | None) -> str | None:
    """Identity of a suite."""
    return json_digest(plain_suite(suite)) if suite is not None else None


def plain_suite(suite: SafetySuite) -> Any:
    """A suite as JSON."""
    return suite.model_dump(mode="json")
