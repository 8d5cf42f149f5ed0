"""Sampling: K completions of each prompt, with one random stream per sample.

Tokens are drawn from the policy restricted to the tokens that the tokenizer knows: a model may have more rows of
logits (padding), and such ids have no text. They are excluded only from the draw. The loss fits the model itself:
its log p is that of the restricted policy plus log P(known tokens), so training reduces the mass of unknown tokens.

Each prompt is prefilled once, its cache repeated K times, only the last position's logits are
computed, and finished rows leave the batch (``generate`` does none of these). A sample's tokens
are the inverse CDF of its own uniform numbers, so they do not depend on K, the order of work or the other
samples of the batch; only the last bits of the logits depend on the batch's shape.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raft_core.config.sampling import SamplingConfig
from raft_core.policies.text.batches import collate
from raft_core.policies.text.chat import Tokenizer
from raft_core.policies.text.decode import decode_completion, decode_for_stop, may_have_stopped, stop_position
from raft_core.policies.text.distribution import Draw, draw
from raft_core.policies.text.model import Model, accepted_arguments, masked_logits
from raft_core.types import FinishReason, Progress, content_id


@dataclass(slots=True)
class Draft:
    """One completion while it is generated; ``text`` and ``finish_reason`` are set when it ends."""

    prompt_token_ids: tuple[int, ...]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    sampling_logprobs: list[float] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """When a completion ends, and how its tokens are drawn.

    ``ends``: tokens that end it. ``known``: tokens that the tokenizer can turn into text; others are never drawn.
    """

    sampling: SamplingConfig
    tokenizer: Tokenizer
    ends: frozenset[int]
    known: frozenset[int]

    def banned(self, logits_NV: Tensor) -> tuple[Tensor, Tensor]:
        """Ids that must not be drawn: while a completion is shorter than min_new_tokens, and afterwards."""
        device, size = logits_NV.device, logits_NV.shape[1]
        unknown = {token for token in range(size) if token not in self.known and token not in self.ends}
        early = unknown | {token for token in self.ends if token < size}
        return _ids(early, device), _ids(unknown, device)

    def draw(self, logits_NV: Tensor, uniforms_N: Tensor, banned: Tensor) -> Draw:
        """The tokens of one step."""
        settings = self.sampling
        return draw(
            logits_NV,
            uniforms_N,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            banned=banned,
        )

    def end(self, draft: Draft) -> None:
        """Set the text of a draft that ended with a token, by its length, or by an error."""
        tokens = draft.token_ids[:-1] if draft.token_ids and draft.token_ids[-1] in self.ends else draft.token_ids
        draft.text = self._text_of(draft, tokens)

    def stop(self, drafts: Sequence[Draft]) -> None:
        """End each draft whose last token completed a stop string, and cut its text after the string."""
        settings = self.sampling
        if not settings.stop or not drafts or len(drafts[0].token_ids) < settings.min_new_tokens:
            return
        sequences = [(draft.prompt_token_ids, draft.token_ids) for draft in drafts]
        maybe = may_have_stopped(self.tokenizer, sequences, settings.stop)
        for draft in (draft for draft, near in zip(drafts, maybe, strict=True) if near):
            text = decode_for_stop(self.tokenizer, draft.prompt_token_ids, draft.token_ids)
            too_short = draft.token_ids[: max(settings.min_new_tokens - 1, 0)]
            start = len(decode_for_stop(self.tokenizer, draft.prompt_token_ids, too_short))
            if (position := stop_position(text, settings.stop, start)) is not None:
                whole = self._text_of(draft, draft.token_ids)
                behind = len(text) - position if self._is_text(draft.token_ids[-1]) else 0
                draft.text, draft.finish_reason = whole[: len(whole) - behind], "stop"

    def _text_of(self, draft: Draft, tokens: Sequence[int]) -> str:
        return decode_completion(
            self.tokenizer, draft.prompt_token_ids, tokens, skip_special_tokens=self.sampling.skip_special_tokens
        )

    def _is_text(self, token: int) -> bool:
        """Whether a token is part of the text: with ``skip_special_tokens`` special tokens are not."""
        hidden, shown = (self.tokenizer.decode([token], skip_special_tokens=skip) for skip in (True, False))
        return not self.sampling.skip_special_tokens or hidden == shown


def _ids(tokens: Iterable[int], device: torch.device) -> Tensor:
    return torch.tensor(sorted(tokens), dtype=torch.long, device=device)


def sample_seed(seed: int, prompt_id: str, k: int) -> int:
    """The seed (63 bits) of a prompt's k-th sample in a run's ``seed``."""
    return int(content_id("sample seed", seed, prompt_id, k), 16) >> 65


def uniforms(seeds: Sequence[int], length: int) -> Tensor:
    """float64 [samples, length] in [0, 1): each row is the Philox stream of its seed."""
    rows = [np.random.Generator(np.random.Philox(key=seed)).random(length) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


@torch.inference_mode()
def complete(
    model: Model,
    rules: Rules,
    prompt_ids: Sequence[Sequence[int]],
    seeds: Sequence[int],
    progress: Progress | None = None,
) -> list[Draft]:
    """``len(seeds) / len(prompt_ids)`` completions of each prompt, ordered by prompt."""
    samples_per_prompt = len(seeds) // len(prompt_ids)
    length = rules.sampling.max_new_tokens
    drafts = [Draft(tuple(ids)) for ids in prompt_ids for _ in range(samples_per_prompt)]
    logits_NV, cache, mask_NT = prefill(model, prompt_ids, samples_per_prompt)
    early, unknown = rules.banned(logits_NV)
    uniforms_NS = uniforms(seeds, length)
    live = list(range(len(drafts)))
    for step in range(length):
        drawn = rules.draw(
            logits_NV, uniforms_NS[live, step], early if step < rules.sampling.min_new_tokens else unknown
        )
        _append([drafts[i] for i in live], drawn, rules)
        if progress is not None:
            progress(len(live))
        staying = [row for row, i in enumerate(live) if drafts[i].finish_reason is None]
        if not staying or step + 1 == length:
            break
        tokens_N = drawn.tokens_N
        if len(staying) < len(live):
            rows = torch.tensor(staying, device=tokens_N.device)
            select_rows(cache, rows)
            mask_NT, tokens_N, live = mask_NT[rows], tokens_N[rows], [live[row] for row in staying]
        mask_NT = torch.cat([mask_NT, mask_NT.new_ones(len(live), 1)], dim=1)
        logits_NV, cache = next_logits(model, tokens_N[:, None], mask_NT, cache)
    for draft in (drafts[i] for i in live if drafts[i].finish_reason is None):
        draft.finish_reason = "length"
        rules.end(draft)
    return drafts


def _append(drafts: Sequence[Draft], drawn: Draw, rules: Rules) -> None:
    """Give each draft its token; end those that it ends."""
    columns = (drawn.tokens_N, drawn.logprobs_N, drawn.sampling_logprobs_N, drawn.valid_N)
    for draft, token, logprob, sampling_logprob, valid in zip(drafts, *(c.tolist() for c in columns), strict=True):
        if not valid:
            draft.finish_reason = "error"
            rules.end(draft)
            continue
        draft.token_ids.append(token)
        draft.logprobs.append(logprob)
        draft.sampling_logprobs.append(sampling_logprob)
        if token in rules.ends:
            draft.finish_reason = "stop"
            rules.end(draft)
    rules.stop([draft for draft in drafts if draft.finish_reason is None])


class Recomputed:
    """Replaces the cache for architectures without a cache that supports padding: the sequences themselves, which
    the model reads again at every step, padded at the end. A class, because the sequences grow."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.rows = [list(row) for row in rows]

    def reorder_cache(self, rows_N: Tensor) -> None:
        """As ``Cache.reorder_cache``."""
        self.rows = [list(self.rows[row]) for row in rows_N.tolist()]

    def next_logits(self, model: Model, tokens_N: Sequence[int]) -> Tensor:
        """Logits [N, V] after each row, once its token (none at the first step) is appended."""
        for row, token in zip(self.rows, tokens_N, strict=bool(tokens_N)):
            row.append(token)
        batch = collate([(row, [0]) for row in self.rows]).to(model.device)
        return masked_logits(model, batch.inputs, batch.predicts_BT, head=model.get_output_embeddings())


