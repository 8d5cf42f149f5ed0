"""One rank of a fine-tuning across machines: ``torchrun … --module raft_core.launch.rank JOB.json``.

The job is a file in a folder that every node can read. Rank 0 writes the policy and its manifest to the job's scratch
folder, exactly as on one machine, so the owner checks and publishes it in the same way.
"""

import os
import sys
from pathlib import Path

from raft_core.policies.text.job import read_job


def main(path: Path) -> None:
    """Run as the rank that torchrun's environment names; end when torchrun ends.

    The shared lock prevents another start of the run while this process lives, even if the owner died on another
    machine and cannot end it.
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
