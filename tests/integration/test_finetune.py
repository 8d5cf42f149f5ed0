"""Fine-tuning by the real DeepSpeed on a tiny Llama: against a plain loop, over ranks and ZeRO stages."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from raft_core.config.finetuning import FinetuningConfig, LoraConfig
from raft_core.config.policy import TextPolicyConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.errors import DivergedError, InputError, IntegrityError, StepError
from raft_core.files.artifacts import artifact, digest_of
from raft_core.launch import processes
from raft_core.losses.raft import Raft
from raft_core.policies.base import FinetuneJob, FinetuneResult
from raft_core.policies.text import backend
from raft_core.policies.text.batches import collate
from raft_core.policies.text.data import plan_steps, read_selected
from raft_core.policies.text.engines.transformers import LoadedTextPolicy
from raft_core.policies.text.finetune import PRELOAD, fit
from raft_core.policies.text.loss import summed_loss
from raft_core.policies.text.model import load_weights, masked_logits
from raft_core.records.tables import SELECTED, to_table, write_table
from raft_core.types import Artifact, Policy, Prompt, Sample

TEMPERATURE, SEED = 0.85, 2**62 + 5
Finetune = Callable[..., FinetuneResult]


@pytest.fixture(autouse=True, scope="module")
def server() -> Iterator[None]:
    """The libraries are imported while the first test makes its samples."""
    processes.stop()
    processes.start(PRELOAD)
    yield
    processes.stop()


@pytest.fixture(scope="module")
def config(tiny_checkpoint: Path) -> TextPolicyConfig:
    return TextPolicyConfig(model=str(tiny_checkpoint))


@pytest.fixture(scope="module")
def policy(config: TextPolicyConfig) -> Policy:
    return backend.base_policy(config)


@pytest.fixture(scope="module")
def samples(policy: Policy, config: TextPolicyConfig) -> list[Sample]:
    prompts = [Prompt.of(text) for text in (" w1 w2 w3", " w5", " w9 w8 w7 w6")]
    sampling = SamplingConfig(max_new_tokens=8, stop=("4",), dtype="float32")
    return LoadedTextPolicy(policy, config, dtype="float32").sample(prompts, sampling, samples_per_prompt=4, seed=1)[
        :11
    ]


@pytest.fixture(scope="module")
def selected(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven sequences: no multiple of any batch, so the last step is a partial one."""
    path = tmp_path_factory.mktemp("selected") / "selected.parquet"
    names = ["sample_id", "prompt_id", "source", "completion", "prompt_token_ids", "completion_token_ids"]
    rows: list[dict[str, Any]] = [
        {
            **{name: getattr(s, name) for name in [*names, "sampling_logprobs", "finish_reason"]},
            "reward": 1.0,
            "rank": 0,
            "weight": 0.5 if i == 3 else 1.0,
            "prompt": "",
        }
        for i, s in enumerate(samples)
    ]
    write_table(path, to_table(SELECTED, rows), SELECTED)
    return path


@pytest.fixture
def finetune(policy: Policy, config: TextPolicyConfig, selected: Path, tmp_path: Path) -> Finetune:
    """``finetune(name, zero_stage=…)`` leaves a policy in ``tmp_path / name``."""

    def run(name: str, *, job: dict[str, Any] | None = None, **changes: Any) -> FinetuneResult:
        settings = {"batch_size": 4, "dtype": "float32", "learning_rate": 1e-2, **changes}
        whole = FinetuneJob(
            policy=policy,
            config=config,
            finetuning=FinetuningConfig.model_validate(settings),
            selected=selected,
            loss_temperature=TEMPERATURE,
            seed=SEED,
            iteration=1,
            iterations=5,
            out=tmp_path / name,
            scratch=tmp_path / f"{name}.work",
            children_lock=tmp_path / "children.lock",
        )
        return fit(replace(whole, **(job or {})))

    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def difference(left: Path, right: Path) -> tuple[float, float]:
    """(Largest, mean) absolute difference of two policies' weights."""
    a, b = weights(left), weights(right)
    assert a.keys() == b.keys()
    apart = torch.cat([(a[name] - b[name]).abs().flatten() for name in sorted(a)])
    return float(apart.max()), float(apart.mean())


