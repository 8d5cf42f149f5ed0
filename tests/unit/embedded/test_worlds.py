"""References are resolved without torch, and each mistake is told in one message."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from raft_core.config.loading import load_config
from raft_core.errors import ConfigError, PartsError
from raft_core.examples import prepare, resolve, worlds_of
from raft_core.examples.presets import WORLDS

IS_A_RUN = re.compile("^(policy|extends):", re.MULTILINE)
CONFIGS = sorted(p for p in (Path(__file__).parents[3] / "configs").glob("*.yaml") if IS_A_RUN.search(p.read_text()))


def test_plain_strings_are_paths(embedded_cache: Path) -> None:
    assert resolve("some/folder") == Path("some/folder")


def test_a_part_that_is_not_prepared_says_how(embedded_cache: Path) -> None:
    with pytest.raises(PartsError, match="do this: raft prepare tiny"):
        resolve("embedded:tiny/policy")
    assert not embedded_cache.exists()


@pytest.mark.parametrize(
    ("reference", "told"),
    [("embedded:mars/policy", "one of reviews, tiny"), ("embedded:tiny/engine", "one of policy,"), ("embedded:", "no")],
)
def test_unknown_names_list_the_known_ones(embedded_cache: Path, reference: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        resolve(reference)


def test_unknown_stages_are_refused(embedded_cache: Path) -> None:
    with pytest.raises(ConfigError, match="one of data, policy"):
        prepare("tiny", stages=["engine"])


def test_prepare_one_stage_then_resolve(embedded_cache: Path) -> None:
    receipts = prepare("tiny", stages=["data"])
    assert list(receipts) == ["data"]
    path = resolve("embedded:tiny/prompts.held_out")
    assert path.is_file()
    assert path.parents[2] == embedded_cache
    (path.parent / "lexicon.tsv").write_text("cut")
    with pytest.raises(PartsError, match="raft prepare tiny"):
        resolve("embedded:tiny/prompts.held_out")


def test_every_stage_exists_after_its_inputs_and_makes_every_part() -> None:
    for world in WORLDS.values():
        before: dict[str, tuple[str, ...]] = {}
        for name, stage in world.stages.items():
            for earlier, read in stage.inputs.items():
                assert set(read) <= set(before[earlier])
            before[name] = stage.outputs
            module, _, function = stage.build.partition(":")
            assert callable(getattr(import_module(module), function))
        for stage_name, path in world.parts.values():
            assert path in world.stages[stage_name].outputs


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configurations_name_parts_that_exist(path: Path, embedded_cache: Path) -> None:
    config = load_config(path)
    worlds = worlds_of(config)
    assert set(worlds) <= set(WORLDS)
    if worlds:
        with pytest.raises(PartsError):
            resolve(config.policy.model)


def test_neither_resolving_nor_finding_things_prepared_imports_torch(embedded_cache: Path) -> None:
    code = (
        "import sys\nfrom raft_core.examples import prepare, resolve\n"
        "prepare('tiny', stages=['data'])\nprepare('tiny', stages=['data'])\nresolve('embedded:tiny/lexicon')\n"
        "try:\n    resolve('embedded:reviews/policy')\nexcept OSError:\n    pass\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'pandas', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
