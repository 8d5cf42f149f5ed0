"""A package outside this repository adds a reward, selector, loss and metric: configured, shown, explained, audited."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import exits
from raft_core import examples
from raft_core.config.loading import load_config
from raft_core.records.tables import SELECTED, read_table

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
RAFT = Path(sys.executable).with_name("raft")
REWARD = '''
from typing import Literal

from pydantic import Field

from raft_core.rewards.base import PlainReward, RewardConfig, reward_identity


class Distinct(RewardConfig):
    """How many different letters a completion has."""

    type: Literal["distinct"] = "distinct"
    most: int = Field(20, ge=1, description="letters beyond this number count nothing")

    def load(self, *, weights: bool = True) -> PlainReward:
        def score(prompts, completions):
            return [float(min(self.most, len(set(text)))) for text in completions]

        return PlainReward(reward_identity(self), score)
'''
SELECTOR = '''
from typing import Literal

import numpy as np
from pydantic import Field

from raft_core.selection.base import Candidates, Ranked, Selection, Selector, ranking


class Softmax(Selector):
    """Every sample, weighted by exp(reward / temperature), the weights of a prompt summing to 1."""

    type: Literal["softmax"] = "softmax"
    temperature: float = Field(1.0, gt=0, description="a lower one trains more on the best")

    def select(self, candidates: Candidates, samples_per_prompt: int) -> Selection:
        order = ranking(candidates)
        prompts, weights = candidates.prompts_N[order], np.exp(candidates.rewards_N[order] / self.temperature)
        return Selection(order, weights / np.bincount(prompts, weights)[prompts])

    def explain(self, sample: Ranked) -> str:
        return f"softmax keeps every sample, this one with exp({sample.reward} / {self.temperature})"
'''
LOSS = '''
from typing import ClassVar, Literal

from raft_core.losses.base import Loss, Tokens


class Ratio(Loss):
    """Minus the ratio of the policy's probability of a token to that at which it was sampled."""

    type: Literal["ratio"] = "ratio"
    columns: ClassVar[tuple[str, ...]] = ("sampling_logprobs",)

    def per_token(self, tokens: Tokens):
        return -(tokens.logprobs_N - tokens.columns["sampling_logprobs"]).exp()
'''
METRIC = '''
from typing import ClassVar, Literal

from pydantic import Field

from raft_core.metrics.base import Figure, Measured, Metric


class Shouting(Metric):
    """Share of completions with many capital letters."""

    type: Literal["shouting"] = "shouting"
    share: float = Field(0.5, description="from this share of capital letters on")

    figures: ClassVar[tuple[Figure, ...]] = (Figure("shouting", "shouting completions", better="lower", rank=10),)

    def compute(self, measured: Measured) -> dict[str, float]:
        texts = measured.evaluation["completion"].to_pylist()
        loud = [sum(map(str.isupper, text)) >= self.share * max(len(text), 1) for text in texts]
        return {"shouting": sum(loud) / len(loud)}
