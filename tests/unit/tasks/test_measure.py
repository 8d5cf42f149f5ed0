"""The likelihoods behind KL: both sides by teacher forcing, so that the base is no way from itself."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raft_core.config.run import RaftConfig
from raft_core.metrics.divergence import kl_to_base
from raft_core.policies.text.backend import base_policy
from raft_core.types import Prompt
from tasks.loop.measure import Answers, Subject, answer, base_logprobs

PROMPTS = [Prompt.of(text) for text in (" w1 w2 w3", " w5", " w9 w8 w7 w6 w5", " w1 w4", " w30 w2", " w7 w7 w7")]


@pytest.fixture
def subject(tiny_checkpoint: Path) -> Callable[..., Subject]:
    """``subject(temperature=…)``: the initial policy, measured in bfloat16."""

    def build(**sampling: object) -> Subject:
        torch.set_num_threads(1)
        sampled = {"max_new_tokens": 12, "samples_per_prompt": 1, "dtype": "bfloat16", **sampling}
        config = RaftConfig.model_validate(
            {
                "name": "measured",
                "policy": {"model": str(tiny_checkpoint)},
                "prompts": {"train": "p.jsonl"},
                "sampling": sampled,
                "scoring": {"rewards": [{"type": "function", "function": "r.py:score"}]},
                "finetuning": {"loss_temperature": 1.0},
            }
        )
        base = base_policy(config.policy)
        return Subject(base, base, config, config.policy, seed=0)

    return build


def measured(subject: Subject, folder: Path) -> Answers:
    with subject.open(subject.policy) as model:
        return answer(subject, model, PROMPTS, [" w1 w2"], folder, lambda _: None)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.0}, {"top_p": 0.9}, {"min_new_tokens": 3}], ids=str)
def test_the_base_is_no_way_from_itself(
    subject: Callable[..., Subject], tmp_path: Path, sampling: dict[str, object]
) -> None:
    it = subject(**sampling)
    answers = measured(it, tmp_path / "shards")
    assert kl_to_base(answers.policy_logprobs, base_logprobs(it, answers.samples)) == 0


def test_what_decoding_recorded_is_kept_and_nearly_the_same(subject: Callable[..., Subject], tmp_path: Path) -> None:
    answers = measured(subject(), tmp_path / "shards")
    recorded = [value for sample in answers.samples for value in sample.sampling_logprobs]
    forced = [value for values in answers.policy_logprobs for value in values]
    assert recorded != forced
    assert recorded == pytest.approx(forced, abs=0.1)
