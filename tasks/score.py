"""Score every sample with every reward; a sample that cannot be scored is quarantined, counted."""

from raft_core.policies.base import Progress
from raft_core.records.artifacts import file_digest
from raft_core.records.steps import StepKey, StepRecord, code_digest, once
from raft_core.records.tables import PROMPTS, SAMPLES, SCORED, read_table, to_prompts, write_table
from raft_core.rewards import score as scoring
from tasks.check import read_quarantine
from tasks.iteration import Iteration
from tasks.validate import apply_quarantine


def score(it: Iteration, progress: Progress) -> StepRecord:
    """Write ``scored``: a row for every row of ``samples``, in the same order.

    Raises RewardError above ``scoring.max_failed_share``.
    """
    rewards = scoring.check_rewards(it.config.scoring.model_copy(update={"gold": ()}))
    key = StepKey(
        "score",
        inputs={
            "samples": file_digest(it.table("samples")),
            "quarantine": file_digest(it.table("quarantine")),
            "prompts": file_digest(it.table("prompts")),
            **{f"reward {name}": identity for name, identity in rewards.identities.items()},
        },
        settings=it.config.scoring.model_dump(mode="json", include={"rewards", "max_failed_share"}),
        code=code_digest("raft_core.rewards.score"),
        numerics=it.backend.numerics("float32"),
    )

    def compute() -> None:
        samples = read_table(it.table("samples"), SAMPLES, scoring.SCORING_COLUMNS)
        prompts = {p.prompt_id: p for p in to_prompts(read_table(it.table("prompts"), PROMPTS))}
        table = scoring.score(
            apply_quarantine(samples, read_quarantine(it)), prompts, rewards.rewards,
            max_failed_share=it.config.scoring.max_failed_share, progress=progress,
        )  # fmt: skip
        write_table(it.table("scored"), table, SCORED)

    return once(it.runs, key, {"scored": it.table("scored")}, compute)
