"""The tabular policy: a table of probabilities, for which the result of RAFT is known in closed form.

Every prompt has the same finite list of completions, and the policy is a matrix of probabilities.
Supervised fine-tuning has an exact solution (the accepted frequencies), the expected reward and
the KL are sums, and so is the distribution that best-of-K selects from. Tests and the tutorial use it in
place of a language model: ``raft_core.algorithm.raft`` runs on it in milliseconds, and the whole flow in seconds.

Shapes: X prompts, Y completions, K samples of a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raft_core.types import Prompt, content_id

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TabularPolicy:
    """``probabilities_XY``: one row per prompt, each summing to 1. ``step`` in (0, 1]: see ``fit``.

    Raises ValueError for a matrix of another shape or rows that are not distributions.
    """

    prompts: tuple[Prompt, ...]
    completions: tuple[str, ...]
    probabilities_XY: Matrix
    step: float = 1.0

    def __post_init__(self) -> None:
        shape = (len(self.prompts), len(self.completions))
        p_XY = self.probabilities_XY
        if not 0 < self.step <= 1:
            raise ValueError(f"step must lie in (0, 1], not {self.step}")
        if p_XY.shape != shape:
            raise ValueError(
                f"probabilities have shape {p_XY.shape}, but there are {shape[0]} prompts and {shape[1]} completions"
            )
        if not (p_XY >= 0).all() or not np.allclose(p_XY.sum(axis=1), 1):
            raise ValueError("every row of probabilities must be at least 0 and sum to 1")

    @staticmethod
    def uniform(prompts: Sequence[Prompt], completions: Sequence[str], *, step: float = 1.0) -> "TabularPolicy":
        """Every completion with the same probability."""
        shape = (len(prompts), len(completions))
        return TabularPolicy(tuple(prompts), tuple(completions), np.full(shape, 1 / len(completions)), step)

    def sample(self, prompt: Prompt, samples_per_prompt: int, *, seed: int) -> list[str]:
        """K completions, independent of each other; the same for the same ``seed``, in whatever order prompts come."""
        row = self.prompts.index(prompt)
        stream = np.random.Generator(np.random.PCG64(int(content_id(seed, prompt.prompt_id), 16)))
        drawn_K = stream.choice(len(self.completions), size=samples_per_prompt, p=self.probabilities_XY[row])
        return [self.completions[y] for y in drawn_K]

    def fit(self, pairs: Sequence[tuple[Prompt, str]], weights: Sequence[float] | None = None) -> "TabularPolicy":
        """Maximum likelihood on accepted ``pairs``: p' = (1 − step)·p + step·frequency, for the prompts among them.

        A pair counts as its weight says, which must not be negative; without weights each counts once. With step 1
        it is the optimum of supervised fine-tuning without regularisation; a prompt that is not among the pairs
        keeps its row.
        """
        rows = {prompt: x for x, prompt in enumerate(self.prompts)}
        columns = {completion: y for y, completion in enumerate(self.completions)}
        counts_XY = np.zeros_like(self.probabilities_XY)
        for (prompt, completion), weight in zip(pairs, weights or [1.0] * len(pairs), strict=True):
            counts_XY[rows[prompt], columns[completion]] += weight
        totals_X1 = counts_XY.sum(axis=1, keepdims=True)
        frequencies_XY = np.divide(counts_XY, totals_X1, out=self.probabilities_XY.copy(), where=totals_X1 > 0)
        return self.moved_to(frequencies_XY)

    def moved_to(self, target_XY: Matrix) -> "TabularPolicy":
        """This policy after a fit to the distribution ``target_XY`` (what ``fit`` tends to with many samples)."""
        mixed_XY = (1 - self.step) * self.probabilities_XY + self.step * target_XY
        return TabularPolicy(self.prompts, self.completions, mixed_XY, self.step)

    def best_of_k(self, rewards_XY: Matrix, samples_per_prompt: int) -> Matrix:
        """The exact distribution of the completion that best-of-K keeps, one row per prompt.

        For the completions of one reward level, with F the probability of a reward at most that
        level and F⁻ below it: P(level wins) = F^K − (F⁻)^K, shared within the level in proportion
        to p, since a tie between samples is broken by chance.
        """
        p_XY = self.probabilities_XY
        at_most_XY = np.einsum("xz,xyz->xy", p_XY, rewards_XY[:, None, :] <= rewards_XY[:, :, None])
        below_XY = np.einsum("xz,xyz->xy", p_XY, rewards_XY[:, None, :] < rewards_XY[:, :, None])
        level_XY = at_most_XY - below_XY
        wins_XY = at_most_XY**samples_per_prompt - below_XY**samples_per_prompt
        kept_XY = p_XY * np.divide(wins_XY, level_XY, out=np.zeros_like(p_XY), where=level_XY > 0)
        normalised_XY: Matrix = kept_XY / kept_XY.sum(axis=1, keepdims=True)
        return normalised_XY

    def expected_reward(self, rewards_XY: Matrix) -> float:
        """E[r] over prompts (all equally likely) and completions."""
        return float((self.probabilities_XY * rewards_XY).sum(axis=1).mean())

    def kl(self, reference: "TabularPolicy") -> float:
        """KL(this || reference) in nats, mean over prompts; inf where the reference gives a completion no chance."""
        p_XY, q_XY = self.probabilities_XY, reference.probabilities_XY
        with np.errstate(divide="ignore", invalid="ignore"):
            terms_XY = np.where(p_XY > 0, p_XY * (np.log(p_XY) - np.log(q_XY)), 0.0)
        return float(terms_XY.sum(axis=1).mean())
