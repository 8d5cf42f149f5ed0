"""One rank of a fine-tuning over several machines: ``torchrun … --module raft_core.rank JOB.json``.

The job is a file in a folder that every node sees. Rank 0 leaves the policy and its manifest in the job's
scratch folder, exactly as on one machine, so the owner judges and publishes it in the same way.
"""

import sys
from pathlib import Path

from raft_core.policies.text.job import read_job


def main(path: Path) -> None:
    """Take part as the rank that torchrun's environment names."""
    from raft_core.launch import become_rank

    become_rank()
    from raft_core.policies.text.trainer import train

    train(read_job(path))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
