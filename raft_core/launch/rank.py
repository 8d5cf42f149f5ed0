"""One rank of a fine-tuning over several machines: ``torchrun … --module raft_core.launch.rank JOB.json``.

The job is a file in a folder that every node sees. Rank 0 leaves the policy and its manifest in the job's
scratch folder, exactly as on one machine, so the owner judges and publishes it in the same way.
"""

import os
import sys
from pathlib import Path

from raft_core.policies.text.job import read_job


def main(path: Path) -> None:
    """Take part as the rank that torchrun's environment names; die with torchrun.

    The shared lock keeps the next start of the run away for as long as this process lives, also where nothing
    could end it: the owner died on another machine.
    """
    from raft_core.launch.forkserver import die_with_parent, hold_lock
    from raft_core.launch.processes import become_rank

    parent, job = os.getppid(), read_job(path)
    hold_lock(job.children_lock)
    die_with_parent(parent)
    become_rank()
    from raft_core.policies.text.trainer import train

    train(job)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
