"""The engine that samples and scores with transformers: a causal language model in this process."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from raft_core.config.policy import TextPolicyConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.policies.text import model as models
from raft_core.policies.text.likelihood import completion_logprobs, windows
from raft_core.policies.text.model import memory_errors
from raft_core.policies.text.sample import Draft, Rules, complete, sample_seed
from raft_core.types import Policy, Progress, Prompt, Sample, content_id

CODE = ("raft_core.policies.text.engines.transformers",)


class LoadedTextPolicy:
    """A causal language model in memory. It holds state because loading is expensive."""

    def __init__(self, policy: Policy, config: TextPolicyConfig, dtype: str) -> None:
        self.policy, self.config, self.dtype = policy, config, dtype
        self.tokenizer = models.load_tokenizer(models.model_folder(policy), config)
        with memory_errors():
            self.model = models.load_sampled(policy, config, dtype)
        self.eos = models.eos_token_ids(self.model, self.tokenizer)
        self.known = models.known_token_ids(self.tokenizer)

    def close(self) -> None:
        """Give the memory back, a GPU's too, whoever still holds this object."""
        del self.model
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()

    def sample(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        *,
        samples_per_prompt: int,
        seed: int,
        progress: Progress | None = None,
    ) -> list[Sample]:
        """See ``LoadedPolicy.sample``. The k-th sample of a prompt is the same for every K."""
        keys = [(prompt, k) for prompt in prompts for k in range(samples_per_prompt)]
        if not keys:
            return []
        seeds = [sample_seed(seed, prompt.prompt_id, k) for prompt, k in keys]
        ids = models.encode_prompts(self.tokenizer, prompts, self.config)
        rules = Rules(sampling, self.tokenizer, self.eos.union(sampling.stop_token_ids), self.known)
        with memory_errors():
            drafts = complete(self.model, rules, ids, seeds, progress)
        about = [self.policy.identity, self._settings(sampling)]
        return [
            _sample(draft, prompt.prompt_id, k, own_seed, about)
            for draft, (prompt, k), own_seed in zip(drafts, keys, seeds, strict=True)
        ]

    def logprobs(self, samples: Sequence[Sample], *, temperature: float) -> list[list[float]]:
        """See ``LoadedPolicy.logprobs``: one list of completion-token log-probabilities per sample."""
        pairs = [(sample.prompt_token_ids, sample.completion_token_ids) for sample in samples]
        with memory_errors():
            return completion_logprobs(self.model, pairs, temperature=temperature)

    def text_logprobs(self, texts: Sequence[str]) -> list[list[float]]:
        """See ``LoadedPolicy.text_logprobs``. A text longer than the context is scored in windows of that length."""
        context = models.context_length(self.model.config)
        pieces = [list(windows(models.encode_text(self.tokenizer, text), context)) for text in texts]
        with memory_errors():
            scored = iter(completion_logprobs(self.model, [piece for text in pieces for piece in text]))
        return [[value for _ in text for value in next(scored)] for text in pieces]

    def _settings(self, sampling: SamplingConfig) -> dict[str, Any]:
        """The settings that can change a sample; they are part of its identity."""
        drawn = {
            "temperature",
            "top_p",
            "top_k",
            "max_new_tokens",
            "min_new_tokens",
            "stop",
            "stop_token_ids",
            "skip_special_tokens",
        }
        rendered = {"chat_template", "system_prompt", "template_date"}
        return {
            **sampling.model_dump(mode="json", include=drawn),
            **self.config.model_dump(mode="json", include=rendered),
            "dtype": self.dtype,
        }


def _sample(draft: Draft, prompt_id: str, k: int, seed: int, about: list[Any]) -> Sample:
    failed = draft.finish_reason == "error"
    return Sample(
        sample_id=content_id("sample", *about, prompt_id, seed, k),
        prompt_id=prompt_id,
        k=k,
        seed=seed,
        completion=draft.text,
        prompt_token_ids=draft.prompt_token_ids,
        completion_token_ids=tuple(draft.token_ids),
        logprobs=tuple(draft.logprobs),
        sampling_logprobs=tuple(draft.sampling_logprobs),
        finish_reason=draft.finish_reason or "error",
        status="quarantined" if failed else "ok",
        reason="the policy produced logits that are not finite" if failed else "",
    )


@contextmanager
def open(policy: Policy, config: TextPolicyConfig, *, dtype: str) -> Iterator[LoadedTextPolicy]:
    """See ``Sampler.open`` and ``Likelihood.open``; an adapter is merged into a copy of its base, only in memory."""
    loaded = LoadedTextPolicy(policy, config, dtype)
    try:
        yield loaded
    finally:
        loaded.close()
