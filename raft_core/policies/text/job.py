"""The files in a job's scratch folder through which the parent of a fine-tuning and its ranks communicate."""

from pathlib import Path

from raft_core.files.artifacts import write_bytes
from raft_core.policies.base import FinetuneJob

JOB = "job.json"
POLICY = "policy"
MANIFEST = "result.json"
"""Written last, by rank 0; contains the digest of POLICY."""


def write_job(job: FinetuneJob, path: Path) -> None:
    """Write ``job`` as JSON."""
    from pydantic import TypeAdapter

    write_bytes(path, TypeAdapter(FinetuneJob).dump_json(job, indent=1))


def read_job(path: Path) -> FinetuneJob:
    """The job that ``write_job`` wrote. Raises pydantic's ValidationError (a ValueError) for anything else."""
    from pydantic import TypeAdapter

    return TypeAdapter(FinetuneJob).validate_json(path.read_bytes())
