"""A run that verifies, written through the records' own functions, whose texts are hostile wherever texts can be."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.exports.dossier import Dossier, open_dossier
from raft_core.config.loading import check_config, config_digest
from raft_core.files.artifacts import digest_of, write_json
from raft_core.promotion.ledger import Entry, FileLedger
from raft_core.records.run import BASE, Run, open_run, record_event, write_commit
from raft_core.records.tables import SCHEMAS, to_table, write_table
from raft_core.types import Prompt, content_id

SCRIPT = "<script>document.title='owned'</script>"
HOSTILE = [
    SCRIPT,
    "</style></pre><img src=x onerror=alert(1)>",
    "\x1b[2J\x00 bell\x07 back\x08 cr\r next\u2028line",
    "\u202egnp.exe \u2066isolate \u061c \U000e0041tag \u200b zero",
    "{{ 7 * 7 }} {% raise %} ${jndi:ldap://x} %s <!-- --> ]]>",
    "javascript:alert(1)\" onmouseover='x' &lt; &#60;script&#62;",
]
REWARDS = {BASE: 0.07, 0: 0.3, 1: 0.68}


@pytest.fixture(scope="session")
def exported_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Base and iterations 0 and 1; 6 prompts, 2 samples each, 3 selected, 1 quarantined. Read-only by convention."""
    folder = tmp_path_factory.mktemp("exports")
    base = folder / "base-policy"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"base weights")
    config = check_config(
        {
            "name": "made",
            "iterations": 2,
            "policy": {"model": str(base)},
            "prompts": {"train": "p.jsonl"},
            "scoring": {"rewards": [{"type": "lexicon"}]},
            "gates": {"max_kl": 0.5},
        },
        where="a test",
    )
    run = open_run(folder / "runs", "made", config)
    record_event(run, "started", host="here", process=1, git_commit="c0ffee" * 6 + "abcd")
    identity = _commit(run, BASE, digest_of(base), None)
    for iteration in range(2):
        _files(run, iteration)
        identity = _commit(run, iteration, digest_of(base), identity)
    record_event(run, "warning", message=f"<b>late</b> {HOSTILE[3]} http://me:hunter2@host/")
    record_event(run, "finished", status="completed", best=1, reason="all 2 iterations are done")
    return run


def _files(run: Run, iteration: int) -> None:
    prompts = [Prompt.of(text, group="g", source=f"<i>films</i> {i}") for i, text in enumerate(HOSTILE)]
    scored, selected = [], []
    for number, prompt in enumerate(prompts):
        for k in range(2):
            row = {
                "sample_id": f"{iteration}-{number}-{k}",
                "prompt_id": prompt.prompt_id,
                "k": k,
                "source": "policy",
                "reward": 0.1 * number + k,
                "components": [],
                "status": "ok",
                "reason": "",
            }
            scored.append(row)
            if k and number < 3:
                selected.append(
                    {
                        **row,
                        "rank": 1,
                        "weight": 1.0,
                        "prompt": prompt.text,
                        "completion": SCRIPT,
                        "finish_reason": "stop",
                        "prompt_token_ids": [1],
                        "completion_token_ids": [2],
                        "sampling_logprobs": [-1.0],
                    }
                )
    samples = [
        {
            **row,
            "seed": 1,
            "completion": SCRIPT,
            "prompt_token_ids": [1],
            "completion_token_ids": [2],
            "logprobs": [-1.0],
            "sampling_logprobs": [-1.0],
            "finish_reason": "stop",
        }
        for row in scored
    ]
    quarantine = [{"sample_id": "q", "prompt_id": "q", "stage": "samples", "check": SCRIPT, "reason": HOSTILE[1]}]
    checks = [
        {
            "suite": "samples",
            "check": check,
            "level": "set",
            "passed": passed,
            "observed": HOSTILE[1],
            "expected": "at <least> 1",
            "failed_rows": 2,
        }
        for check, passed in (("row_count", True), ("texts", iteration == 1))
    ]
    content: dict[str, Sequence[Any]] = {
        "prompts": prompts,
        "samples": samples,
        "scored": scored,
        "selected": selected,
        "quarantine": quarantine,
        "validation": checks,
    }
    for name, rows in content.items():
        write_table(run.table(iteration, name), to_table(SCHEMAS[name], rows), SCHEMAS[name])
    policy = run.folder(iteration) / "policy"
    policy.mkdir(parents=True)
    (policy / "adapter_model.safetensors").write_bytes(f"adapter {iteration}".encode())
    (policy / "adapter_config.json").write_bytes(b"{}")
    log = [{"step": step, "loss": 2.0 - step / 10, "learning_rate": 1e-3, "grad_norm": 0.5} for step in (1, 2, 3)]
    write_json(run.folder(iteration) / "finetune.json", {"num_sequences": 3, "num_tokens": 6, "log": log})


