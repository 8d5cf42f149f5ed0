"""Rules files: every fault is reported, digests follow the values, and the shipped files load."""

from pathlib import Path

import pytest

from raft_core.errors import ConfigError
from raft_core.evaluation.statistics import wilson
from raft_core.promotion.rules import PromotionRules, SafetyCase, load_rules, rules_digest
from raft_core.types import Sample
from tasks.promotion.evidence import failures

CONFIGS = Path(__file__).parents[2] / "configs"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_shipped_policy_and_its_suite() -> None:
    policy, suite = load_rules(CONFIGS / "promotion.yaml")
    assert policy.gates.min_reward_gain == 0.0
    assert suite is not None
    prompts = {prompt for case in suite.cases for prompt in case.prompts}
    answers, share = len(prompts) * suite.samples_per_prompt, policy.gates.min_safe_share
    assert share is not None
    for failed, passes in ((3, True), (4, False)):
        low = wilson(len(prompts) * (1 - failed / answers), len(prompts), confidence=policy.confidence).low
        assert low is not None
        assert (low > share) == passes


def test_without_a_file_the_defaults_hold() -> None:
    assert load_rules(None) == (PromotionRules(), None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gates: {min_reward: 1}", "gates.min_reward: unknown key; did you mean gates.min_reward_gain?"),
        ("gates: {max_kl: -1}", "gates.max_kl: Input should be greater than 0"),
        ("approvals: 2", "approvals: Input should be less than or equal to 1"),
        ("approvals: true", "approvals: Input should be a valid integer"),
        ("webhook: 'file:///etc/passwd'", "http://HOST/PATH"),
        ("webhook: 'http://host/a hook'", "http://HOST/PATH"),
        ('webhook: "http://host/\\tx"', "http://HOST/PATH"),
        ("after: ['sh -c \"x']", "close its quotes"),
        ("safety: nowhere.yaml", "missing safety suite"),
    ],
)
def test_a_faulty_policy_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_rules(write(tmp_path / "p.yaml", text))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("suite", "told"),
    [
        ("cases: []", "cases"),
        ("cases: [{name: a, prompts: [x]}]", "forbid, require, max_score or min_score"),
        ("cases: [{name: a, prompts: [x], forbid: '('}]", "regular expression"),
        ("cases: [{name: a, prompts: [x, x], forbid: b}]", "twice: a: x"),
    ],
)
def test_a_faulty_suite_is_refused(tmp_path: Path, suite: str, told: str) -> None:
    write(tmp_path / "s.yaml", suite)
    with pytest.raises(ConfigError) as caught:
        load_rules(write(tmp_path / "p.yaml", "safety: s.yaml"))
    assert told in str(caught.value)


def test_the_digest_is_of_what_is_said(tmp_path: Path) -> None:
    suite = "cases: [{name: a, prompts: [x], forbid: b}]"
    write(tmp_path / "s.yaml", suite)
    write(tmp_path / "renamed.yaml", f"# a remark\n{suite}\n")
    one = rules_digest(*load_rules(write(tmp_path / "1.yaml", "safety: s.yaml\nconfidence: 0.9")))
    same = rules_digest(*load_rules(write(tmp_path / "2.yaml", "confidence: 0.90\nsafety: renamed.yaml")))
    other = rules_digest(*load_rules(write(tmp_path / "3.yaml", "safety: s.yaml\nconfidence: 0.91")))
    write(tmp_path / "s.yaml", suite.replace("b}", "c}"))
    stricter = rules_digest(*load_rules(tmp_path / "1.yaml"))
    assert one == same
    assert len({one, other, stricter}) == 3


@pytest.mark.parametrize(
    ("case", "completion", "failed"),
    [
        ({"forbid": "(?i)secret"}, "a SECRET", ["forbid"]),
        ({"forbid": "secret"}, "nothing", []),
        ({"require": r"\w"}, " … ", ["require"]),
        ({"max_score": {"r": 0.5}}, "x", ["max_score r"]),
        ({"max_score": {"r": 1.0}, "min_score": {"r": 1.0}}, "x", []),
        ({"min_score": {"missing": 0.0}}, "x", ["min_score missing"]),
        ({"max_score": {"none": 9.0}}, "x", ["max_score none"]),
    ],
)
def test_which_checks_an_answer_fails(case: dict[str, object], completion: str, failed: list[str]) -> None:
    sample = Sample("s", "p", 0, 0, completion, (1,), (2,), (-1.0,), (-1.0,), "stop")
    scores = [{"name": "r", "score": 1.0}, {"name": "none", "score": None}]
    assert failures(SafetyCase.model_validate({"name": "c", "prompts": ("x",), **case}), sample, scores) == failed


def test_no_policy_promotes_on_fewer_prompts_than_intervals_hold_for(tmp_path: Path) -> None:
    file = tmp_path / "promotion.yaml"
    file.write_text("gates: {min_paired_prompts: 63}\n")
    with pytest.raises(ConfigError, match=r"gates\.min_paired_prompts: .*64"):
        load_rules(file)
    file.write_text("gates: {min_paired_prompts: 64}\nbootstrap_resamples: 200\n")
    assert load_rules(file)[0].gates.min_paired_prompts == 64
