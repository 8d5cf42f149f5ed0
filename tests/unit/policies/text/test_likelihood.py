"""Log-probabilities of given tokens."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raft_core.policies.text import likelihood
from raft_core.policies.text.engines.transformers import LoadedTextPolicy
from raft_core.policies.text.likelihood import completion_logprobs, windows


def forced(policy: LoadedTextPolicy, prompt: list[int], completion: list[int], temperature: float) -> list[float]:
    with torch.no_grad():
        logits = policy.model(torch.tensor([[*prompt, *completion]])).logits[0].double() / temperature
    table = torch.log_softmax(logits, -1)
    return [float(table[len(prompt) - 1 + i, token]) for i, token in enumerate(completion)]


def test_values_equal_one_forward_pass_each(tiny: LoadedTextPolicy) -> None:
    pairs = [([3, 4], [5, 6, 7]), ([9], [1]), ([3, 4, 5, 6, 7, 8], []), ([1, 1], [1, 1]), ([40] * 9, [2] * 20)]
    found = completion_logprobs(tiny.model, pairs, temperature=0.85)
    for values, (prompt, completion) in zip(found, pairs, strict=True):
        assert values == pytest.approx(forced(tiny, prompt, completion, 0.85), abs=1e-4)


def test_batches_do_not_change_the_values(tiny: LoadedTextPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [([3 + i % 5] * (1 + i % 4), [7 + i, 8, 9][: 1 + i % 3]) for i in range(20)]
    together = completion_logprobs(tiny.model, pairs)
    monkeypatch.setattr(likelihood, "MAX_LOGITS", 1)
    alone = completion_logprobs(tiny.model, pairs)
    assert [len(v) for v in alone] == [len(c) for _, c in pairs]
    for a, b in zip(together, alone, strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_a_text_is_predicted_from_its_first_token_on(tiny: LoadedTextPolicy) -> None:
    ids = tiny.tokenizer(" w1 w2 w3 w4").input_ids
    (values,) = tiny.text_logprobs([" w1 w2 w3 w4"])
    assert values == pytest.approx(forced(tiny, ids[:1], ids[1:], 1.0), abs=1e-4)
    assert tiny.text_logprobs([" w1", ""]) == [[], []]


def test_a_text_longer_than_the_context_is_scored_whole(tiny: LoadedTextPolicy) -> None:
    text = "".join(f" w{i % 100}" for i in range(200))
    (values,) = tiny.text_logprobs([text])
    assert len(values) == 199
    ids = tiny.tokenizer(text).input_ids
    assert values[:63] == pytest.approx(forced(tiny, ids[:1], ids[1:64], 1.0), abs=1e-4)
    assert values[63:126] == pytest.approx(forced(tiny, ids[63:64], ids[64:127], 1.0), abs=1e-4)


@given(st.integers(0, 50), st.integers(2, 12) | st.none())
def test_windows_predict_every_token_but_the_first_once(length: int, context: int | None) -> None:
    ids = list(range(length))
    pieces = list(windows(ids, context))
    assert [token for _, rest in pieces for token in rest] == ids[1:]
    assert all(len(first) == 1 and rest and first[0] == rest[0] - 1 for first, rest in pieces)
    assert all(1 + len(rest) <= (context or math.inf) for _, rest in pieces)


def test_what_has_no_log_probability_is_refused(tiny: LoadedTextPolicy) -> None:
    with pytest.raises(ValueError, match="temperature"):
        completion_logprobs(tiny.model, [([1], [2])], temperature=0)
    with pytest.raises(ValueError, match="prompt token"):
        completion_logprobs(tiny.model, [([], [2])])
