"""Before the loop: load what a run is made of, and find every bad input before a model loads."""

from collections.abc import Sequence
from pathlib import Path

from raft_core import examples
from raft_core.audit.lineage import policy_facts
from raft_core.config.run import RaftConfig
from raft_core.errors import InputError
from raft_core.files.artifacts import verify, verify_model
from raft_core.forgetting.exclusions import FILE as EXCLUSIONS
from raft_core.forgetting.exclusions import read_exclusions, record_left_out, without
from raft_core.losses.registry import loss_sources
from raft_core.metrics.registry import metric_sources
from raft_core.policies.base import backend
from raft_core.prompts.splits import Splits, draw, load_prompts, split_prompts
from raft_core.records.pinned import changes, check_pins, pin, read_pins
from raft_core.records.run import BASE, Run, read_chain, read_commit, record_event
from raft_core.records.tables import PROMPTS, to_table, write_table
from raft_core.rewards.load import Rewards, check_rewards
from raft_core.selection.registry import selector_sources
from raft_core.types import Artifact, Policy, Prompt
from tasks.loop.iteration import Iteration
from tasks.loop.signal import check_signal


class Material:
    """What a run is made of: its prompts and its initial policy p_0.

    Not a dataclass on purpose: Prefect keeps the fields of a dataclass that a flow is handed in its database, up to a
    limit, and walks through them before every task. It sees nothing in this, so prompts stay in this process.
    ``warnings``: what works, but a person should know before anything is sampled.
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
    """Read and check everything that ``run.config`` names, and pin what its rewards consist of.

    Raises ConfigError, InputError, RewardError or IntegrityError, nearly all before weights load: of a new run the
    initial policy is loaded last, and tried on a few tokens.
    """
    config = run.config
    splits = _allowed_splits(run)
    modality = backend(config.policy.type)
    warnings = modality.check(config.policy, [*splits.train, *splits.held_out, *splits.promotion], config.sampling)
    rewards = check_rewards(config.scoring)
    warnings = [*warnings, *check_signal(config, rewards, splits.train)]
    draw(splits.train, config.sampling.prompts_per_iteration, seed=config.seed, iteration=0)
    held_out = draw(
        splits.held_out, min(config.prompts.max_held_out, len(splits.held_out)), seed=config.seed, iteration=0
    )
    base = initial_policy(run)
    if read_commit(run, BASE) is None:  # a prompt may have been excluded since
        modality.probe(base, config.policy, config.finetuning)
        write_table(run.table(BASE, "prompts"), to_table(PROMPTS, held_out), PROMPTS)
    changed = settle_rewards(run, rewards, accept=accept_reward_change)
    return Material(run, splits.train, held_out, base, [*warnings, *changed])


def settle_rewards(run: Run, rewards: Rewards, *, accept: bool) -> list[str]:
    """Hold the rewards against those that the run began with; ``accept``: a change becomes an event, and a warning.

    Until the base is committed nothing was scored for good, and the rewards may still be corrected.
    Raises ConfigError.
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
    return [f"accepted, and recorded: {told}; figures before and after it are of different rewards" for told in changed]


def _allowed_splits(run: Run) -> Splits:
    """The run's prompts as ``allowed_splits`` has them; what was left out is recorded with the run."""
    allowed, left_out = allowed_splits(run.config, run.path.parent.parent)
    record_left_out(run.path, left_out)
    return allowed


def allowed_splits(config: RaftConfig, workspace: Path) -> tuple[Splits, list[str]]:
    """The prompts of ``config`` without what is excluded in ``workspace``, and the ids of what was left out, texts of
    the perplexity as well. Raises InputError where nothing is left."""
    splits = split_prompts(config.prompts, config.seed, examples.resolve)
    allowed, left_out = without(splits, read_exclusions(workspace))
    texts, texts_left_out = perplexity_texts(config, workspace)
    no_prompts = not allowed.train or not allowed.held_out
    if no_prompts or (texts_left_out and not texts):
        what = "prompts" if no_prompts else "texts of the perplexity"
        raise InputError(
            f"no {what} are left without the excluded ones",
            got=f"{len(left_out) + len(texts_left_out)} are excluded",
            hint=f"give other prompts; {workspace / EXCLUSIONS} says what is excluded",
        )
    return allowed, sorted({*left_out, *texts_left_out})


def initial_policy(run: Run) -> Policy:
    """The initial policy p_0 that the run's configuration names, hashed as the run did when it started."""
    commit = read_commit(run, BASE)
    known = policy_facts(commit.content).digest if commit else None
    return backend(run.config.policy.type).base_policy(run.config.policy, known)


def committed_policy(run: Run, iteration: int, base: Policy) -> Policy:
    """The policy that a committed iteration made, its bytes checked.

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
    """The fixed texts of the perplexity without what is excluded in ``workspace``, and the ids of those left out.

    None where the configuration names no file. No other text takes the place of one that is left out.
    """
    chosen = config.evaluation
    if chosen.perplexity_text is None:
        return [], []
    excluded = read_exclusions(workspace)
    texts = load_prompts(Path(examples.resolve(chosen.perplexity_text)), "text")[: chosen.max_perplexity_texts]
    return [t.text for t in texts if not excluded.covers(t)], [t.prompt_id for t in texts if excluded.covers(t)]
