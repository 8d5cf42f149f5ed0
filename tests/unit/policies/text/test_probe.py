"""Real architectures, randomly initialised: who can be sampled, padded and packed, and who is refused by name."""

from collections.abc import Sequence
from unittest.mock import Mock

import pytest
import torch

from raft_core.config.sampling import SamplingConfig
from raft_core.errors import InputError
from raft_core.policies.text.probe import check_decoding, check_packing, check_padding
from raft_core.policies.text.sample import Rules, complete
from tests.unit.policies.text.families import FAMILIES, LEAKING, STATEFUL, build


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - LEAKING.keys()))
def test_attention_that_transformers_masks_can_do_all(family: str) -> None:
    model = build(family)
    check_decoding(model)
    check_padding(model)
    check_packing(model.train())
    assert model.training


@pytest.mark.parametrize("family", [*LEAKING, *STATEFUL])
def test_packing_is_refused_where_sequences_see_each_other(family: str) -> None:
    model = build(family)
    check_decoding(model)
    check_padding(model)
    with pytest.raises(InputError, match="packed") as caught:
        check_packing(model)
    assert type(model).__name__ in str(caught.value)


@pytest.mark.parametrize("family", [*STATEFUL, "llama", "opt", "gpt2"])
def test_a_sampled_token_has_the_probability_that_a_plain_forward_pass_gives_it(family: str) -> None:
    """Prompts of different lengths, three samples each, rows that end early: against one row, uncached, unpadded."""
    model = build(family)
    prompts = [[5, 9, 77], [30, 31, 32, 33, 34, 35], [8]]
    drafts = complete(model, _rules(ends=range(100, 250)), prompts, list(range(9)))
    assert len({len(draft.token_ids) for draft in drafts}) > 1
    for draft in drafts:
        ids = [*draft.prompt_token_ids, *draft.token_ids]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        behind = torch.log_softmax(logits[len(draft.prompt_token_ids) - 1 : -1].float(), -1)
        expected = behind.gather(1, torch.tensor(draft.token_ids)[:, None])[:, 0].tolist()
        assert draft.logprobs == pytest.approx(expected, abs=2e-3)


def test_a_model_that_looks_ahead_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="BertLMHeadModel"):
        check_decoding(build("bert"))


def test_a_state_that_padding_changes_is_refused_by_name() -> None:
    model = build(
        "minimax",
        layer_types=["linear_attention", "full_attention"],
        num_local_experts=2,
        num_experts_per_tok=1,
        block_size=8,
        head_dim=8,
    )
    with pytest.raises(InputError, match="MiniMaxForCausalLM"):
        check_decoding(model)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("[enforce fail] can't allocate memory")]
)
def test_a_lack_of_memory_is_not_held_against_the_architecture(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("llama")
    monkeypatch.setattr(model, "forward", Mock(side_effect=error))
    with pytest.raises(MemoryError):
        check_decoding(model)


class _Tokenizer:
    """Enough of a tokenizer to draw without text."""

    def decode(self, ids: Sequence[int], **_: object) -> str:
        return " ".join(map(str, ids))

    def __len__(self) -> int:
        return 512


def _rules(ends: Sequence[int]) -> Rules:
    sampling = SamplingConfig(max_new_tokens=6, dtype="float32", temperature=1.0)
    return Rules(sampling, _Tokenizer(), frozenset(ends), frozenset(range(512)))
