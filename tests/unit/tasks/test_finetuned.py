"""What is read of a fine-tuning afterwards: a long log, and weights that an adapter does not reach."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.exports.audit_data import _finetuned as shown
from flows.exports.dossier import Dossier
from raft_core.config.finetuning import FinetuningConfig
from raft_core.files.plain_json import MAX_BYTES
from tasks.loop.finetune import read_result, untouched
from tasks.tracking.runs import _finetuned as tracked

EXPERTS = {"modules": 8, "parameters": 100, "total_parameters": 1000, "untouched": {"layers.*.experts": 600}}
READERS: Mapping[str, Callable[[Any], Any]] = {
    "iteration": lambda place: read_result(place).log,
    "tracking": lambda place: tracked(place.run, 0)["log"],
    "page": lambda place: shown(place, 0)["log"],
    "dossier": lambda place: Dossier.training_log(place, 0),
}


@pytest.fixture
def finetuned(tmp_path: Path) -> Callable[..., Any]:
    """``finetuned(lora={…}, **more)``: as much of an iteration, run and dossier as its readers look at."""

    def write(lora: Any = None, **more: Any) -> Any:
        told = {"num_sequences": 1, "num_tokens": 2, "log": [{"step": 1, "loss": 2.0}], "trained": EXPERTS, **more}
        (tmp_path / "finetune.json").write_text(json.dumps(told))
        config = SimpleNamespace(finetuning=FinetuningConfig.model_validate({"lora": lora}))
        run = SimpleNamespace(folder=lambda number: tmp_path, config=config)
        return SimpleNamespace(folder=tmp_path, run=run, config=config)

    return write


@pytest.mark.parametrize("reader", READERS)
def test_the_log_of_a_long_training_is_read(finetuned: Callable[..., Any], reader: str) -> None:
    """More than 120,000 optimiser steps take more bytes than any other document may have."""
    log = [{"step": 1, "loss": 2.0, "told": "x" * MAX_BYTES}]
    assert len(READERS[reader](finetuned(log=log))) == 1


def test_weights_that_no_adapter_reaches_are_named_unless_targets_were_chosen(finetuned: Callable[..., Any]) -> None:
    told = untouched(finetuned({})) or ""
    assert "layers.*.experts (60%" in told
    assert untouched(finetuned({"targets": ["q_proj"]})) is None
    assert untouched(finetuned(None)) is None
    assert untouched(finetuned({}, trained={**EXPERTS, "untouched": {}})) is None
