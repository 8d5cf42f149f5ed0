"""Small synthetic tables and runs: valid in every check, so that a test breaks exactly one thing."""

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from mlflow import MlflowClient

from flows.process.environment import tracking_uri
from raft_core.config.run import RaftConfig
from raft_core.files.artifacts import digest_of, write_bytes, write_json
from raft_core.records import tables
from raft_core.records.run import BASE, Run, open_run, record_event, write_commit
from raft_core.types import Prompt, content_id
from tasks.tracking.connection import connected

REPOSITORY = Path(__file__).resolve().parents[3]
NUM_PROMPTS, PER_PROMPT = 4, 3
Rows = list[dict[str, Any]]


def build_config(**sections: Mapping[str, Any]) -> RaftConfig:
    plain: dict[str, Any] = {
        "name": "small",
        "policy": {"model": "somewhere"},
        "prompts": {"train": "prompts.txt"},
        "sampling": {"prompts_per_iteration": NUM_PROMPTS, "samples_per_prompt": PER_PROMPT, "max_new_tokens": 8},
        "scoring": {"rewards": [{"type": "lexicon"}, {"type": "lexicon", "name": "second", "weight": 0.5}]},
    }
    for name, values in sections.items():
        plain[name] = {**plain[name], **values} if name in plain else values
    return RaftConfig.model_validate(plain)


def build_prompts() -> list[Prompt]:
    return [Prompt.of(f"Movie review {i}:", group="even" if i % 2 == 0 else "odd") for i in range(NUM_PROMPTS)]


def build_samples(iteration: int = 0) -> Rows:
    return [
        {
            "sample_id": content_id("sample", iteration, prompt.text, k),
            "prompt_id": prompt.prompt_id,
            "k": k,
            "seed": k,
            "completion": f" a film {number} of kind {k}.",
            "prompt_token_ids": [1, 2],
            "completion_token_ids": [3, 4, 5, 2],
            "logprobs": [-0.5, -1.0, -0.25, 0.0],
            "sampling_logprobs": [-0.4, -0.9, -0.2, 0.0],
            "finish_reason": "stop",
            "source": "policy",
            "status": "ok",
            "reason": "",
        }
        for number, prompt in enumerate(build_prompts())
        for k in range(PER_PROMPT)
    ]


def build_scored(samples: Rows) -> Rows:
    return [
        {
            **{name: row[name] for name in ("sample_id", "prompt_id", "k", "source", "status", "reason")},
            "reward": 0.25 * row["k"],
            "components": [{"name": "lexicon", "score": 0.25 * row["k"]}],
        }
        for row in samples
    ]


def build_selected(samples: Rows) -> Rows:
    """The sample with the largest k of each prompt."""
    texts = {prompt.prompt_id: prompt.text for prompt in build_prompts()}
    return [
        {**row, "reward": 0.25 * row["k"], "rank": 1, "weight": 1.0, "prompt": texts[row["prompt_id"]]}
        for row in samples
        if row["k"] == PER_PROMPT - 1
    ]


def build_table(name: str, rows: Sequence[Any]) -> pa.Table:
    return tables.to_table(tables.SCHEMAS[name], rows)


def build_report(iteration: int) -> dict[str, Any]:
    report = {
        "iteration": iteration,
        "num_prompts": 8,
        "reward": 0.1 * (iteration + 1),
        "gold_reward": None,
        "perplexity": 60.0 + iteration,
        "kl": 0.1 * (iteration + 1),
        "slices": {"even": 0.1, "odd / other!": 0.2},
        "rewards": {"lexicon": 0.3},
        "gold_rewards": {},
    }
    return (
        report if iteration == BASE else {**report, "train_loss": 2.0 - iteration, "headroom": 0.5, "num_selected": 4}
    )


