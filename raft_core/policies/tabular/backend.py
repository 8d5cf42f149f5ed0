"""The tabular backend: implements ``raft_core.policies.base.Modality`` for a table of probabilities.

The whole flow runs on it in seconds and must give the same result as ``raft_core.algorithm``. A policy is a folder:

FOLDER/tabular.json               {"prompts": [text, …], "completions": [text, …], "step": number}
FOLDER/probabilities.safetensors  probabilities [X, Y], float64

A completion is one token: its number in the list. So is a prompt.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from raft_core.config.finetuning import FinetuningConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.errors import ConfigError, InputError, StepError
from raft_core.files.artifacts import fsync_folder, model_digest, write_bytes, write_json
from raft_core.files.plain_json import read_object
from raft_core.policies.base import FinetuneJob, FinetuneResult
from raft_core.policies.tabular.policy import TabularPolicy
from raft_core.policies.tabular.settings import TabularPolicyConfig
from raft_core.records.tables import SELECTED, read_table
from raft_core.references import resolve
from raft_core.types import Policy, Progress, Prompt, Sample, content_id

if TYPE_CHECKING:
    from raft_core.config.run import RaftConfig

PRELOAD: tuple[str, ...] = ()
CODE = ("raft_core.policies.tabular.backend",)
TABLE, WEIGHTS = "tabular.json", "probabilities.safetensors"


def save(policy: TabularPolicy, folder: Path) -> None:
    """Write ``policy`` to ``folder``, which must not exist yet."""
    folder.mkdir(parents=True)
    table = {"prompts": [p.text for p in policy.prompts], "completions": policy.completions, "step": policy.step}
    write_json(folder / TABLE, table)
    write_bytes(folder / WEIGHTS, to_bytes({"probabilities": np.ascontiguousarray(policy.probabilities_XY)}))


def read(folder: Path) -> TabularPolicy:
    """The policy in ``folder``. Raises InputError if it is not one."""
    try:
        fields = read_object(folder / TABLE)
        prompts, completions = [Prompt.of(text) for text in fields["prompts"]], tuple(fields["completions"])
        if len({*prompts}) < len(prompts) or len({*completions}) < len(completions):
            raise ValueError("a prompt or a completion is there twice")
        if not all(isinstance(text, str) for text in completions):
            raise TypeError("a completion that is not text")
        weights_XY = load_file(folder / WEIGHTS)["probabilities"]
        return TabularPolicy(tuple(prompts), completions, weights_XY, float(fields["step"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the tabular policy in {folder} cannot be read",
            got=f"{type(error).__name__}: {error}",
            expected=f"{TABLE} and {WEIGHTS} in the format that raft_core.policies.tabular.backend describes",
            hint="correct policy.model, or remove policy.type if it is a language model",
        ) from None


def check(config: TabularPolicyConfig, prompts: Sequence[Prompt], sampling: SamplingConfig) -> Sequence[str]:
    """See ``Checkpoint.check``: every prompt must have a row, and sampling must not change probabilities."""
    rows = {prompt.text for prompt in read(resolve(config.model)).prompts}
    if unknown := [prompt.text for prompt in prompts if prompt.text not in rows]:
        raise InputError(
            f"{len(unknown)} prompts are not in the tabular policy {config.model}",
            got=", ".join(repr(text[:50]) for text in unknown[:3]),
            expected=f"only prompts that its {TABLE} lists",
            hint=f"remove these prompts from the prompts file, or add them to {TABLE}",
        )
    if (sampling.temperature, sampling.top_p, sampling.top_k) != (1.0, 1.0, 0):
        raise ConfigError(
            "a tabular policy cannot be sampled with temperature, top_p or top_k",
            got=f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, top_k {sampling.top_k}",
            expected="temperature 1, top_p 1 and top_k 0: probabilities are used as they are",
            hint="set sampling: {temperature: 1.0, top_p: 1.0, top_k: 0}",
        )
    return []


def asks_for_date(config: TabularPolicyConfig) -> bool:
    """See ``Checkpoint.asks_for_date``."""
    return False


def check_settings(config: "RaftConfig") -> None:
    """See ``Checkpoint.check_settings``: a table has no layers, no tokens of its own, and an exact optimum."""
    if config.finetuning.lora is not None:
        raise ConfigError(
            "a tabular policy has no layers for a LoRA adapter",
            got="finetuning.lora",
            expected="finetuning.lora: null",
            hint="set finetuning.lora: null",
        )
    if config.finetuning.loss.type != "raft":
        raise ConfigError(
            "a tabular policy is fitted exactly, by maximum likelihood",
            got=f"finetuning.loss.type: {config.finetuning.loss.type}",
            expected="finetuning.loss: {type: raft}",
            hint="remove finetuning.loss",
        )
    if config.evaluation.perplexity_text is not None:
        raise ConfigError(
            "the perplexity of a text cannot be measured with a tabular policy",
            got="evaluation.perplexity_text",
            hint="set evaluation.perplexity_text: null",
        )


def probe(policy: Policy, config: TabularPolicyConfig, finetuning: FinetuningConfig) -> None:
    """See ``Checkpoint.probe``."""
    read(policy.path)


def base_policy(config: TabularPolicyConfig, known: str | None = None) -> Policy:
    """See ``Checkpoint.base_policy``."""
    folder = resolve(config.model)
    read(folder)
    return Policy(folder, model_digest(folder, known))


@contextmanager
def open(policy: Policy, config: TabularPolicyConfig, *, dtype: str) -> Iterator["LoadedTabularPolicy"]:
    """See ``Sampler.open`` and ``Likelihood.open``. The table is float64; ``dtype`` has no effect."""
    yield LoadedTabularPolicy(policy.identity, read(policy.path))


class LoadedTabularPolicy:
    """A table in memory. See ``LoadedPolicy``."""

    def __init__(self, identity: str, table: TabularPolicy) -> None:
        self.identity, self.table = identity, table
        self.rows = {prompt.prompt_id: row for row, prompt in enumerate(table.prompts)}

    def sample(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        *,
        samples_per_prompt: int,
        seed: int,
        progress: Progress | None = None,
    ) -> list[Sample]:
        """See ``LoadedPolicy.sample``."""
        columns = {completion: column for column, completion in enumerate(self.table.completions)}
        made = []
        for prompt in prompts:
            row = self.rows[Prompt.of(prompt.text).prompt_id]
            for k, text in enumerate(self.table.sample(self.table.prompts[row], samples_per_prompt, seed=seed)):
                logprobs = (float(np.log(self.table.probabilities_XY[row, columns[text]])),)
                made.append(
                    Sample(
                        sample_id=content_id("sample", self.identity, prompt.prompt_id, seed, k),
                        prompt_id=prompt.prompt_id,
                        k=k,
                        seed=seed,
                        completion=text,
                        prompt_token_ids=(row,),
                        completion_token_ids=(columns[text],),
                        logprobs=logprobs,
                        sampling_logprobs=logprobs,
                        finish_reason="stop",
                    )
                )
            if progress is not None:
                progress(samples_per_prompt)
        return made

    def logprobs(self, samples: Sequence[Sample], *, temperature: float) -> list[list[float]]:
        """See ``LoadedPolicy.logprobs``."""
        cells = [(sample.prompt_token_ids[0], sample.completion_token_ids[0]) for sample in samples]
        return [[float(np.log(self.table.probabilities_XY[cell]))] for cell in cells]

    def text_logprobs(self, texts: Sequence[str]) -> list[list[float]]:
        """See ``LoadedPolicy.text_logprobs``. Raises ConfigError: a table cannot score other texts."""
        if texts:
            raise ConfigError(
                "the perplexity of a text cannot be measured with a tabular policy",
                got="evaluation.perplexity_text",
                hint="set evaluation.perplexity_text: null",
            )
        return []


def numerics(dtype: str) -> dict[str, Any]:
    """See ``Checkpoint.numerics``."""
    return {"device": "cpu", "dtype": "float64", "numpy": version("numpy")}


def fit(job: FinetuneJob) -> FinetuneResult:
    """See ``Trainer.fit``: the exact optimum, in this process; ``job.out`` is written by a rename."""
    if job.out.exists():
        raise StepError(f"output folder exists already: {job.out}", hint="remove it, or choose another folder")
    before = read(job.policy.path)
    texts = {prompt.prompt_id: prompt for prompt in before.prompts}
    rows = read_table(job.selected, SELECTED, ["prompt", "completion", "weight"]).to_pylist()
    pairs = [(texts[Prompt.of(row["prompt"]).prompt_id], row["completion"]) for row in rows]
    weights = [row["weight"] for row in rows]
    aside = job.scratch / "policy"
    shutil.rmtree(aside, ignore_errors=True)
    save(before.fit(pairs, weights), aside)
    job.out.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(job.out)
    fsync_folder(job.out.parent)
    cells = [(before.prompts.index(prompt), before.completions.index(text)) for prompt, text in pairs]
    loss = -float(np.average([np.log(before.probabilities_XY[cell]) for cell in cells], weights=weights))
    log = [{"step": 1.0, "loss": loss, "learning_rate": before.step, "grad_norm": 0.0}]
    return FinetuneResult(len(pairs), len(pairs), log)


def merge(policy: Policy, config: TabularPolicyConfig, out: Path) -> None:
    """See ``Checkpoint.merge``: a tabular policy has no adapter, so it is copied."""
    shutil.copytree(policy.path, out)
