"""The loss: hand-computed values, which tokens have a gradient, and the learning rate's fall."""

import math
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch

from raft_core.errors import StepError
from raft_core.losses.base import Loss, TokenColumn, Tokens
from raft_core.losses.raft import Raft
from raft_core.policies.text.batches import Batch, collate, collate_packed
from raft_core.policies.text.engines.transformers import LoadedTextPolicy
from raft_core.policies.text.loss import learning_rate_factor, summed_loss
from raft_core.policies.text.model import masked_logits
from raft_core.selection.all_best import AllBest
from raft_core.selection.base import Candidates, Selector, select
from raft_core.selection.threshold import Threshold

SEQUENCES = [([3, 4, 5], [6, 7]), ([8], [9, 10, 1]), ([11, 12], [13])]


def loss_of(policy: LoadedTextPolicy, batch: Batch, temperature: float = 1.0) -> torch.Tensor:
    head = policy.model.get_output_embeddings()
    logits = masked_logits(policy.model, batch.inputs, batch.predicts_BT, head=head)
    return summed_loss(Raft(), logits, batch.targets_N, batch.weights_N, temperature)


def test_value_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [math.log(4), 0.0]])
    # p(1) = 3/4 at λ = 1; p(0) = 4/5. Weights 1 and 2.
    loss = summed_loss(Raft(), logits, torch.tensor([1, 0]), torch.tensor([1.0, 2.0]), 1.0)
    assert float(loss) == pytest.approx(-math.log(3 / 4) - 2 * math.log(4 / 5))


def test_temperature_divides_the_logits() -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0]])
    for temperature in (0.5, 0.85, 2.0):
        expected = -torch.log_softmax(logits / temperature, -1)[0, 2]
        assert float(summed_loss(Raft(), logits, torch.tensor([2]), torch.ones(1), temperature)) == pytest.approx(
            float(expected)
        )


REWARDS_BK = np.array([[1.0, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])


@pytest.mark.parametrize("selector", [AllBest(), Threshold(threshold=1.0)], ids=lambda selector: selector.type)
def test_its_gradient_on_accepted_samples_is_reinforces_divided_by_the_acceptance_rate(selector: Selector) -> None:
    """Rewards of 0 and 1, completions of one token: REINFORCE adds r · (one-hot(y) − p(x)) for every sample drawn."""
    rng = np.random.default_rng(0)
    logits_BV, samples_BK = rng.normal(size=(3, 5)), rng.integers(0, 5, (3, 4))
    rows = Candidates(np.repeat(np.arange(3), 4), REWARDS_BK.ravel(), np.array([f"{i:02d}" for i in range(12)]))
    kept = select(rows, selector, 4)
    table = torch.tensor(logits_BV, requires_grad=True)
    logits_MV = table[torch.tensor(rows.prompts_N[kept.indices_M])]
    targets_M = torch.tensor(samples_BK.ravel()[kept.indices_M])
    loss = summed_loss(Raft(), logits_MV, targets_M, torch.tensor(kept.weights_M), 1.0) / len(kept.indices_M)
    loss.backward()

    p_BV = np.exp(logits_BV) / np.exp(logits_BV).sum(axis=1, keepdims=True)
    one_hot_BKV = np.eye(5)[samples_BK]
    reinforce_BV = (REWARDS_BK[:, :, None] * (one_hot_BKV - p_BV[:, None])).sum(axis=1) / REWARDS_BK.size
    assert table.grad is not None
    assert -table.grad.numpy() == pytest.approx(reinforce_BV / (6 / 12), abs=1e-6)


@pytest.mark.parametrize("together", [collate, collate_packed])
def test_loss_of_a_batch_is_the_sum_over_its_sequences(tiny: LoadedTextPolicy, together: type[Batch]) -> None:
    weights = [1.0, 0.5, 2.0]
    expected = 0.0
    for (prompt, completion), weight in zip(SEQUENCES, weights, strict=True):
        logits = tiny.model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1] / 0.85
        nll = torch.nn.functional.cross_entropy(logits, torch.tensor(completion), reduction="sum")
        expected += weight * nll.item()
    assert loss_of(tiny, together(SEQUENCES, weights), 0.85).item() == pytest.approx(expected, rel=1e-5)


def test_packed_and_padded_batches_have_the_same_gradient(tiny: LoadedTextPolicy) -> None:
    gradients = []
    for together in (collate, collate_packed):
        tiny.model.zero_grad()
        loss_of(tiny, together(SEQUENCES)).backward()
        gradients.append([p.grad.clone() for p in tiny.model.parameters()])
    tiny.model.zero_grad()
    for padded, packed in zip(*gradients, strict=True):
        assert torch.allclose(padded, packed, atol=1e-5)


