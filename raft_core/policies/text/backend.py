"""The text backend: what ``raft_core.policies.base.PolicyBackend`` asks for, for causal language models."""

from collections.abc import Sequence
from typing import Any

from raft_core.config import FinetuningConfig, SamplingConfig, TextPolicyConfig
from raft_core.policies.base import Progress
from raft_core.policies.text import model as models
from raft_core.policies.text.check import asks_for_date, check, model_folder_of
from raft_core.policies.text.finetune import finetune
from raft_core.policies.text.likelihood import completion_logprobs, windows
from raft_core.policies.text.merge import merge
from raft_core.policies.text.model import memory_errors, numerics
from raft_core.policies.text.sample import Draft, Rules, complete, sample_seed
from raft_core.records.artifacts import model_digest
from raft_core.types import Policy, Prompt, Sample, content_id

__all__ = [
    "TRAINING",
    "LoadedTextPolicy",
    "asks_for_date",
    "base_policy",
    "check",
    "finetune",
    "load",
    "merge",
    "numerics",
    "probe",
]


TRAINING = ("raft_core.policies.text.trainer", "raft_core.policies.text.finetune")


def base_policy(config: TextPolicyConfig, known: str | None = None) -> Policy:
    """See ``PolicyBackend.base_policy``. Raises InputError if it is not there."""
    folder = model_folder_of(config)
    return Policy(folder, model_digest(folder, known))


def probe(policy: Policy, config: TextPolicyConfig, finetuning: FinetuningConfig) -> None:
    """See ``PolicyBackend.probe``."""
    from raft_core.policies.text.probe import check_decoding, check_packing, check_padding

    with memory_errors():
        model = models.load_weights(models.model_folder(policy), config)
        check_decoding(model)
        check_padding(model)
        if finetuning.batching == "packed":
            check_packing(model)


def load(policy: Policy, config: TextPolicyConfig, *, dtype: str) -> "LoadedTextPolicy":
    """Load for sampling in ``dtype``; an adapter is merged into a copy of its base, in memory alone."""
    return LoadedTextPolicy(policy, config, dtype)


class LoadedTextPolicy:
    """A causal language model in memory: state, because loading is the expensive part."""

    def __init__(self, policy: Policy, config: TextPolicyConfig, dtype: str) -> None:
        self.policy, self.config, self.dtype = policy, config, dtype
        self.tokenizer = models.load_tokenizer(models.model_folder(policy), config)
        with memory_errors():
            self.model = models.load_sampled(policy, config, dtype)
        self.eos = models.eos_token_ids(self.model, self.tokenizer)
        self.known = models.known_token_ids(self.tokenizer)

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
        """See ``LoadedPolicy.logprobs``: one list of completion-token log-probabilities a sample."""
        pairs = [(sample.prompt_token_ids, sample.completion_token_ids) for sample in samples]
        with memory_errors():
            return completion_logprobs(self.model, pairs, temperature=temperature)

    def text_logprobs(self, texts: Sequence[str]) -> list[list[float]]:
        """See ``LoadedPolicy.text_logprobs``. A text beyond the context is scored in windows of it."""
        context = models.context_length(self.model.config)
        pieces = [list(windows(models.encode_text(self.tokenizer, text), context)) for text in texts]
        with memory_errors():
            scored = iter(completion_logprobs(self.model, [piece for text in pieces for piece in text]))
        return [[value for _ in text for value in next(scored)] for text in pieces]

    def _settings(self, sampling: SamplingConfig) -> dict[str, Any]:
        """What of the configuration can change a sample, as it goes into its identity."""
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
        reason="the policy's logits are not finite" if failed else "",
    )
