"""Text of a completion, and where a stop string ends it."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raft_core.policies.text.decode import decode_completion, decode_for_stop, may_have_stopped, stop_position


@pytest.fixture
def spaced() -> PreTrainedTokenizerFast:
    """A tokenizer that drops the space before the first word, as those of SentencePiece do."""
    ids = {token: i for i, token in enumerate(["<unk>", "</s>", "▁a", "▁good", "▁film", "s"])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


def test_the_space_before_the_first_word_is_kept(spaced: PreTrainedTokenizerFast) -> None:
    assert spaced.decode([3, 4]) == "good film"
    for skip in (True, False):
        assert decode_completion(spaced, [2], [3, 4], skip_special_tokens=skip) == " good film"
        assert decode_completion(spaced, [2, 4], [5], skip_special_tokens=skip) == "s"
        assert decode_completion(spaced, [1], [4], skip_special_tokens=skip) == "film"
        assert decode_completion(spaced, [2], [], skip_special_tokens=skip) == ""


def test_special_tokens_are_told_unless_they_are_skipped(spaced: PreTrainedTokenizerFast) -> None:
    assert decode_completion(spaced, [2], [4, 1, 5], skip_special_tokens=False) == " film</s>s"
    assert decode_completion(spaced, [2], [4, 1, 5], skip_special_tokens=True) == " films"


def test_stop_strings_see_special_tokens_and_the_space_before_the_first_word(spaced: PreTrainedTokenizerFast) -> None:
    assert decode_for_stop(spaced, [2], [4, 1, 5]) == " film</s>s"
    assert decode_for_stop(spaced, [1], [4]) == " film"


def test_whether_a_stop_string_is_near(spaced: PreTrainedTokenizerFast) -> None:
    near = [([2], [3, 4]), ([2], [4, 3]), ([2], [5] * 50)]
    assert may_have_stopped(spaced, near, ["lm", "zz"]) == [True, True, False]
    assert may_have_stopped(spaced, [([2], [4]), ([1], [4]), ([4], [5])], [" film"]) == [True, True, False]
    assert may_have_stopped(spaced, [([2], [4] * 30 + [1])], ["</s>"]) == [True]


@pytest.mark.parametrize(
    ("text", "stop", "start", "expected"),
    [
        ("one. two.", ["."], 0, 4),
        ("one. two.", ["."], 4, 9),
        ("one. two.", [". t"], 4, 6),  # it ends behind the start, so it counts
        ("one. two!", ["!", "."], 0, 4),  # the first in the text, not in the list
        ("ab", ["abc"], 0, None),
        ("", ["."], 0, None),
    ],
)
def test_the_first_stop_string_that_ends_behind_the_start(
    text: str, stop: list[str], start: int, expected: int | None
) -> None:
    assert stop_position(text, stop, start) == expected
