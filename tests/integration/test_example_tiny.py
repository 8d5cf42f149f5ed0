"""The tiny example, really prepared: the same bits on any number of cores, and a policy that has learnt to end."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raft_core.config.policy import TextPolicyConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.examples import Receipt, prepare, resolve
from raft_core.policies.base import modality
from raft_core.policies.text.engines.transformers import LoadedTextPolicy
from raft_core.prompts.splits import load_prompts


@pytest.fixture(scope="module")
def tiny_receipts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Receipt]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield prepare("tiny")


def test_the_policy_is_small_and_the_same_on_one_core(tiny_receipts: dict[str, Receipt], tmp_path: Path) -> None:
    assert 90_000 < tiny_receipts["policy"].measured["parameters"] < 130_000
    environment = {**os.environ, "RAFT_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    code = (
        "from raft_core.examples import prepare\nprint(prepare('tiny', stages=['policy'])['policy'].outputs['policy'])"
    )
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split()[-1] == tiny_receipts["policy"].outputs["policy"]


@pytest.mark.usefixtures("tiny_receipts")
def test_its_samples_are_reviews_that_end() -> None:
    text = modality("text").checkpoint
    config = TextPolicyConfig(model="example:tiny/policy")
    prompts = load_prompts(resolve("example:tiny/prompts.held_out"), "text")[:64]
    sampling = SamplingConfig(temperature=1.0, max_new_tokens=16, dtype="float32")
    loaded = LoadedTextPolicy(text.base_policy(config), config, dtype="float32")
    samples = loaded.sample(prompts, sampling, samples_per_prompt=1, seed=1)
    ended = [sample for sample in samples if sample.finish_reason == "stop"]
    assert len(ended) >= 0.9 * len(samples)
    assert sum(" and " in s.completion and s.completion.endswith(".") for s in ended) >= 0.9 * len(ended)
    assert len({sample.completion for sample in ended}) > 50
