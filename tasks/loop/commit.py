"""Commit an iteration: write the digests of all its inputs and outputs, as its last step."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from raft_core.audit.lineage import ancestors_of
from raft_core.config.loading import recorded_digest
from raft_core.files.artifacts import digest_of
from raft_core.files.plain_yaml import read_yaml
from raft_core.records.pinned import read_pins
from raft_core.records.run import BASE, write_commit
from raft_core.records.steps import StepRecord
from raft_core.records.tables import SCHEMAS
from raft_core.types import Policy
from tasks.loop.finetune import next_policy
from tasks.loop.iteration import Iteration, left_out
from tasks.loop.sample import batch_plan


def commit(it: Iteration, records: Mapping[str, StepRecord]) -> None:
    """Write the iteration's ``commit.json``, then delete its scratch folder. The file holds no times."""
    _sweep(it.folder)
    names = [f"tables/{name}.parquet" for name in SCHEMAS] + ["policy", "finetune.json", "report.json"]
    outputs = {name: digest_of(it.folder / name) for name in names if (it.folder / name).exists()}
    made = it.policy if it.number == BASE else next_policy(it, outputs["policy"])
    write_commit(
        it.run,
        it.number,
        {
            "config": recorded_digest(read_yaml(it.run.path / "config.yaml")),
            "policy": _named(made, it.config.policy.model if it.number == BASE else None),
            "sampled_from": None if it.number == BASE else it.policy.identity,
            "outputs": outputs,
            "steps": {
                name: {"key": r.key, "code": r.code, "inputs": dict(r.inputs), "outputs": dict(r.outputs)}
                for name, r in sorted(records.items())
            },
            **({"remote_code": True} if it.config.policy.trust_remote_code else {}),
            **_rewards(it),
            "numerics": it.modality.checkpoint.numerics(it.config.sampling.dtype),
            **left_out(it),
            "batch_plan": [plan for folder in sorted(it.work.glob("*-*")) if (plan := batch_plan(folder))],
        },
    )
    shutil.rmtree(it.work, ignore_errors=True)


def _rewards(it: Iteration) -> dict[str, object]:
    """The pinned parts of each reward; empty if an older version of RAFT started the run."""
    pins = read_pins(it.run)
    return {"rewards": pins} if pins else {}


def _sweep(folder: Path) -> None:
    """Remove partial files left by killed writes, so that DVC does not add them to the tables."""
    for path in [*folder.glob(".*"), *(folder / "tables").glob(".*")]:
        if path.name == ".gitignore":
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _named(policy: Policy, source: str | None) -> dict[str, object]:
    base = policy.base.digest if policy.base else None
    ancestors = ancestors_of(policy.path) if source is not None else ()
    return {
        "identity": policy.identity,
        "digest": policy.digest,
        "base": base,
        "source": source,
        **({"ancestors": [asdict(each) for each in ancestors]} if ancestors else {}),
    }
