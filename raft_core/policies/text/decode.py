"""Token ids back to text, and where a stop string ends a completion."""

from collections.abc import Sequence

from raft_core.policies.text.chat import Tokenizer

SLACK_TOKENS = 8


def decode_completion(
    tokenizer: Tokenizer, prompt_token_ids: Sequence[int], token_ids: Sequence[int], *, skip_special_tokens: bool
) -> str:
    """The text that ``token_ids`` add to the prompt.

    Decoded together with the prompt's last token: some tokenizers drop the space before the first word
    of a text, and the completion would lose it. After a special token a new text starts.
    """
    before = list(prompt_token_ids[-1:])
    if not tokenizer.decode(before, skip_special_tokens=True):
        before = []
    return _behind(tokenizer, before, token_ids, skip_special_tokens=skip_special_tokens)


def decode_for_stop(tokenizer: Tokenizer, prompt_token_ids: Sequence[int], token_ids: Sequence[int]) -> str:
    """The text in which stop strings are searched, including special tokens.

    It also includes a space before the first word: a stop string " w" ends a completion whose first token is " w" even
    if the completion's text starts without the space.
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
    """Whether a stop string is near the end of each (prompt, completion); cheap, called at every step."""
    reach = max(len(text.encode()) for text in stop) + SLACK_TOKENS
    ends = tokenizer.batch_decode(
        [[*prompt[-1:], *completion[-reach:]][-reach:] for prompt, completion in sequences], skip_special_tokens=False
    )
    return [any(text in end for text in stop) for end in ends]


def stop_position(text: str, stop: Sequence[str], start: int) -> int | None:
    """The end in ``text`` of the first stop string that ends after ``start``; None without one."""
    ends = []
    for string in stop:
        found = text.find(string, max(0, start - len(string) + 1))
        if found >= 0:
            ends.append(found + len(string))
    return min(ends, default=None)
