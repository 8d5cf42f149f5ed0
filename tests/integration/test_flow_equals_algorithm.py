"""The real flow, with its children, tables and commits, does on the tabular policy what thirty lines do."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from flows.cli import exits
from flows.cli.app import app
from raft_core.algorithm import raft
from raft_core.config.loading import load_config
from raft_core.config.sampling import SamplingConfig
from raft_core.policies.tabular import backend
from raft_core.policies.tabular.policy import TabularPolicy
from raft_core.records.run import read_chain, read_run
from raft_core.selection.registry import SELECTORS
from raft_core.types import Prompt
from tasks.loop.iteration import derived_seed

PROMPTS = tuple(Prompt.of(f"prompt {x}") for x in range(6))
HELD_OUT = tuple(Prompt.of(f"held out {x}") for x in range(4))
COMPLETIONS = ("awful", "poor", "bland", "fine", "good", "great")
SEED, ITERATIONS, DRAWN, K = 3, 3, 4, 5
SETTINGS: dict[str, dict[str, Any]] = {
    "best_of_k": {},
    "top_fraction": {"fraction": 0.4},
    "best_then_top": {"fraction": 0.6},
    "all_best": {"success": 0.3},
    "threshold": {"threshold": 0.5},
}
REWARD = """
import json
from pathlib import Path

TABLE = json.loads(Path("rewards.json").read_text())

def look_up(prompts, completions):
    return [TABLE[x][y] for x, y in zip(prompts, completions)]
"""


class Streamed:
    """The tabular policy on the random stream that the flow gives it: one for all iterations of a run."""

    def __init__(self, policy: TabularPolicy) -> None:
        self.policy = policy

    def sample(self, prompt: Prompt, samples_per_prompt: int, *, seed: int) -> list[str]:
        return self.policy.sample(prompt, samples_per_prompt, seed=derived_seed(SEED, "sample"))

    def fit(self, pairs: Sequence[tuple[Prompt, str]], weights: Sequence[float]) -> "Streamed":
        return Streamed(self.policy.fit(pairs, weights))


@pytest.fixture
def start() -> TabularPolicy:
    """Every completion has a chance, each prompt another one."""
    weights_XY = np.random.default_rng(0).uniform(0.2, 1, (len(PROMPTS) + len(HELD_OUT), len(COMPLETIONS)))
    return TabularPolicy(PROMPTS + HELD_OUT, COMPLETIONS, weights_XY / weights_XY.sum(axis=1, keepdims=True), step=0.5)


@pytest.fixture
def rewards() -> dict[str, dict[str, float]]:
    """No two cells are equal, so that only equal samples tie."""
    values_XY = np.random.default_rng(1).permutation(np.linspace(0, 1, 60)).reshape(10, 6)
    rows = zip(PROMPTS + HELD_OUT, values_XY.tolist(), strict=True)
    return {prompt.text: dict(zip(COMPLETIONS, values, strict=True)) for prompt, values in rows}


def write_config(kind: str) -> None:
    """Limits that watch texts of a language are wide open: a table has six texts."""
    for name, prompts in (("train", PROMPTS), ("held_out", HELD_OUT)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps({"text": p.text}) + "\n" for p in prompts))
    config = {
        "name": "tabular",
        "seed": SEED,
        "iterations": ITERATIONS,
        "policy": {"type": "tabular", "model": "start"},
        "prompts": {"train": "train.jsonl", "held_out": "held_out.jsonl"},
        "sampling": {"prompts_per_iteration": DRAWN, "samples_per_prompt": K, "temperature": 1.0},
        "scoring": {"rewards": [{"type": "function", "function": "mine.py:look_up", "files": ["rewards.json"]}]},
        "validation": {"max_duplicate_share": 1.0, "min_prompt_coverage": 0.0, "max_surge": 1.0},
        "selection": {"type": kind, **SETTINGS[kind]},
        "finetuning": {"lora": None},
        "gates": {
            "max_kl": None,
            "min_distinct_1": None,
            "min_distinct_2": None,
            "min_headroom": None,
            "convergence_window": None,
        },
        "versioning": {"enabled": False},
    }
    Path("tabular.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "best_of_k" else pytest.mark.full) for kind in SELECTORS.own]
)
def test_every_iteration_has_the_same_table(
    kind: str,
    start: TabularPolicy,
    rewards: dict[str, dict[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAFT_WORKSPACE", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    backend.save(start, tmp_path / "start")
    Path("rewards.json").write_text(json.dumps(rewards))
    Path("mine.py").write_text(REWARD)
    write_config(kind)
    assert exits.run_command(app, ["align", "tabular.yaml", "--name", "one", "--quiet"]) == exits.DONE
    run = read_run(tmp_path / "runs" / "one")
    assert len(read_chain(run)) == ITERATIONS + 1
    expected = list(
        raft(
            Streamed(start),
            PROMPTS,
            lambda prompt, completion: rewards[prompt.text][completion],
            iterations=ITERATIONS,
            sampling=SamplingConfig(prompts_per_iteration=DRAWN, samples_per_prompt=K, temperature=1.0),
            selector=load_config(tmp_path / "tabular.yaml").selection,
            seed=SEED,
        )
    )
    for number, policy in enumerate(expected):
        found = backend.read(run.folder(number) / "policy")
        assert np.array_equal(found.probabilities_XY, policy.policy.probabilities_XY), f"iteration {number}"
    assert not np.array_equal(found.probabilities_XY, start.probabilities_XY)
    capsys.readouterr()
    assert exits.run_command(app, ["pull", f"one@{ITERATIONS - 1}", "--to", "pulled"]) == exits.DONE
    assert "not a transformers model" in capsys.readouterr().out
    assert np.array_equal(backend.read(Path("pulled")).probabilities_XY, found.probabilities_XY)