def _evaluation(run: Run, iteration: int) -> None:
    rows = [
        {
            "prompt_id": f"p{i}",
            "group": "",
            "prompt": text,
            "sample_id": f"s{i}",
            "completion_token_ids": [1],
            "completion": HOSTILE[-1 - i],
            "finish_reason": "stop",
            "sampling_logprobs": [-1.0],
            "base_logprobs": [-1.0],
            "reward": REWARDS[iteration],
            "gold_reward": None,
            "components": [],
        }
        for i, text in enumerate(HOSTILE)
    ]
    write_table(run.table(iteration, "evaluation"), to_table(SCHEMAS["evaluation"], rows), SCHEMAS["evaluation"])


def _commit(run: Run, iteration: int, base: str, sampled_from: str | None) -> str:
    folder, reward = run.folder(iteration), REWARDS[iteration]
    _evaluation(run, iteration)
    write_json(
        folder / "report.json",
        {
            "iteration": iteration,
            "num_prompts": 6,
            "reward": reward,
            "reward_low": reward - 0.05,
            "reward_high": reward + 0.05,
            "gold_reward": 0.21,
            "perplexity": 63.7 + iteration,
            "distinct_1": 0.31,
            "distinct_2": 0.8,
            "kl": 0.2 * (iteration + 1),
            "truncation": 0.02,
            "mean_length": 12.0,
            "train_loss": 1.5,
            "slices": {SCRIPT: reward},
            "rewards": {"lexicon": reward},
        },
    )
    names = [f"tables/{name}.parquet" for name in SCHEMAS] + ["policy", "finetune.json", "report.json"]
    outputs = {name: digest_of(folder / name) for name in names if (folder / name).exists()}
    made = outputs.get("policy", base)
    identity = content_id("policy", made, None if iteration == BASE else base)
    source = run.config.policy.model if iteration == BASE else None
    evaluate = {"key": "e" * 64, "inputs": {"policy": identity, "reward lexicon": "a" * 64}, "outputs": {}}
    write_commit(
        run,
        iteration,
        {
            "config": config_digest(run.config),
            "outputs": outputs,
            "sampled_from": sampled_from,
            "batch_plan": [],
            "policy": {
                "identity": identity,
                "digest": made,
                "base": None if iteration == BASE else base,
                "source": source,
            },
            "steps": {"evaluate": evaluate},
            "numerics": {"device": "cpu", "dtype": "float32", "torch": "2.13.0", "transformers": "5.23.0"},
        },
    )
    for step, seconds in (("sample", 2.0), ("finetune", 4.0), ("commit", 0.1)):
        record_event(run, "step", iteration=iteration, step=step, seconds=seconds, tokens=3)
    return identity


@pytest.fixture
def copied_run(exported_run: Run, tmp_path: Path) -> Run:
    """A copy that a test may spoil."""
    return replace(exported_run, path=Path(shutil.copytree(exported_run.path, tmp_path / "runs" / "made")))


@pytest.fixture(scope="session")
def entries(exported_run: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """A ledger in which iteration 1 was asked for and promoted, and another run's model was refused."""
    from raft_core.records.run import read_chain

    ledger = FileLedger(tmp_path_factory.mktemp("ledger") / "ledger.jsonl")
    commit = read_chain(exported_run)[-1]
    body = {
        "run": "made",
        "iteration": 1,
        "commit": commit.digest,
        "policy": commit.content["policy"]["identity"],
        "by": "ada <ada@example.org>",
        "reason": f"better {SCRIPT}",
        "hub_token": "abcdef",
        "gates": [{"reward": 0.61}],
        "decision": {
            "passed": True,
            "reason": f"all gates pass {SCRIPT}",
            "findings": [
                {
                    "gate": "worst_slice",
                    "value": 0.5,
                    "low": 0.25,
                    "high": 0.75,
                    "rule": ">=",
                    "threshold": 0.125,
                    "passed": True,
                    "note": SCRIPT,
                }
            ],
        },
    }
    ledger.append("requested", "raft-made", body, time="2026-01-02T03:04:05+00:00")
    ledger.append(
        "refused", "raft-other", {**body, "commit": "0" * 64, "policy": "1" * 32}, time="2026-01-02T03:05:05+00:00"
    )
    ledger.append("promoted", "raft-made", {**body, "by": "grace"}, time="2026-01-02T03:06:05+00:00")
    return ledger.entries()


@pytest.fixture(scope="session")
def dossier(exported_run: Run, entries: list[Entry]) -> Dossier:
    """The records of iteration 1."""
    return open_dossier(exported_run, 1, entries=entries, resolve=Path)


@pytest.fixture
def texts() -> Callable[[str], list[str]]:
    """The texts of a page as a browser would show them, in order."""
    from html.parser import HTMLParser

    def read(page: str) -> list[str]:
        found: list[str] = []

        class Reader(HTMLParser):
            def handle_data(self, data: str) -> None:
                found.append(data)

        Reader(convert_charrefs=True).feed(page)
        return found

    return read