def prefill(model: Model, prompt_ids: Sequence[Sequence[int]], k: int) -> tuple[Tensor, Any, Tensor]:
    """Logits [prompts · k, V] after each prompt, the cache, and the attention mask."""
    width = max(map(len, prompt_ids))
    ids_PT = torch.zeros(len(prompt_ids), width, dtype=torch.long)
    mask_PT = torch.zeros_like(ids_PT)
    for row, ids in enumerate(prompt_ids):
        ids_PT[row, width - len(ids) :] = torch.tensor(ids)
        mask_PT[row, width - len(ids) :] = 1
    mask_PT = mask_PT.to(model.device)
    cache: Any = None
    if "past_key_values" in accepted_arguments(model):
        logits_PV, cache = next_logits(model, ids_PT.to(model.device), mask_PT, None)
    if cache is None:
        cache = Recomputed(prompt_ids)
        logits_PV = cache.next_logits(model, [])
    rows_N = torch.arange(len(prompt_ids), device=mask_PT.device).repeat_interleave(k)
    select_rows(cache, rows_N)
    return logits_PV[rows_N], cache, mask_PT[rows_N]


def select_rows(cache: Any, rows_N: Tensor) -> None:
    """Keep these rows of a cache, in this order; a row that is named twice is kept twice.

    This is the method of beam search: linear attention and other states have it, but not ``batch_select_indices``.
    """
    cache.reorder_cache(rows_N)


def next_logits(model: Model, ids_NT: Tensor, mask_NT: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """Logits [N, V] of the last position, in the model's dtype, and the cache (None if the model returned none)."""
    if isinstance(cache, Recomputed):
        return cache.next_logits(model, ids_NT[:, 0].tolist()), cache
    positions_NT = (mask_NT.cumsum(1) - 1).clamp(min=0)[:, -ids_NT.shape[1] :]
    wanted = {"position_ids": positions_NT, "logits_to_keep": 1}
    extra = {name: value for name, value in wanted.items() if name in accepted_arguments(model)}
    out = model(input_ids=ids_NT, attention_mask=mask_NT, past_key_values=cache, use_cache=True, **extra)
    return out.logits[:, -1], out.get("past_key_values")
