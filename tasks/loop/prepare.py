"""Before the loop: load prompts, rewards and the initial policy, and report bad input before a model is loaded."""

from collections.abc import Sequence
from pathlib import Path

from raft_core.audit.lineage import policy_facts
from raft_core.config.run import RaftConfig
from raft_core.errors import InputError
from raft_core.files.artifacts import verify, verify_model
from raft_core.forgetting.exclusions import FILE as EXCLUSIONS
from raft_core.forgetting.exclusions import read_exclusions, record_left_out, without
from raft_core.losses.registry import loss_sources
from raft_core.metrics.registry import metric_sources
from raft_core.policies.base import modality
from raft_core.prompts.splits import Splits, draw, load_prompts, split_prompts
from raft_core.records.pinned import changes, check_pins, pin, read_pins
from raft_core.records.run import BASE, Run, read_chain, read_commit, record_event
from raft_core.records.tables import PROMPTS, to_table, write_table
from raft_core.references import resolve
from raft_core.rewards.load import Rewards, check_rewards
from raft_core.selection.registry import selector_sources
from raft_core.types import Artifact, Policy, Prompt
from tasks.loop.iteration import Iteration
from tasks.loop.signal import check_signal


class Material:
    """The inputs of a run: its prompts and its initial policy p_0.

    Not a dataclass on purpose: Prefect stores the fields of dataclasses that are passed to a flow in its database, up
    to a limit, and walks through them before every task. It does not look into this class, so prompts stay in this
    process. ``warnings``: what works but looks wrong, to be shown before anything is sampled.
    """

    __slots__ = ("base", "held_out", "run", "train", "warnings")

    def __init__(
        self, run: Run, train: Sequence[Prompt], held_out: Sequence[Prompt], base: Policy, warnings: Sequence[str] = ()
    ) -> None:
        self.run, self.train, self.held_out, self.base, self.warnings = run, train, held_out, base, warnings

    def next_iteration(self) -> Iteration:
        """The first iteration without a commit, from the policy that the last commit made."""
        last = read_chain(self.run)[-1]
        if last.iteration == BASE:
            return Iteration(self.run, 0, self.base, self.base)
        return Iteration(self.run, last.iteration + 1, committed_policy(self.run, last.iteration, self.base), self.base)


def prepare(run: Run, *, accept_reward_change: bool = False) -> Material:
    """Read and check everything that ``run.config`` names, and pin the parts of its rewards.

    Raises ConfigError, InputError, RewardError or IntegrityError, nearly all before weights are loaded. The initial
    policy of a new run is loaded last and tried on a few tokens.
    """
    config = run.config
    splits = _allowed_splits(run)
    checkpoint = modality(config.policy.type).checkpoint
    checkpoint.check_settings(config)
    warnings = checkpoint.check(config.policy, [*splits.train, *splits.held_out, *splits.promotion], config.sampling)
    rewards = check_rewards(config.scoring)
    warnings = [*warnings, *check_signal(config, rewards, splits.train)]
    draw(splits.train, config.sampling.prompts_per_iteration, seed=config.seed, iteration=0)
    held_out = draw(
        splits.held_out, min(config.prompts.max_held_out, len(splits.held_out)), seed=config.seed, iteration=0
    )
    base = initial_policy(run)
    if read_commit(run, BASE) is None:  # a prompt may have been excluded since
        checkpoint.probe(base, config.policy, config.finetuning)
        write_table(run.table(BASE, "prompts"), to_table(PROMPTS, held_out), PROMPTS)
    changed = settle_rewards(run, rewards, accept=accept_reward_change)
    return Material(run, splits.train, held_out, base, [*warnings, *changed])


def settle_rewards(run: Run, rewards: Rewards, *, accept: bool) -> list[str]:
    """Compare the rewards with those that the run started with. Returns a warning for each accepted change.

    ``accept``: record changes as an event instead of raising ConfigError. Until the base is committed no score is
    final, so rewards may still change.
    """
    config = run.config
    code = {**selector_sources(config.selection), **loss_sources(config.finetuning.loss)}
    found = {**rewards.sources, **code, **metric_sources(config.evaluation.metrics)}
    changed = changes(read_pins(run) or {}, found)
    begun = read_commit(run, BASE) is not None
    if changed and begun and not accept:
        check_pins(run, found)
    pin(run, found)
    if not changed or not begun:
        return []
    record_event(run, "reward_changed", changes=changed)
    return [
        f"accepted and recorded: {change}; figures before and after the change are of different rewards"
        for change in changed
    ]


def _allowed_splits(run: Run) -> Splits:
    """The run's prompts without excluded ones; the ids that were left out are recorded with the run."""
    allowed, left_out = allowed_splits(run.config, run.path.parent.parent)
    record_left_out(run.path, left_out)
    return allowed


def allowed_splits(config: RaftConfig, workspace: Path) -> tuple[Splits, list[str]]:
    """The prompts of ``config`` without those that ``workspace`` excludes, and the ids that were left out, including
    perplexity texts. Raises InputError if nothing is left."""
    splits = split_prompts(config.prompts, config.seed, resolve)
    allowed, left_out = without(splits, read_exclusions(workspace))
    texts, texts_left_out = perplexity_texts(config, workspace)
    no_prompts = not allowed.train or not allowed.held_out
    if no_prompts or (texts_left_out and not texts):
        what = "prompts" if no_prompts else "perplexity texts"
        raise InputError(
            f"all {what} are excluded",
            got=f"{len(left_out) + len(texts_left_out)} excluded by {workspace / EXCLUSIONS}",
            hint="configure prompts that are not excluded",
        )
    return allowed, sorted({*left_out, *texts_left_out})


def initial_policy(run: Run) -> Policy:
    """The initial policy p_0 that the run's configuration names, hashed in the same way as when the run started."""
    commit = read_commit(run, BASE)
    known = policy_facts(commit.content).digest if commit else None
    return modality(run.config.policy.type).checkpoint.base_policy(run.config.policy, known)


def committed_policy(run: Run, iteration: int, base: Policy) -> Policy:
    """The policy that a committed iteration made, with its bytes verified.

    Raises IntegrityError if the bytes, or the base that an adapter was trained on, changed.
    """
    if iteration == BASE:
        return base
    commit = read_chain(run)[iteration + 1]
    policy = Artifact(run.folder(iteration) / "policy", commit.outputs["policy"])
    verify(policy)
    if (expected := commit.content["policy"]["base"]) is None:
        return Policy(policy.path, policy.digest)
    verify_model(base.path, expected)
    return Policy(policy.path, policy.digest, Artifact(base.path, expected))


def perplexity_texts(config: RaftConfig, workspace: Path) -> tuple[list[str], list[str]]:
    """The fixed perplexity texts without those that ``workspace`` excludes, and the ids that were left out.

    Both are empty if the configuration names no file. A text that is left out is not replaced.
    """
    chosen = config.evaluation
    if chosen.perplexity_text is None:
        return [], []
    excluded = read_exclusions(workspace)
    texts = load_prompts(Path(resolve(chosen.perplexity_text)), "text")[: chosen.max_perplexity_texts]
    return [t.text for t in texts if not excluded.covers(t)], [t.prompt_id for t in texts if excluded.covers(t)]