'''
ENTRY_POINTS = """
[raft.losses]
ratio = example_rules.loss:Ratio
[raft.metrics]
shouting = example_rules.metric:Shouting
[raft.rewards]
distinct = example_rules.reward:Distinct
[raft.selectors]
softmax = example_rules.selector:Softmax
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as pip leaves it, to be put on the path."""
    site = tmp_path_factory.mktemp("site")
    (site / "example_rules").mkdir()
    for name, code in {"__init__": "", "reward": REWARD, "selector": SELECTOR, "metric": METRIC, "loss": LOSS}.items():
        (site / "example_rules" / f"{name}.py").write_text(code)
    info = site / "example_rules-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example-rules\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return site


def raft(workspace: Path, site: Path | None, *arguments: str, code: int = exits.DONE) -> str:
    """What ``raft`` says, standard output and error together."""
    path = os.pathsep.join(filter(None, (str(site or ""), os.environ.get("PYTHONPATH"))))
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment |= {"RAFT_WORKSPACE": str(workspace), "PYTHONPATH": path}
    done = subprocess.run(
        [RAFT, *arguments],
        cwd=workspace,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def workspace(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With one run of one iteration that uses both."""
    folder = tmp_path_factory.mktemp("work")
    examples.prepare("tiny")
    plain: dict[str, Any] = load_config(TINY).model_dump(mode="json")
    plain |= {"iterations": 1, "versioning": {**plain["versioning"], "enabled": False}}
    plain["sampling"] |= {"prompts_per_iteration": 8}
    plain["prompts"] |= {"max_held_out": 16}
    plain["scoring"]["rewards"] = [{"type": "distinct", "most": 30}]
    plain["selection"] = {"type": "softmax", "temperature": 2.0}
    plain["finetuning"]["loss"] = {"type": "ratio"}
    plain["evaluation"]["metrics"] = [{"type": "shouting", "share": 0.25}]
    plain["gates"]["limits"] = [{"figure": "shouting", "max": 0.5}]
    (folder / "mine.yaml").write_text(yaml.safe_dump(plain))
    raft(folder, package, "align", "mine.yaml", "--name", "one", "--quiet")
    return folder


def test_its_keys_are_checked_and_documented(package: Path, workspace: Path) -> None:
    reference = raft(workspace, package, "config", "reference")
    assert "with `type: softmax`" in reference
    assert "letters beyond this number count nothing" in reference
    assert "with `type: shouting`" in reference
    assert "with `type: ratio`" in reference
    assert "best_of_k, top_fraction, best_then_top, all_best, threshold, softmax" in reference
    raft(workspace, package, "config", "validate", "mine.yaml")
    told = raft(
        workspace, package, "config", "validate", "mine.yaml", "selection.temperature=0", code=exits.USERS_MISTAKE
    )
    assert "selection.temperature" in told


def test_the_flow_trains_on_its_weights(workspace: Path, package: Path) -> None:
    path = workspace / "runs" / "one" / "iterations" / "000" / "tables" / "selected.parquet"
    rows = read_table(path, SELECTED).to_pylist()
    sums: dict[str, float] = defaultdict(float)
    for row in rows:
        sums[row["prompt_id"]] += row["weight"]
    assert len(rows) > len(sums) == 8
    assert list(sums.values()) == pytest.approx([1.0] * 8)
    told = raft(workspace, package, "lineage", "explain", rows[0]["sample_id"], "--json")
    assert "softmax keeps every sample" in json.loads(told)["because"]


def test_its_loss_is_what_was_minimised(workspace: Path) -> None:
    """−ratio is −1 a token before the first step, where weights of a prompt sum to 1 over many samples."""
    log = json.loads((workspace / "runs" / "one" / "iterations" / "000" / "finetune.json").read_text())["log"]
    assert -1 < log[0]["loss"] < 0


def test_its_metric_is_reported_shown_and_limited(workspace: Path, package: Path) -> None:
    told = json.loads(raft(workspace, package, "show", "one", "--json"))
    assert [row["shouting"] for row in told["iterations"]] == [0.0, 0.0]
    assert "shouting completions" in raft(workspace, package, "show", "one", "--wide")
    page = raft(workspace, package, "export", "html", "one")
    assert "shouting completions" in page
    assert "at most 0.500" in page
    refused = raft(
        workspace, package, "config", "validate", "mine.yaml", "gates.limits=[{figure: shout, max: 1}]", code=2
    )
    assert "shouting" in refused


def test_the_records_name_its_code(workspace: Path, package: Path) -> None:
    pinned = json.loads((workspace / "runs" / "one" / "rewards.json").read_text())["rewards"]
    (reward,) = pinned["distinct"].items()
    (selector,) = pinned["selection.softmax"].items()
    assert list(pinned["loss.ratio"]) == ["example_rules.loss of example-rules 1.5"]
    assert list(pinned["metric.shouting"]) == ["example_rules.metric of example-rules 1.5"]
    assert (reward[0], selector[0]) == (
        "example_rules.reward of example-rules 1.5",
        "example_rules.selector of example-rules 1.5",
    )
    for kind, digits in (("html", 16), ("model-card", 12), ("cyclonedx", 64)):
        export = raft(workspace, package, "export", kind, "one").replace("\\", "")
        for reference, digest in (reward, selector):
            assert reference in export
            assert digest[:digits] in export


def test_where_the_package_is_missing_the_run_says_so(workspace: Path) -> None:
    told = raft(workspace, None, "show", "one", code=exits.USERS_MISTAKE)
    assert "install the package" in told
    assert "softmax" in told
    assert "Traceback" not in told


def test_code_that_changed_does_not_go_on_in_the_same_run(workspace: Path, package: Path) -> None:
    path = package / "example_rules" / "selector.py"
    path.write_text(path.read_text() + "\nCHANGED = 1\n")
    (workspace / "runs" / "one" / "iterations" / "000" / "commit.json").unlink()  # as if it had been killed before it
    told = raft(workspace, package, "resume", "one", code=exits.USERS_MISTAKE)
    assert "selection.softmax" in told
