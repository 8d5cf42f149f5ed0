"""Reading, composing and overriding configurations."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from raft_core.config.loading import (
    check_config,
    config_digest,
    default_run_name,
    dump_config,
    load_config,
    load_document,
)
from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError

Plain = Callable[..., dict[str, Any]]
IS_A_RUN = re.compile("^(policy|extends):", re.MULTILINE)
CONFIGS = sorted(p for p in (Path(__file__).parents[2] / "configs").rglob("*.yaml") if IS_A_RUN.search(p.read_text()))


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture
def path(tmp_path: Path, plain_config: Plain) -> Path:
    return write(tmp_path / "c.yaml", plain_config())


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_file_under_configs_parses(path: Path) -> None:
    config = load_config(path)
    assert check_config(yaml.safe_load(dump_config(config)), where="its own dump") == config


def test_there_are_configurations() -> None:
    assert [path.name for path in CONFIGS].count("tiny.yaml") == 1


def test_overrides(path: Path) -> None:
    config = load_config(
        path,
        [
            "sampling.samples_per_prompt=16",
            "gates.max_kl=null",
            "selection={type: top_fraction, fraction: 0.2}",
            "sampling.stop=[., '!']",
            "scoring.rewards[0].weight=2.5",
            "finetuning.learning_rate=1e-5",
            "name=a.b",
        ],
    )
    assert config.sampling.samples_per_prompt == 16
    assert config.gates.max_kl is None
    assert config.selection.type == "top_fraction"
    assert config.sampling.stop == (".", "!")
    assert config.scoring.rewards[0].weight == 2.5
    assert config.finetuning.learning_rate == 1e-5
    assert config.name == "a.b"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("sampling.top_p", "KEY=VALUE"),
        ("=3", "KEY=VALUE"),
        ("sampling.samples_per_prompt=0", "sampling.samples_per_prompt: Input should be greater"),
        ("sampling.samples_per_promt=4", "did you mean sampling.samples_per_prompt?"),
        ("sampling.learning_rate=1e-4", "sampling.learning_rate: unknown key; did you mean finetuning.learning_rate?"),
        ("sampling.temperature=[1", "c.yaml and the overrides"),
        ("name=${nothing}", "'nothing' not found"),
        ("policy.model=???", "policy.model"),
        ("scoring.rewards[7].weight=2", "out of range"),
        ("scoring=3", "scoring: must be a mapping"),
        ("name=on", "name: Input should be a valid string; got True"),
        ("scoring.rewards={type: lexicon}", "KEY=[{"),
    ],
)
def test_bad_overrides(path: Path, override: str, told: str) -> None:
    message = refusal(path, override)
    assert told in message
    assert override.partition("=")[0] in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "YAML mapping"),
        ("- a\n- b\n", "YAML mapping"),
        ("just text", "just text: unknown key"),
        ("name: [\n", "line 2"),
        ("name: a\nname: b\n", "duplicate key name"),
        ("extends: none.yaml\n", "none.yaml"),
        ("extends: c.yaml\n", "c.yaml -> "),
        ("name: a\nsampling: ${nowhere}\n", "'nowhere' not found"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, told: str) -> None:
    message = refusal(write(tmp_path / "c.yaml", content))
    assert told in message
    assert str(tmp_path) in message or told.endswith("unknown key")


def test_a_document_that_is_missing_names_its_own_page(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_document(RaftConfig, tmp_path / "none.yaml", what="promotion rules", see="docs/promotion.md")
    assert str(tmp_path / "none.yaml") in caught.value.what
    assert "docs/promotion.md" in str(caught.value.hint)
    assert "tiny.yaml" not in str(caught.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"name: \xff\xfe\n")
    assert "can't decode byte 0xff" in refusal(tmp_path / "c.yaml")
    assert f"regular file: {tmp_path}" in refusal(tmp_path)
    assert f"not found: {tmp_path / 'none.yaml'}" in refusal(tmp_path / "none.yaml")


def test_extends_takes_the_other_file_and_goes_on_from_there(tmp_path: Path, plain_config: Plain) -> None:
    write(tmp_path / "base.yaml", plain_config(sampling={"samples_per_prompt": 4, "top_p": 0.5}))
    (tmp_path / "inner").mkdir()
    write(tmp_path / "middle.yaml", {"extends": "base.yaml", "sampling": {"top_p": 0.6}})
    path = write(tmp_path / "inner" / "c.yaml", {"extends": "../middle.yaml", "name": "mine"})
    config = load_config(path, ["sampling.top_k=3"])
    assert config.name == "mine"
    sampling = config.sampling
    assert (sampling.samples_per_prompt, sampling.top_p, sampling.top_k) == (4, 0.6, 3)


def test_a_circle_through_folders_is_found(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    write(tmp_path / "x" / "a.yaml", "extends: ../x/b.yaml\n")
    write(tmp_path / "x" / "b.yaml", "extends: ../x/a.yaml\n")
    assert " -> ".join(str(tmp_path / "x" / f"{name}.yaml") for name in "aba") in refusal(tmp_path / "x" / "a.yaml")


def test_files_that_do_not_fit_onto_each_other(tmp_path: Path, plain_config: Plain) -> None:
    write(tmp_path / "base.yaml", plain_config())
    path = write(tmp_path / "c.yaml", {"extends": "base.yaml", "scoring": {"rewards": {"a": 1}}})
    assert "base.yaml, which it extends" in refusal(path)


def test_a_dump_is_whole_and_reads_back(checked_config: Callable[..., RaftConfig]) -> None:
    config = checked_config(
        name="a.b-c",
        finetuning={"learning_rate": 1e-7, "lora": None, "adam_betas": [0.9, 0.95]},
        sampling={"stop": ["é\n", "no", "1e-4"]},
        selection={"type": "threshold", "threshold": -0.25},
    )
    plain = yaml.safe_load(dump_config(config))
    assert plain["gates"]["max_perplexity_rise"] == 0.066
    assert check_config(plain, where="dump") == config


def test_identity_is_what_is_computed(checked_config: Callable[..., RaftConfig]) -> None:
    config = checked_config()
    same = checked_config(name="other", tracking={"experiment": "e"}, versioning={"enabled": False})
    assert config_digest(same) == config_digest(config)
    assert config_digest(checked_config(seed=1)) != config_digest(config)
    assert config_digest(checked_config(iterations=6)) != config_digest(config)
    assert default_run_name(config) == f"small-{config_digest(config)[:8]}"


def test_writing_a_default_out_changes_nothing(checked_config: Callable[..., RaftConfig]) -> None:
    assert config_digest(checked_config(sampling={"temperature": 0.85, "top_p": 1})) == config_digest(checked_config())
