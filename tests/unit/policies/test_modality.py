"""The roles of a modality: each is there, one engine is opened once, and settings that cannot work are refused."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from raft_core.config.loading import check_config, load_config
from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError, InputError
from raft_core.policies.base import MODALITIES, Modality
from raft_core.policies.tabular import backend as tabular
from raft_core.policies.tabular.policy import TabularPolicy
from raft_core.types import Policy, Prompt

ROLES = {
    "sampler": ("CODE", "open"),
    "likelihood": ("CODE", "open"),
    "trainer": ("CODE", "PRELOAD", "fit"),
    "checkpoint": ("check", "check_settings", "asks_for_date", "probe", "base_policy", "numerics", "merge"),
}
PROMPTS = tuple(map(Prompt.of, ("a", "b")))


@pytest.mark.parametrize("kind", MODALITIES)
@pytest.mark.parametrize("role", ROLES)
def test_every_modality_has_every_role(kind: str, role: str) -> None:
    part = getattr(MODALITIES[kind], role)
    assert [name for name in ROLES[role] if not hasattr(part, name)] == []


@contextmanager
def opened(log: list[str], name: str) -> Iterator[Any]:
    log.append(f"open {name}")
    module = ModuleType(name)
    for method in ("sample", "logprobs", "text_logprobs"):
        setattr(module, method, f"{method} of {name}")
    yield module
    log.append(f"close {name}")


@pytest.mark.parametrize(("scorer", "opens"), [("engine_a", ["engine_a"]), ("engine_b", ["engine_a", "engine_b"])])
def test_a_policy_is_opened_once_where_one_engine_does_both(
    monkeypatch: pytest.MonkeyPatch, scorer: str, opens: list[str]
) -> None:
    log: list[str] = []
    for name in ("engine_a", "engine_b"):
        module = ModuleType(name)
        module.open = lambda *_, _name=name, **__: opened(log, _name)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    roles = Modality("engine_a", scorer, "", "")
    with roles.open(Policy(Path("."), "d"), None, dtype="float32") as policy:  # type: ignore[arg-type]
        assert (policy.sample, policy.logprobs) == ("sample of engine_a", f"logprobs of {scorer}")
    assert log == [*(f"open {name}" for name in opens), *(f"close {name}" for name in reversed(opens))]


def tabular_config(tmp_path: Path, **changes: Any) -> RaftConfig:
    plain: dict[str, Any] = load_config(Path(__file__).parents[3] / "configs" / "tiny.yaml").model_dump(mode="json")
    plain["policy"] = {"type": "tabular", "model": str(tmp_path)}
    plain["finetuning"] = {"lora": None}
    plain["evaluation"] = {}
    for section, values in changes.items():
        plain[section] |= values
    return check_config(yaml.safe_load(yaml.safe_dump(plain)), where="the test")


@pytest.mark.parametrize(
    "changes", [{"finetuning": {"lora": {"r": 4}}}, {"evaluation": {"perplexity_text": "texts.txt"}}]
)
def test_settings_that_a_table_cannot_follow_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    tabular.check_settings(tabular_config(tmp_path))
    with pytest.raises(ConfigError, match="tabular") as caught:
        tabular.check_settings(tabular_config(tmp_path, **changes))
    assert "null" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("key", "value"), [("step", 0.0), ("step", 1.5), ("completions", ["x", "x"]), ("prompts", ["a", "a"])]
)
def test_a_table_that_contradicts_itself_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    folder = tmp_path / "policy"
    tabular.save(TabularPolicy(PROMPTS, ("x", "y"), np.full((2, 2), 0.5)), folder)
    assert tabular.read(folder).completions == ("x", "y")
    table = json.loads((folder / tabular.TABLE).read_text())
    (folder / tabular.TABLE).write_text(json.dumps({**table, key: value}))
    with pytest.raises(InputError):
        tabular.read(folder)
