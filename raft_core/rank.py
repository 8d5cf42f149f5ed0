"""One rank of a fine-tuning over several machines: ``torchrun … --module raft_core.rank JOB.json``.

The job is a file in a folder that every node sees. Rank 0 leaves the policy and its manifest in the job's
scratch folder, exactly as on one machine, so the owner judges and publishes it in the same way.
"""

import sys
from pathlib import Path

from raft_core.policies.base import FinetuneJob
from raft_core.records.artifacts import write_bytes


def write_job(job: FinetuneJob, path: Path) -> None:
    """Write ``job`` as JSON."""
    from pydantic import TypeAdapter

    write_bytes(path, TypeAdapter(FinetuneJob).dump_json(job, indent=1))


def read_job(path: Path) -> FinetuneJob:
    """The job that ``write_job`` wrote. Raises pydantic's ValidationError (a ValueError) for anything else."""
    from pydantic import TypeAdapter

    return TypeAdapter(FinetuneJob).validate_json(path.read_bytes())


def main(path: Path) -> None:
    """Take part as the rank that torchrun's environment names."""
    from raft_core.launch import become_rank

    become_rank()
    from raft_core.policies.text.finetune import train_rank

    train_rank(read_job(path))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
