"""References are resolved without torch, and each mistake is told in one message."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from raft_core.config.loading import load_config
from raft_core.errors import ConfigError, ExampleError
from raft_core.examples import examples_of, prepare, resolve
from raft_core.examples.presets import EXAMPLES

IS_A_RUN = re.compile("^(policy|extends):", re.MULTILINE)
CONFIGS = sorted(p for p in (Path(__file__).parents[3] / "configs").glob("*.yaml") if IS_A_RUN.search(p.read_text()))


def test_plain_strings_are_paths(example_cache: Path) -> None:
    assert resolve("some/folder") == Path("some/folder")


def test_a_part_that_is_not_prepared_says_how(example_cache: Path) -> None:
    with pytest.raises(ExampleError, match="try: raft prepare tiny"):
        resolve("example:tiny/policy")
    assert not example_cache.exists()


@pytest.mark.parametrize(
    ("reference", "told"),
    [("example:mars/policy", "one of reviews, tiny"), ("example:tiny/engine", "one of policy,"), ("example:", "no")],
)
def test_unknown_names_list_the_known_ones(example_cache: Path, reference: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        resolve(reference)


def test_unknown_stages_are_refused(example_cache: Path) -> None:
    with pytest.raises(ConfigError, match="one of data, policy"):
        prepare("tiny", stages=["engine"])


def test_prepare_one_stage_then_resolve(example_cache: Path) -> None:
    receipts = prepare("tiny", stages=["data"])
    assert list(receipts) == ["data"]
    path = resolve("example:tiny/prompts.held_out")
    assert path.is_file()
    assert path.parents[2] == example_cache
    (path.parent / "lexicon.tsv").write_text("cut")
    with pytest.raises(ExampleError, match="raft prepare tiny"):
        resolve("example:tiny/prompts.held_out")


def test_every_stage_exists_after_its_inputs_and_makes_every_part() -> None:
    for example in EXAMPLES.values():
        before: dict[str, tuple[str, ...]] = {}
        for name, stage in example.stages.items():
            for earlier, read in stage.inputs.items():
                assert set(read) <= set(before[earlier])
            before[name] = stage.outputs
            module, _, function = stage.build.partition(":")
            assert callable(getattr(import_module(module), function))
        for stage_name, path in example.assets.values():
            assert path in example.stages[stage_name].outputs


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configurations_name_parts_that_exist(path: Path, example_cache: Path) -> None:
    config = load_config(path)
    examples = examples_of(config)
    assert set(examples) <= set(EXAMPLES)
    if examples:
        with pytest.raises(ExampleError):
            resolve(config.policy.model)


def test_neither_resolving_nor_finding_things_prepared_imports_torch(example_cache: Path) -> None:
    code = (
        "import sys\nfrom raft_core.examples import prepare, resolve\n"
        "prepare('tiny', stages=['data'])\nprepare('tiny', stages=['data'])\nresolve('example:tiny/lexicon')\n"
        "try:\n    resolve('example:reviews/policy')\nexcept OSError:\n    pass\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'pandas', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
