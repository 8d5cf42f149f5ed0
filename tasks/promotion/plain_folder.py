"""A policy as a plain transformers folder that names the commit it came from."""

import shutil
from dataclasses import asdict
from pathlib import Path

from raft_core.audit.lineage import MANIFEST, ancestors, policy_facts
from raft_core.files.artifacts import digest_of, fsync_folder, write_json
from raft_core.policies.base import modality
from raft_core.records.policy_ref import PolicyRef, policy_ref
from raft_core.records.run import Run
from raft_core.types import Policy
from tasks.loop.prepare import committed_policy
from tasks.tracking.registry import model_name


def write_plain(ref: PolicyRef, policy: Policy, out: Path, *, entry: str | None = None) -> dict[str, object]:
    """Write ``policy``, the weights of ``ref``, to the new folder ``out``; returns its manifest, ``raft.json``.

    An adapter is merged into its base; full weights are copied. ``out`` appears only once it is complete. ``entry``:
    digest of the ledger entry, where the policy was asked for as champion or previous. A run that begins with such a
    folder is traced back through the manifest.
    """
    facts = policy_facts(ref.commit.content)
    aside = out.with_name(f".{out.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        if policy.base is None:
            shutil.copytree(policy.path, aside, copy_function=shutil.copyfile)
        else:
            modality(ref.run.config.policy.type).checkpoint.merge(policy, ref.run.config.policy, aside)
        files = {path.name: digest_of(path) for path in sorted(aside.iterdir()) if path.name != MANIFEST}
        manifest: dict[str, object] = {
            "run": ref.run.name,
            "iteration": ref.iteration,
            "commit": ref.digest,
            "policy": ref.identity,
            "model": model_name(ref.run),
            "ledger_entry": entry,
            "weights": facts.digest,
            "base": facts.base,
            "ancestors": [asdict(each) for each in ancestors(ref.run, ref.iteration)],
            "files": files,
        }
        write_json(aside / MANIFEST, manifest)
        for path in aside.iterdir():  # safetensors files are readable by their owner only; the server is another user
            shutil.copymode(aside / MANIFEST, path)
        aside.rename(out)
        fsync_folder(out.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def merge(run: Run, iteration: int, base: Policy) -> None:
    """Write the policy of a committed iteration to ``runs/NAME/merged/NNN``, unless that folder exists."""
    out = run.path / "merged" / f"{iteration:03d}"
    if not out.exists():
        write_plain(policy_ref(run, iteration), committed_policy(run, iteration, base), out)
