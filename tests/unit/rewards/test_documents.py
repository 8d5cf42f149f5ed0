"""The examples of docs/rewards.md are run as they stand."""

import re
from pathlib import Path

import pytest
import yaml

from raft_core.config.scoring import ScoringConfig
from raft_core.rewards.function import FunctionRewardConfig, load
from raft_core.rewards.load import check_rewards
from raft_core.types import Prompt

PAGE = (Path(__file__).parents[3] / "docs" / "rewards.md").read_text()
FILES = dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", PAGE, flags=re.DOTALL))
ENTRIES = [
    entry for block in re.findall(r"```yaml\n(- .*?)```", PAGE, flags=re.DOTALL) for entry in yaml.safe_load(block)
]
PROMPTS = [Prompt.of("2 + 2 = ", reference="4"), Prompt.of("Hello. ")]


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)
    Path("words.txt").write_text("good\n")
    Path("words.tsv").write_text("good\t1\n")


def test_every_entry_is_a_configuration() -> None:
    scoring = ScoringConfig.model_validate({"rewards": [{**e, "name": f"r{i}"} for i, e in enumerate(ENTRIES)]})
    assert {reward.type for reward in scoring.rewards} == {"function", "classifier", "linear", "lexicon"}


def test_what_needs_no_model_loads() -> None:
    light = [{**e, "name": f"r{i}"} for i, e in enumerate(ENTRIES) if e["type"] in {"function", "lexicon"}]
    assert len(check_rewards(ScoringConfig.model_validate({"rewards": light})).rewards) == len(light) >= 4


@pytest.mark.parametrize(
    ("function", "batched", "completions", "expected"),
    [
        ("my_reward.py:polite", True, ["Thank you.", "NO"], [1.0, -1.0]),
        ("one_by_one.py:brief", False, ["one two", "w " * 20], [-0.9, 0.0]),
        ("verifier.py:correct", True, ["It is 4", "4"], [True, False]),
    ],
)
def test_the_functions(function: str, batched: bool, completions: list[str], expected: list[float]) -> None:
    assert load(FunctionRewardConfig(function=function, batched=batched))(PROMPTS, completions) == expected


def test_the_first_example_is_whole() -> None:
    block = re.search(r"```yaml\nscoring:\n(.*?)```", PAGE, flags=re.DOTALL)
    assert block is not None
    assert ScoringConfig.model_validate(yaml.safe_load("scoring:\n" + block[1])["scoring"]).max_failed_share == 0.05
