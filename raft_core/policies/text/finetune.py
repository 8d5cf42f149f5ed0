"""The owner's side of a fine-tuning: start the ranks, judge what they left, publish it by a rename."""

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


def finetune(job: FinetuneJob) -> FinetuneResult:
    """Fine-tune in child processes, or on the machines of RAFT_LAUNCHER; ``job.out`` appears whole.

    Raises StepError (a rank failed, or left less than it should), MemoryError (one ran out of it),
    and what the checks in the child raise: InputError, IntegrityError.
    """
    if job.out.exists():
        raise StepError(f"{job.out} exists already", hint="remove it, or choose another folder")
    policy, manifest = job.scratch / POLICY, job.scratch / MANIFEST
    shutil.rmtree(policy, ignore_errors=True)
    manifest.unlink(missing_ok=True)
    if job.checkpoints is not None:
        job = replace(job, resume_from=latest_checkpoint(job.checkpoints))
    write_job(job, job.scratch / JOB)
    if not processes.run_launched(job.scratch / JOB, job.scratch):
        processes.run_ranks(
            train_rank, job, ranks=job.finetuning.ranks, scratch=job.scratch, children_lock=job.children_lock
        )
    result = _judge(policy, manifest)
    job.out.parent.mkdir(parents=True, exist_ok=True)
    policy.rename(job.out)
    fsync_folder(job.out.parent)
    return result


def train_rank(job: FinetuneJob) -> None:
    """What each child runs. The libraries are imported there, not here."""
    from raft_core.policies.text.trainer import train

    train(job)


def _judge(policy: Path, manifest: Path) -> FinetuneResult:
    """The manifest is written last and names the digest: an exit code alone proves nothing."""
    try:
        told = json.loads(manifest.read_bytes())
        found = folder_digest(policy)
        if found != told["digest"]:
            raise ValueError(f"digest {found} instead of {told['digest']}")
        return FinetuneResult(told["num_sequences"], told["num_tokens"], told["log"], told["trained"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StepError(
            "the training ended without a whole policy",
            got=error,
            expected=f"{policy} as {manifest} describes it",
            hint=f"read {manifest.parent}/rank-0.log",
        ) from error
