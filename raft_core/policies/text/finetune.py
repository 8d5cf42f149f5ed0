"""The parent's side of a fine-tuning: start the ranks, check what they wrote, publish it by a rename."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from raft_core.errors import StepError
from raft_core.files.artifacts import folder_digest, fsync_folder
from raft_core.launch import processes
from raft_core.policies.base import FinetuneJob, FinetuneResult
from raft_core.policies.text.job import JOB, MANIFEST, POLICY, write_job
from raft_core.policies.text.resume import latest_checkpoint

PRELOAD = (
    "numpy",
    "torch",
    "torch.distributed",
    "safetensors.torch",
    "transformers",
    "transformers.trainer",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "peft",
    "accelerate",
    "deepspeed",
    "deepspeed.runtime.engine",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "raft_core.policies.text.trainer",
)
"""Imported once, in a process from which every training process is forked."""
CODE = ("raft_core.policies.text.trainer", "raft_core.policies.text.finetune")


def fit(job: FinetuneJob) -> FinetuneResult:
    """Fine-tune in child processes, or on the machines of RAFT_LAUNCHER; ``job.out`` is written by a rename.

    Raises StepError (a rank failed or its output is incomplete), MemoryError (a rank ran out of memory),
    and what the checks in the child raise: InputError, IntegrityError.
    """
    if job.out.exists():
        raise StepError(f"output folder exists already: {job.out}", hint="remove it, or choose another folder")
    policy, manifest = job.scratch / POLICY, job.scratch / MANIFEST
    shutil.rmtree(policy, ignore_errors=True)
    manifest.unlink(missing_ok=True)
    if job.checkpoints is not None:
        job = replace(job, resume_from=latest_checkpoint(job.checkpoints))
    write_job(job, job.scratch / JOB)
    if not processes.run_launched(job.scratch / JOB, job.scratch):
        processes.run_ranks(
            train_rank,
            job,
            ranks=job.finetuning.ranks,
            scratch=job.scratch,
            children_lock=job.children_lock,
            preload=PRELOAD,
        )
    result = _judge(policy, manifest)
    job.out.parent.mkdir(parents=True, exist_ok=True)
    policy.rename(job.out)
    fsync_folder(job.out.parent)
    return result


def train_rank(job: FinetuneJob) -> None:
    """What each child runs. Only the child imports the heavy libraries."""
    from raft_core.policies.text.trainer import train

    train(job)


def _judge(policy: Path, manifest: Path) -> FinetuneResult:
    """Check the result against the manifest, which is written last and names the digest: exit codes are not enough."""
    try:
        fields = json.loads(manifest.read_bytes())
        found = folder_digest(policy)
        if found != fields["digest"]:
            raise ValueError(f"the policy has digest {found}, the manifest says {fields['digest']}")
        return FinetuneResult(fields["num_sequences"], fields["num_tokens"], fields["log"], fields["trained"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StepError(
            f"the training ended without writing a complete policy to {policy}",
            got=error,
            expected=f"the policy that {manifest} describes",
            hint=f"read {manifest.parent}/rank-0.log for the cause, then resume the run",
        ) from error
