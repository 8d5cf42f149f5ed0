"""Algorithm 1 of RAFT (arXiv:2304.06767) in one function without files: to read, and as the reference in tests.

``flows/loop/align.py`` is the same loop with records and resuming. Any policy that can sample and be fitted works, for
example ``policies.tabular.policy.TabularPolicy``.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self, TypeVar

import numpy as np

from raft_core.config.sampling import SamplingConfig
from raft_core.prompts.splits import draw
from raft_core.selection.base import Candidates, Selector, select
from raft_core.types import Prompt, content_id


class Learner(Protocol):
    """The smallest interface of a policy."""

    def sample(self, prompt: Prompt, samples_per_prompt: int, *, seed: int) -> Sequence[str]:
        """K completions of one prompt, drawn independently."""

    def fit(self, pairs: Sequence[tuple[Prompt, str]], weights: Sequence[float]) -> Self:
        """The policy after supervised fine-tuning on weighted ``pairs``, starting from this one."""


P = TypeVar("P", bound="Learner")


def raft(
    policy: P,
    prompts: Sequence[Prompt],
    reward: Callable[[Prompt, str], float],
    *,
    iterations: int,
    sampling: SamplingConfig,
    selector: Selector,
    seed: int = 0,
) -> Iterator[P]:
    """Yield the policy after each iteration."""
    num_prompts, num_samples = sampling.prompts_per_iteration, sampling.samples_per_prompt
    for iteration in range(iterations):
        # 1. Collect: b prompts, K samples of each from the current policy.
        batch = draw(prompts, num_prompts, seed=seed, iteration=iteration)
        stream = int(content_id("sample", seed, iteration), 16)
        pairs = [(x, y) for x in batch for y in policy.sample(x, num_samples, seed=stream)]
        # 2. Rank: keep the completions with the highest reward (y* = argmax of the K, one pair per prompt).
        candidates = Candidates(
            prompts_N=np.repeat(np.arange(num_prompts), num_samples),
            rewards_N=np.array([reward(x, y) for x, y in pairs], dtype=np.float64),
            sample_ids_N=np.array([content_id(seed, iteration, x.prompt_id, n) for n, (x, _) in enumerate(pairs)]),
        )
        kept = select(candidates, selector, num_samples)
        # 3. Fine-tune: supervised, on the kept pairs, from the current policy.
        policy = policy.fit([pairs[n] for n in kept.indices_M], kept.weights_M.tolist())
        yield policy
