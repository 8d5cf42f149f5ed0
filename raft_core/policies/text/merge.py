"""Write a policy as one checkpoint without adapter."""

import shutil
from pathlib import Path

from raft_core.config.policy import TextPolicyConfig
from raft_core.errors import StepError
from raft_core.files.artifacts import fsync_folder
from raft_core.launch import processes
from raft_core.policies.text.finetune import PRELOAD
from raft_core.types import Policy


def merge(policy: Policy, config: TextPolicyConfig, out: Path) -> None:
    """Write base and adapter as one float32 checkpoint to ``out``, by a rename.

    In a child process: saving imports the libraries of training, and the memory is freed at once.
    Raises StepError if ``out`` exists.
    """
    if out.exists():
        raise StepError(f"output folder exists already: {out}", hint="remove it, or choose another folder")
    scratch = out.with_name(f".{out.name}.merging")
    shutil.rmtree(scratch, ignore_errors=True)
    processes.run_ranks(merge_rank, (policy, config, scratch / "policy"), ranks=1, scratch=scratch, preload=PRELOAD)
    (scratch / "policy").rename(out)
    fsync_folder(out.parent)
    shutil.rmtree(scratch)


def merge_rank(job: tuple[Policy, TextPolicyConfig, Path]) -> None:
    """What the child runs."""
    from raft_core.policies.text.checkpoint import make_durable, save_full
    from raft_core.policies.text.model import load_policy, memory_errors, model_folder

    policy, config, folder = job
    with memory_errors():
        save_full(load_policy(policy, config), None, model_folder(policy), folder)
    make_durable(folder)
