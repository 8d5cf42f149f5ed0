"""A policy as a plain transformers folder, which names the commit that it came from."""

import shutil
from dataclasses import asdict
from pathlib import Path

from raft_core.audit.lineage import MANIFEST, ancestors, policy_facts
from raft_core.files.artifacts import digest_of, fsync_folder, write_json
from raft_core.policies.base import backend
from raft_core.records.run import Run
from raft_core.types import Policy
from tasks.loop.prepare import committed_policy
from tasks.promotion.policy_ref import committed
from tasks.tracking.registry import model_name


def write_plain(run: Run, iteration: int, policy: Policy, out: Path, *, entry: str | None = None) -> dict[str, object]:
    """Write the policy of a committed iteration to ``out``, which appears whole; returns its manifest, ``raft.json``.

    An adapter is merged into its base; full weights stay as they are. ``entry``: of the ledger, where the policy was
    asked for by its title. Lineage follows a run that begins with such a folder back through the manifest.
    """
    commit = committed(run, iteration)
    facts = policy_facts(commit.content)
    aside = out.with_name(f".{out.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        if policy.base is None:
            shutil.copytree(policy.path, aside, copy_function=shutil.copyfile)
        else:
            backend(run.config.policy.type).merge(policy, run.config.policy, aside)
        files = {path.name: digest_of(path) for path in sorted(aside.iterdir()) if path.name != MANIFEST}
        manifest: dict[str, object] = {
            "run": run.name,
            "iteration": iteration,
            "commit": commit.digest,
            "policy": facts.identity,
            "model": model_name(run),
            "ledger_entry": entry,
            "weights": facts.digest,
            "base": facts.base,
            "ancestors": [asdict(each) for each in ancestors(run, iteration)],
            "files": files,
        }
        write_json(aside / MANIFEST, manifest)
        for path in aside.iterdir():  # safetensors writes for its owner alone; whatever serves it is somebody else
            shutil.copymode(aside / MANIFEST, path)
        aside.rename(out)
        fsync_folder(out.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def merge(run: Run, iteration: int, base: Policy) -> None:
    """Write the policy of a committed iteration to ``runs/NAME/merged/NNN``; kept if there."""
    out = run.path / "merged" / f"{iteration:03d}"
    if not out.exists():
        write_plain(run, iteration, committed_policy(run, iteration, base), out)
