"""The examples of docs/rewards.md, docs/extending.md and docs/examples.md are run as they are printed."""

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from raft_core.config.gates import GatesConfig
from raft_core.config.loading import check_config
from raft_core.config.scoring import ScoringConfig
from raft_core.losses.base import Loss, Tokens
from raft_core.metrics.base import Measured, Metric
from raft_core.rewards.base import RewardConfig
from raft_core.rewards.function import FunctionRewardConfig, load
from raft_core.rewards.load import check_rewards
from raft_core.selection.base import Candidates, Selector, select
from raft_core.types import Prompt

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "rewards.md").read_text()
FILES = dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", PAGE, flags=re.DOTALL))
ENTRIES = [
    entry for block in re.findall(r"```yaml\n(- .*?)```", PAGE, flags=re.DOTALL) for entry in yaml.safe_load(block)
]
CONFIGURATION = """
name: short
policy: {model: example:tiny/policy}
prompts: {train: example:tiny/prompts.train}
scoring: {rewards: [{type: lexicon}]}
"""
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


EXTENDING = (DOCS / "extending.md").read_text()
PLUGINS = dict(re.findall(r"```python\n# my_package/(\w+)\.py\n(.*?)```", EXTENDING, flags=re.DOTALL))


def plugin(name: str) -> Any:
    """The class in the example file ``name``, which has the same name."""
    found: dict[str, Any] = {"__name__": name}
    exec(PLUGINS[name], found)
    return found[name.capitalize()]


def test_the_rewards_of_a_package(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("good\nfine\n")
    for name, settings, expected in (
        ("letters", {"most": 3}, [3.0, 1.0]),
        ("listed", {"file": "list.txt"}, [2.0, 0.0]),
    ):
        config = plugin(name)(**settings)
        assert isinstance(config, RewardConfig)
        type(config).load.__globals__["reward_identity"] = lambda config, source="": source  # it hashes a real module
        assert config.load()(PROMPTS, ["good fine", "x"]) == expected


def test_the_selector_of_a_package() -> None:
    selector = plugin("softmax")(temperature=0.5)
    assert isinstance(selector, Selector)
    rewards = np.array([0.0, 1.0, 1.0, 4.0])
    kept = select(Candidates(np.array([0, 0, 1, 1]), rewards, np.array(["a", "b", "c", "d"])), selector, 2)
    assert kept.indices_M.tolist() == [1, 0, 3, 2]
    assert np.add.reduceat(kept.weights_M, [0, 2]) == pytest.approx([1.0, 1.0])


def test_the_loss_of_a_package() -> None:
    torch = pytest.importorskip("torch")
    loss = plugin("capped")(most=2.0)
    assert isinstance(loss, Loss)
    logprobs = torch.tensor([-0.5, -3.0], requires_grad=True)
    values = loss.per_token(Tokens(logprobs, torch.ones(2), {}))
    values.sum().backward()
    assert values.tolist() == [0.5, 2.0]
    assert logprobs.grad.tolist() == [-1.0, 0.0]  # the capped token does not train


def test_the_metric_of_a_package() -> None:
    metric = plugin("questions")()
    assert isinstance(metric, Metric)
    table = pa.table({"completion": ["Why?", "So.", "Because.", "Or not?"]})
    config = check_config(yaml.safe_load(CONFIGURATION), where="the test")
    computed = metric.compute(Measured(table, config, iteration=0))
    assert computed == {"question_share": 0.5}
    assert set(computed) == {figure.name for figure in metric.figures}


def test_the_page_uses_every_plugin_where_it_belongs() -> None:
    block = re.search(r"```yaml\n(scoring:.*?)```", EXTENDING, flags=re.DOTALL)
    assert block is not None
    chosen = yaml.safe_load(block[1])
    for settings in (
        *chosen["scoring"]["rewards"],
        chosen["selection"],
        chosen["finetuning"]["loss"],
        *chosen["evaluation"]["metrics"],
    ):
        plugin(settings["type"])(**settings)
    figures = {figure.name for figure in plugin("questions")().figures}
    limits = GatesConfig.model_validate({"limits": tuple(chosen["gates"]["limits"])}).limits
    assert {limit.figure for limit in limits} == figures


def test_plugins_import_large_libraries_in_their_methods() -> None:
    assert set(PLUGINS) == {"letters", "listed", "softmax", "capped", "questions"}
    assert not [
        line
        for code in PLUGINS.values()
        for line in code.splitlines()
        if re.match("(import|from) (numpy|torch|pyarrow)", line)
    ]


def test_the_entry_points_name_the_example_classes() -> None:
    block = re.search(r"```toml\n(.*?)```", EXTENDING, flags=re.DOTALL)
    assert block is not None
    groups = tomllib.loads(block[1])["project"]["entry-points"]
    bases = {"raft.rewards": RewardConfig, "raft.selectors": Selector, "raft.losses": Loss, "raft.metrics": Metric}
    assert set(groups) == set(bases)
    for group, kind, place in ((group, *entry) for group, entries in groups.items() for entry in entries.items()):
        assert issubclass(plugin(kind), bases[group])
        assert re.fullmatch(r"[A-Za-z0-9_-]+", kind)
        assert place == f"my_package.{kind}:{plugin(kind).__name__}"
        assert plugin(kind).model_fields["type"].default == kind


def test_the_configuration_of_the_examples_page() -> None:
    block = re.search(r"```yaml\n(name: .*?)```", (DOCS / "examples.md").read_text(), flags=re.DOTALL)
    assert block is not None
    assert check_config(yaml.safe_load(block[1]), where="docs/examples.md").policy.type == "text"
