"""Token ids back to text, and where a stop string ends a completion."""

from collections.abc import Sequence

from raft_core.policies.text.model import Tokenizer

SLACK_TOKENS = 8


def decode_completion(tokenizer: Tokenizer, prompt_token_ids: Sequence[int], token_ids: Sequence[int]) -> str:
    """The text that ``token_ids`` add to the prompt.

    Decoded behind the prompt's last token: some tokenizers drop the space before a text's first
    word, and the completion would lose it.
    """
    before = list(prompt_token_ids[-1:])
    start = str(tokenizer.decode(before, skip_special_tokens=True))
    whole = str(tokenizer.decode([*before, *token_ids], skip_special_tokens=True))
    if whole.startswith(start):
        return whole[len(start) :]
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True))


def may_have_stopped(tokenizer: Tokenizer, completions: Sequence[Sequence[int]], stop: Sequence[str]) -> list[bool]:
    """Whether a stop string stands near the end of each completion; cheap, asked at every step."""
    reach = max(len(text.encode()) for text in stop) + SLACK_TOKENS
    ends = tokenizer.batch_decode([list(ids[-reach:]) for ids in completions], skip_special_tokens=True)
    return [any(text in end for text in stop) for end in ends]


def stop_position(text: str, stop: Sequence[str], start: int) -> int | None:
    """Where the first stop string that ends behind ``start`` ends in ``text``; None without one."""
    ends = []
    for string in stop:
        found = text.find(string, max(0, start - len(string) + 1))
        if found >= 0:
            ends.append(found + len(string))
    return min(ends, default=None)
