"""Token ids back to text, and where a stop string ends a completion."""

from collections.abc import Sequence

from raft_core.policies.text.chat import Tokenizer

SLACK_TOKENS = 8


def decode_completion(
    tokenizer: Tokenizer, prompt_token_ids: Sequence[int], token_ids: Sequence[int], *, skip_special_tokens: bool
) -> str:
    """The text that ``token_ids`` add to the prompt.

    Decoded behind the prompt's last token: some tokenizers drop the space before a text's first
    word, and the completion would lose it. Behind a special token a text begins anew.
    """
    before = list(prompt_token_ids[-1:])
    if not tokenizer.decode(before, skip_special_tokens=True):
        before = []
    return _behind(tokenizer, before, token_ids, skip_special_tokens=skip_special_tokens)


def decode_for_stop(tokenizer: Tokenizer, prompt_token_ids: Sequence[int], token_ids: Sequence[int]) -> str:
    """The text in which stop strings are looked for: special tokens are a part of it.

    So is a space before the first word, whatever stands before it: a stop string " w" ends a completion whose first
    token is " w" also where the completion's text begins without the space.
    """
    return _behind(tokenizer, prompt_token_ids[-1:], token_ids, skip_special_tokens=False)


def _behind(tokenizer: Tokenizer, before: Sequence[int], token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
    start = str(tokenizer.decode(list(before), skip_special_tokens=skip_special_tokens))
    whole = str(tokenizer.decode([*before, *token_ids], skip_special_tokens=skip_special_tokens))
    if whole.startswith(start):
        return whole[len(start) :]
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens))


def may_have_stopped(
    tokenizer: Tokenizer, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], stop: Sequence[str]
) -> list[bool]:
    """Whether a stop string stands near the end of each (prompt, completion); cheap, asked at every step."""
    reach = max(len(text.encode()) for text in stop) + SLACK_TOKENS
    ends = tokenizer.batch_decode(
        [[*prompt[-1:], *completion[-reach:]][-reach:] for prompt, completion in sequences], skip_special_tokens=False
    )
    return [any(text in end for text in stop) for end in ends]


def stop_position(text: str, stop: Sequence[str], start: int) -> int | None:
    """Where the first stop string that ends behind ``start`` ends in ``text``; None without one."""
    ends = []
    for string in stop:
        found = text.find(string, max(0, start - len(string) + 1))
        if found >= 0:
            ends.append(found + len(string))
    return min(ends, default=None)