def test_only_response_tokens_have_a_gradient(tiny: LoadedTextPolicy) -> None:
    """The loss sees the logits that predict a response token, and no others: no prompt, no padding."""
    batch = collate(SEQUENCES)
    captured = []
    handle = tiny.model.model.norm.register_forward_hook(lambda *a: (a[2].retain_grad(), captured.append(a[2]))[0])
    loss_of(tiny, batch).backward()
    handle.remove()
    tiny.model.zero_grad()
    touched = captured[0].grad.abs().sum(-1) > 0
    assert torch.equal(touched, batch.predicts_BT)
    # prompt of 3 and 2 learnt tokens: positions 2 and 3 predict them; and so on.
    assert touched.nonzero().tolist() == [[0, 2], [0, 3], [1, 0], [1, 1], [1, 2], [2, 1]]


def test_the_head_sees_the_needed_positions_only(tiny: LoadedTextPolicy) -> None:
    shapes = []
    handle = tiny.model.lm_head.register_forward_hook(lambda *a: shapes.append(tuple(a[2].shape)))
    loss_of(tiny, collate(SEQUENCES))
    handle.remove()
    assert shapes == [(1, 6, len(tiny.tokenizer))]


@pytest.mark.parametrize(
    ("schedule", "step", "iteration", "expected"),
    [
        ("linear_over_run", 0, 0, 1.0),
        ("linear_over_run", 2, 0, 1 - 0.5 / 5),
        ("linear_over_run", 0, 4, 1 - 4 / 5),
        ("linear_over_run", 3, 4, 1 - 4.75 / 5),
        ("linear", 0, 4, 1.0),
        ("linear", 3, 4, 0.25),
        ("constant", 3, 4, 1.0),
    ],
)
def test_learning_rate_falls_as_the_schedule_says(schedule: str, step: int, iteration: int, expected: float) -> None:
    factor = learning_rate_factor(schedule, step, num_steps=4, warmup_steps=0, iteration=iteration, iterations=5)
    assert factor == pytest.approx(expected)


def test_warm_up_rises_to_the_schedule() -> None:
    factors = [
        learning_rate_factor("constant", s, num_steps=9, warmup_steps=3, iteration=1, iterations=5) for s in range(5)
    ]
    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_learning_rate_is_never_negative_beyond_the_run() -> None:
    for iteration in range(8):
        factor = learning_rate_factor(
            "linear_over_run", 3, num_steps=4, warmup_steps=0, iteration=iteration, iterations=5
        )
        assert factor > 0


class Ratio(Loss):
    """−p / p of sampling, a token: reads a column of the table."""

    type: Literal["ratio"] = "ratio"
    columns: ClassVar[tuple[TokenColumn, ...]] = ("sampling_logprobs",)

    def per_token(self, tokens: Tokens) -> torch.Tensor:
        return -torch.exp(tokens.logprobs_N - tokens.columns["sampling_logprobs"])


class Mean(Loss):
    """A loss of another package that does not keep to what is asked."""

    type: Literal["mean"] = "mean"

    def per_token(self, tokens: Tokens) -> torch.Tensor:
        return -tokens.logprobs_N.mean()


@pytest.mark.parametrize("together", [collate, collate_packed])
def test_a_loss_reads_the_columns_of_its_own_tokens(tiny: LoadedTextPolicy, together: type[Batch]) -> None:
    """With the policy's own log-probabilities as the column, every ratio is 1, in whatever order rows are packed."""
    columns = []
    for prompt, completion in SEQUENCES:
        logits = tiny.model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        nll = torch.nn.functional.cross_entropy(logits, torch.tensor(completion), reduction="none")
        columns.append({"sampling_logprobs": (-nll).tolist()})
    batch = together(SEQUENCES, [1.0, 0.5, 2.0], columns)
    logits = masked_logits(tiny.model, batch.inputs, batch.predicts_BT, head=tiny.model.get_output_embeddings())
    total = summed_loss(Ratio(), logits, batch.targets_N, batch.weights_N, 1.0, batch.columns)
    assert total.item() == pytest.approx(-(2 * 1.0 + 3 * 0.5 + 1 * 2.0), rel=1e-4)


def test_a_loss_that_is_not_one_value_a_token_is_named() -> None:
    with pytest.raises(StepError) as caught:
        summed_loss(Mean(), torch.zeros(2, 3), torch.tensor([1, 0]), torch.ones(2), 1.0)
    assert "mean" in caught.value.what
    assert f"{__name__}.Mean" in str(caught.value.hint)