def plain_loop(folder: Path, selected: Path, settings: FinetuningConfig) -> tuple[Any, list[dict[str, float]]]:
    """What a fine-tuning should do, in one process, with nothing but torch."""
    model = load_weights(folder, TextPolicyConfig(model=str(folder)))
    sequences = read_selected(selected, frozenset([1]))
    optimizer = torch.optim.AdamW(model.parameters(), betas=settings.adam_betas, weight_decay=0.0)
    steps = plan_steps([len(s) for s in sequences], settings, SEED)
    log = []
    for number, step in enumerate(steps):
        rows = [sequences[i] for rank in step for micro in rank for i in micro]
        batch = collate([(s.prompt, s.completion) for s in rows], [s.weight for s in rows])
        logits = masked_logits(model, batch.inputs, batch.predicts_BT, head=model.get_output_embeddings())
        loss = summed_loss(Raft(), logits, batch.targets_N, batch.weights_N, TEMPERATURE) / len(batch.targets_N)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        rate = settings.learning_rate * (1 - (1 + number / len(steps)) / 5)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        log.append({"step": number + 1.0, "loss": loss.item(), "learning_rate": rate, "grad_norm": float(norm)})
    return model.state_dict(), log


@pytest.mark.parametrize("changes", [{"ranks": 2, "micro_batch_size": 1, "zero_stage": 2}, {"batching": "packed"}])
def test_full_weights_equal_a_plain_loop(
    finetune: Finetune,
    tiny_checkpoint: Path,
    selected: Path,
    samples: list[Sample],
    tmp_path: Path,
    changes: dict[str, Any],
) -> None:
    """Clipping, schedule, token mean over micro batches and ranks, partial last step: all as in the plain loop."""
    result = finetune("full", lora=None, learning_rate=1e-3, max_grad_norm=0.5, **changes)
    settings = FinetuningConfig(batch_size=4, lora=None, learning_rate=1e-3, max_grad_norm=0.5, **changes)
    expected, log = plain_loop(tiny_checkpoint, selected, settings)
    assert (result.num_sequences, result.num_tokens) == (11, sum(len(s.completion_token_ids) for s in samples))
    assert len(result.log) == 3
    for found, wanted in zip(result.log, log, strict=True):
        assert found == pytest.approx(wanted, rel=1e-4)
    before = load_weights(tiny_checkpoint, TextPolicyConfig(model="")).state_dict()
    for name, tensor in weights(tmp_path / "full").items():
        assert torch.allclose(tensor, expected[name], atol=2e-5), name
        assert not torch.equal(tensor, before[name]), name


def test_the_models_own_dropout_is_off_unless_asked_for(
    finetune: Finetune, tiny_checkpoint: Path, selected: Path, tmp_path: Path
) -> None:
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    size = json.loads((tiny_checkpoint / "config.json").read_text())["vocab_size"]
    model = GPT2LMHeadModel(GPT2Config(**shape, vocab_size=size, resid_pdrop=0.5, attn_pdrop=0.5, eos_token_id=1))
    model.save_pretrained(tmp_path / "gpt2")
    for file in tiny_checkpoint.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "gpt2")
    config = TextPolicyConfig(model=str(tmp_path / "gpt2"))
    job = {"config": config, "policy": backend.base_policy(config)}
    off = finetune("off", job=job, lora=None, learning_rate=1e-3, max_grad_norm=0.5)
    on = finetune("on", job=job, lora=None, learning_rate=1e-3, max_grad_norm=0.5, model_dropout=True)
    settings = FinetuningConfig(batch_size=4, lora=None, learning_rate=1e-3, max_grad_norm=0.5)
    _, expected = plain_loop(tmp_path / "gpt2", selected, settings)
    assert [row["loss"] for row in off.log] == pytest.approx([row["loss"] for row in expected], rel=1e-4)
    assert [row["loss"] for row in on.log] != pytest.approx([row["loss"] for row in expected], rel=1e-3)
    assert json.loads((tmp_path / "off" / "config.json").read_text())["resid_pdrop"] == 0.5
    assert off.trained["share"] == 1.0


