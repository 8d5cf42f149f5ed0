"""A fine-tuning that is cut off goes on at its last checkpoint, with the bytes of one that was not."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raft_core.config.finetuning import FinetuningConfig
from raft_core.config.policy import TextPolicyConfig
from raft_core.errors import StepError
from raft_core.files.artifacts import digest_of, write_bytes
from raft_core.launch import processes
from raft_core.policies.base import FinetuneJob, FinetuneResult
from raft_core.policies.text import backend
from raft_core.policies.text.finetune import PRELOAD, fit
from raft_core.policies.text.resume import SEAL, latest_checkpoint, seal
from raft_core.records.tables import SELECTED, to_table, write_table


@pytest.fixture(autouse=True, scope="module")
def server() -> Iterator[None]:
    processes.stop()
    processes.start(PRELOAD)
    yield
    processes.stop()


@pytest.fixture(scope="module")
def selected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen sequences: eight steps of two."""
    path = tmp_path_factory.mktemp("selected") / "selected.parquet"
    rows: list[dict[str, Any]] = [
        {
            "sample_id": f"s{i}",
            "prompt_id": f"p{i}",
            "source": "policy",
            "reward": 1.0,
            "rank": 1,
            "weight": 1.0,
            "prompt": "",
            "completion": "",
            "prompt_token_ids": [3 + i, 4],
            "completion_token_ids": [5 + i, 6, 7, 1],
            "sampling_logprobs": [-1.0] * 4,
            "finish_reason": "stop",
        }
        for i in range(16)
    ]
    write_table(path, to_table(SELECTED, rows), SELECTED)
    return path


@pytest.fixture
def job(tiny_checkpoint: Path, selected: Path, tmp_path: Path) -> Callable[..., FinetuneJob]:
    config = TextPolicyConfig(model=str(tiny_checkpoint))

    def make(name: str, **changes: Any) -> FinetuneJob:
        settings = {"batch_size": 2, "dtype": "float32", "checkpoint_steps": 3, "lora": {"dropout": 0.1}, **changes}
        return FinetuneJob(
            policy=backend.base_policy(config),
            config=config,
            finetuning=FinetuningConfig.model_validate(settings),
            selected=selected,
            loss_temperature=1.0,
            seed=5,
            iteration=0,
            iterations=1,
            out=tmp_path / name,
            scratch=tmp_path / f"{name}.work",
            checkpoints=tmp_path / f"{name}.training",
        )

    return make


def cut_off(job: FinetuneJob) -> None:
    """Kill the training once its first checkpoint is sealed; from the start once more where it was quicker."""
    assert job.checkpoints is not None
    folder = job.checkpoints

    def pull() -> None:
        deadline = time.monotonic() + 600
        while not list(folder.glob(f"checkpoint-*/{SEAL}")) and time.monotonic() < deadline:
            time.sleep(0.001)
        processes.stop()

    for _ in range(10):
        killer = threading.Thread(target=pull)
        killer.start()
        died = ""
        try:
            fit(job)
        except StepError as error:
            died = str(error)
        killer.join()
        if died:
            assert "died" in died
            assert not job.out.exists()
            return
        for left in (folder, job.out, job.scratch):
            shutil.rmtree(left, ignore_errors=True)
    pytest.fail("it always ended before it could be cut off")


def goes_on(make: Callable[..., FinetuneJob], **changes: Any) -> None:
    whole, cut = make("whole", **changes), make("cut", **changes)
    expected = fit(replace(whole, checkpoints=None))
    cut_off(cut)
    result: FinetuneResult = fit(replace(cut, scratch=cut.scratch.with_name("again")))
    assert "after optimizer step " in (cut.scratch.with_name("again") / "rank-0.log").read_text()
    assert result == expected
    assert len(result.log) == 8
    assert digest_of(cut.out) == digest_of(whole.out)


def test_a_cut_training_goes_on_bit_for_bit(job: Callable[..., FinetuneJob]) -> None:
    goes_on(job)


@pytest.mark.full
@pytest.mark.parametrize("lora", [None, {"dropout": 0.1}], ids=["full", "lora"])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2])
def test_at_every_stage(job: Callable[..., FinetuneJob], lora: Any, zero_stage: int, ranks: int) -> None:
    goes_on(job, lora=lora, zero_stage=zero_stage, ranks=ranks, micro_batch_size=1)


class TestSeal:
    @pytest.fixture
    def checkpoints(self, tmp_path: Path) -> Path:
        for step in (3, 12):
            write_bytes(tmp_path / f"checkpoint-{step}" / "global_step" / "state.pt", b"state" * step)
            seal(tmp_path / f"checkpoint-{step}")
        return tmp_path

    def test_the_newest_whole_one_is_taken(self, checkpoints: Path) -> None:
        assert latest_checkpoint(checkpoints) == checkpoints / "checkpoint-12"
        assert latest_checkpoint(checkpoints / "nothing") is None

    @pytest.mark.parametrize("fault", ["changed", "truncated", "missing", "added", "unsealed", "foreign seal", "link"])
    def test_one_that_is_not_what_was_sealed_is_never_loaded(self, checkpoints: Path, fault: str) -> None:
        newest = checkpoints / "checkpoint-12"
        state = newest / "global_step" / "state.pt"
        if fault == "changed":
            state.write_bytes(b"X" + state.read_bytes()[1:])
        elif fault == "truncated":
            state.write_bytes(state.read_bytes()[:-1])
        elif fault == "missing":
            state.unlink()
        elif fault == "added":
            (newest / "rng_state.pth").write_bytes(b"pickle")
        elif fault == "unsealed":
            (newest / SEAL).unlink()
        elif fault == "foreign seal":
            (newest / SEAL).write_text(json.dumps([1, 2]))
        else:
            shutil.move(state, checkpoints / "elsewhere")
            state.symlink_to(checkpoints / "elsewhere")
        assert latest_checkpoint(checkpoints) == checkpoints / "checkpoint-3"
        assert not newest.exists()