def write_iteration(run: Run, iteration: int) -> None:
    """Commit an iteration whose policy is a small file, with the events that a flow records."""
    folder = run.folder(iteration)
    content: dict[str, Sequence[Any]] = {"prompts": build_prompts()}
    if iteration != BASE:
        samples = build_samples(iteration)
        content |= {
            "samples": samples,
            "scored": build_scored(samples),
            "selected": build_selected(samples),
            "validation": [
                {
                    "suite": "samples",
                    "check": "row_count",
                    "level": "set",
                    "passed": True,
                    "observed": "12",
                    "expected": "at least 12",
                    "failed_rows": 0,
                }
            ],
            "quarantine": [],
        }
        write_bytes(folder / "policy" / "adapter_model.safetensors", f"weights {run.name} {iteration}".encode() * 100)
        write_bytes(folder / "policy" / "adapter_config.json", b"{}")
        log = [{"step": step, "loss": 2.0 - step / 10, "learning_rate": 1e-3, "grad_norm": 0.5} for step in (1, 2)]
        write_json(folder / "finetune.json", {"num_sequences": 4, "num_tokens": 16, "log": log})
    for name, rows in content.items():
        tables.write_table(run.table(iteration, name), build_table(name, rows), tables.SCHEMAS[name])
    write_json(folder / "report.json", build_report(iteration))
    named = [f"tables/{name}.parquet" for name in content] + ["policy", "finetune.json", "report.json"]
    outputs = {name: digest_of(folder / name) for name in named if (folder / name).exists()}
    policy = {"identity": f"identity-{iteration}", "digest": outputs.get("policy"), "base": "b" * 64, "source": None}
    write_commit(run, iteration, {"outputs": outputs, "policy": policy})
    for step, seconds in (("sample", 2.0), ("validate", 0.25), ("validate", 0.5), ("commit", 0.125)):
        tokens = 48 if step == "sample" else 0
        record_event(run, "step", iteration=iteration, step=step, seconds=seconds, tokens=tokens, unit="tokens")


@pytest.fixture
def make_config() -> Callable[..., RaftConfig]:
    """A small configuration; keyword arguments are sections whose values replace the defaults."""
    return build_config


@pytest.fixture
def prompts_table() -> pa.Table:
    return build_table("prompts", build_prompts())


@pytest.fixture
def samples() -> Rows:
    return build_samples()


@pytest.fixture
def scored(samples: Rows) -> Rows:
    return build_scored(samples)


@pytest.fixture
def selected(samples: Rows) -> Rows:
    return build_selected(samples)


@pytest.fixture
def make_table() -> Callable[[str, Sequence[Any]], pa.Table]:
    """Rows as one of the tables of an iteration."""
    return build_table


@pytest.fixture
def add_iteration() -> Callable[[Run, int], None]:
    """Commit one more iteration to a run."""
    return write_iteration


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a user, with a space in its name. DVC keeps its own state beside it."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc-site"))
    folder = tmp_path / "work space"
    folder.mkdir()
    return folder


@pytest.fixture
def in_git(workspace: Path) -> Path:
    """The workspace as a clone of this project has it: git, and the committed ignore rules and DVC settings."""
    subprocess.run(["git", "init", "-q"], cwd=workspace, check=True)
    for name in (".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        (workspace / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, workspace / name)
    return workspace


@pytest.fixture(scope="session")
def empty_tracking_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without records; making one takes a second or more."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with connected(f"sqlite:///{path}"):
        return path


@pytest.fixture
def uri(workspace: Path, empty_tracking_store: Path) -> str:
    """Where MLflow's records of the workspace go."""
    shutil.copy(empty_tracking_store, workspace / "mlflow.db")
    return tracking_uri(workspace)


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@pytest.fixture
def small_run(workspace: Path) -> Run:
    """A run with the base and one iteration committed."""
    run = open_run(workspace / "runs", "small-run", build_config())
    record_event(run, "started", host="here", process=1, git_commit="c0ffee" * 6 + "abcd")
    for iteration in (BASE, 0):
        write_iteration(run, iteration)
    return run