def test_packing_is_refused_in_the_training_too(finetune: Finetune, tiny_checkpoint: Path, tmp_path: Path) -> None:
    size = json.loads((tiny_checkpoint / "config.json").read_text())["vocab_size"]
    shape = {"hidden_size": 32, "ffn_dim": 48, "word_embed_proj_dim": 32, "num_hidden_layers": 1}
    OPTForCausalLM(OPTConfig(**shape, num_attention_heads=2, vocab_size=size)).save_pretrained(tmp_path / "opt")
    for file in tiny_checkpoint.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "opt")
    config = TextPolicyConfig(model=str(tmp_path / "opt"))
    with pytest.raises(InputError, match="OPTForCausalLM"):
        finetune("packed", job={"config": config, "policy": backend.base_policy(config)}, batching="packed")


def test_an_adapter_is_made_and_carried_on(
    finetune: Finetune, policy: Policy, config: TextPolicyConfig, samples: list[Sample], tmp_path: Path
) -> None:
    def mean(of: Policy) -> float:
        values = [
            v for row in LoadedTextPolicy(of, config, dtype="float32").logprobs(samples, temperature=1.0) for v in row
        ]
        return sum(values) / len(values)

    first = finetune("first")
    assert sorted(p.name for p in (tmp_path / "first").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    base = Artifact(policy.path, policy.digest)
    one = Policy(tmp_path / "first", digest_of(tmp_path / "first"), base)
    assert first.trained["modules"] == 7 * 2
    assert first.trained["untouched"] == {}
    assert 0 < first.trained["share"] < 1
    second = finetune("second", job={"policy": one, "iteration": 2})
    two = Policy(tmp_path / "second", digest_of(tmp_path / "second"), base)
    assert mean(policy) + 0.05 < mean(one) < mean(two) - 0.02
    assert first.log[0]["learning_rate"] == pytest.approx(1e-2 * 4 / 5)
    assert second.log[0]["learning_rate"] == pytest.approx(1e-2 * 3 / 5)

    backend.merge(two, config, tmp_path / "merged")
    merged = Policy(tmp_path / "merged", digest_of(tmp_path / "merged"))
    assert mean(merged) == pytest.approx(mean(two), abs=1e-6)
    with pytest.raises(InputError, match="r 8, alpha 16"):
        finetune("third", job={"policy": one}, lora=LoraConfig(r=4))
    with pytest.raises(IntegrityError, match="another base"):
        finetune("third", job={"policy": replace(one, base=replace(base, digest="0" * 64))})
    assert not (tmp_path / "third").exists()


def test_the_same_job_gives_the_same_bytes(finetune: Finetune, tmp_path: Path) -> None:
    for name in ("a", "b"):
        finetune(name, dtype="bfloat16", epochs=2)
    assert digest_of(tmp_path / "a") == digest_of(tmp_path / "b")


def test_a_policy_with_an_adapter_can_be_trained_whole(
    finetune: Finetune, policy: Policy, config: TextPolicyConfig, tmp_path: Path
) -> None:
    finetune("adapter")
    adapted = Policy(tmp_path / "adapter", digest_of(tmp_path / "adapter"), Artifact(policy.path, policy.digest))
    finetune("whole", job={"policy": adapted}, lora=None)
    whole = artifact(tmp_path / "whole")
    loaded = LoadedTextPolicy(Policy(whole.path, whole.digest), replace_model(config, whole.path), dtype="bfloat16")
    (sample,) = loaded.sample([Prompt.of(" w1")], SamplingConfig(max_new_tokens=3), samples_per_prompt=1, seed=0)
    assert sample.completion_token_ids


def replace_model(config: TextPolicyConfig, folder: Path) -> TextPolicyConfig:
    return config.model_copy(update={"model": str(folder)})


def test_what_is_there_already_is_not_overwritten(finetune: Finetune, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(StepError, match="exists already"):
        finetune("there")


def test_a_training_that_diverges_is_told_and_leaves_nothing(
    finetune: Finetune, selected: Path, tmp_path: Path
) -> None:
    from raft_core.records.tables import read_table

    rows = read_table(selected, SELECTED).to_pylist()
    write_table(tmp_path / "huge.parquet", to_table(SELECTED, [{**r, "weight": 1e39} for r in rows]), SELECTED)
    with pytest.raises(DivergedError, match="step 1"):
        finetune("out", job={"selected": tmp_path / "huge.parquet"})
    assert not (tmp_path / "out").exists()
    finetune("out")


def test_a_selected_table_cut_in_half_is_told(finetune: Finetune, selected: Path, tmp_path: Path) -> None:
    data = selected.read_bytes()
    (tmp_path / "half.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError, match=r"half\.parquet"):
        finetune("out", job={"selected": tmp_path / "half.parquet"})


def test_a_manifest_decides_not_an_exit_code(
    finetune: Finetune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that ends well but leaves a policy with a flipped byte: nothing is published."""
    ranks = processes.run_ranks

    def spoiled(*arguments: Any, **named: Any) -> None:
        ranks(*arguments, **named)
        path = named["scratch"] / "policy" / "adapter_model.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr(processes, "run_ranks", spoiled)
    with pytest.raises(StepError, match=r"rank-0\.log"):
        finetune("out")
    assert not (tmp_path / "out").exists()


@pytest.mark.full
@pytest.mark.parametrize("lora", [LoraConfig(), None], ids=["lora", "full"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_stage_and_number_of_ranks_gives_the_same_policy(
    finetune: Finetune, tmp_path: Path, lora: LoraConfig | None, dtype: str
) -> None:
    """{1, 2 ranks} × ZeRO {0, 1, 2, 3}, against one rank without ZeRO; twice over: the adapter is carried on."""
    # AdamW moves a weight with a tiny gradient by a whole step, either way: in bfloat16 look at the mean.
    limits = {"float32": (2e-4, 1e-6), "bfloat16": (0.1, 1e-3)}[dtype]
    results = {}
    for stage in range(4):
        for ranks in (1, 2):
            name = f"{stage}-{ranks}"
            results[name] = finetune(name, lora=lora, zero_stage=stage, ranks=ranks, dtype=dtype, micro_batch_size=2)
            found = difference(tmp_path / name, tmp_path / "0-1")
            assert all(value <= limit for value, limit in zip(found, limits, strict=True)), (name, found)
            for step, wanted in zip(results[name].log, results["0-1"].log, strict=True):
                assert step == pytest.approx(wanted, rel=1e-3 if dtype == "float32" else 3e-2), name


@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_an_adapter_is_carried_on_at_every_stage(
    finetune: Finetune, policy: Policy, tmp_path: Path, stage: int
) -> None:
    finetune("first")
    base = Artifact(policy.path, policy.digest)
    one = Policy(tmp_path / "first", digest_of(tmp_path / "first"), base)
    finetune("plain", job={"policy": one}, zero_stage=0)
    finetune("second", job={"policy": one}, zero_stage=stage, ranks=2)
    assert difference(tmp_path / "plain", tmp_path / "second")[0] < 2e-4


@pytest.mark.full
@pytest.mark.parametrize("stage", [2, 3])
def test_packed_batches_on_parts_of_a_model(finetune: Finetune, tmp_path: Path, stage: int) -> None:
    finetune("whole", lora=None, batching="packed")
    finetune("parts", lora=None, batching="packed", zero_stage=stage, ranks=2)
    apart = difference(tmp_path / "whole", tmp_path / "parts")
    assert all(value <= limit for value, limit in zip(apart, (2e-4, 1e-6), strict=True)), apart


@pytest.mark.full
@pytest.mark.parametrize("stage", [2, 3])
def test_a_rank_without_a_sequence_takes_part(finetune: Finetune, tmp_path: Path, stage: int) -> None:
    """Eleven sequences in batches of ten: the last step has one, so one rank only has a dummy."""
    finetune("one", batch_size=10, ranks=1, lora=None)
    finetune("two", batch_size=10, ranks=2, lora=None, zero_stage=stage)
    assert difference(tmp_path / "one", tmp_path / "two")[0] < 2e-4
