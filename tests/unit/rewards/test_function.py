"""Rewards that are plain functions: found, loaded, called, and told apart by their source."""

import math
import os
import sys
from pathlib import Path

import pytest

from raft_core.errors import ConfigError, InputError
from raft_core.rewards.function import FunctionRewardConfig, load
from raft_core.types import Prompt

PROMPTS = [Prompt.of("two words", reference="yes"), Prompt.of("one")]
LENGTH = "def length(prompts, completions):\n    return [len(c) for c in completions]\n"


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def function(text: str, name: str = "length", *, file: str = "mine.py", **settings: object) -> FunctionRewardConfig:
    Path(file).write_text(text)
    return FunctionRewardConfig(function=f"{file}:{name}", **settings)


def test_batched_file() -> None:
    assert load(function(LENGTH))(PROMPTS, ["abc", ""]) == [3, 0]


@pytest.mark.parametrize("named", ["mine.py", "mine.py:", "mine.py:a b", ":length"])
def test_what_names_no_function_is_answered_with_the_form(named: str) -> None:
    with pytest.raises(ValueError, match=r"file\.py:FUNCTION"):
        FunctionRewardConfig(function=named)


def test_one_by_one_file() -> None:
    text = "def f(prompt, completion):\n    return len(prompt) + len(completion)\n"
    assert load(function(text, "f", batched=False))(PROMPTS, ["abc", ""]) == [12, 3]


def test_references_by_name() -> None:
    batched = "def f(prompts, completions, references):\n    return [c == r for c, r in zip(completions, references)]\n"
    reward = load(function(batched, "f"))
    assert reward(PROMPTS, ["yes", "yes"]) == [True, False]
    assert reward.needs_references
    single = "def f(prompt, completion, *, reference=None):\n    return completion == reference\n"
    reward = load(function(single, "f", batched=False))
    assert reward(PROMPTS, ["yes", "yes"]) == [True, False]
    assert not reward.needs_references, "it may do without them"


def test_a_function_may_change_its_lists() -> None:
    text = "def f(prompts, completions):\n    n = len(completions)\n    completions.clear()\n    return [0.0] * n\n"
    completions = ["a", "b"]
    assert load(function(text, "f"))(PROMPTS, completions) == [0.0, 0.0]
    assert completions == ["a", "b"]


def test_installed_module() -> None:
    assert load(FunctionRewardConfig(function="math:hypot", batched=False)).function is math.hypot


def test_module_of_the_current_folder_with_a_lazy_import() -> None:
    Path("my_rewards_a").mkdir()
    Path("my_rewards_a/__init__.py").write_text("")
    Path("my_rewards_a/words.py").write_text("GOOD = {'good'}\n")
    Path("my_rewards_a/count.py").write_text(
        "def f(prompts, completions):\n    from my_rewards_a.words import GOOD\n"
        "    return [sum(w in GOOD for w in c.split()) for c in completions]\n"
    )
    before = list(sys.path)
    reward = load(FunctionRewardConfig(function="my_rewards_a.count:f"))
    assert reward(PROMPTS, ["good good", "bad"]) == [2, 0]
    assert sys.path == before


def test_dataclasses_in_a_file() -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Word:\n    text: str\n"
        "def f(prompts, completions):\n    return [len(Word(c).text) for c in completions]\n"
    )
    assert load(function(text, "f"))(PROMPTS, ["ab", "c"]) == [2, 1]


def test_loading_leaves_no_bytecode() -> None:
    load(function(LENGTH))
    assert sorted(p.name for p in Path().iterdir()) == ["mine.py"]


# -- identity ------------------------------------------------------------------------------------


def test_identity_is_of_the_bytes_not_of_the_place_or_the_time() -> None:
    first = load(function(LENGTH))
    assert load(function(LENGTH, file="elsewhere.py")).identity == first.identity
    assert load(function(LENGTH, weight=2.0)).identity == first.identity
    assert load(function(LENGTH.replace("len(c)", "len(c) + 1"))).identity != first.identity


def test_a_same_size_edit_with_an_old_time_is_seen_and_run() -> None:
    config = function(LENGTH)
    stat = Path("mine.py").stat()
    first = load(config)
    Path("mine.py").write_text(LENGTH.replace("len(c)", "ord(c)"))
    os.utime("mine.py", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = load(config)
    assert second(PROMPTS, ["a", "b"]) == [97, 98]
    assert second.identity != first.identity


def test_identity_knows_the_function_and_how_it_is_called() -> None:
    both = LENGTH + "def other(*given):\n    return 0\n"
    one = load(function(both))
    two = load(function(both, "other"))
    three = load(function(both, "other", batched=False))
    assert len({one.identity, two.identity, three.identity}) == 3


def test_identity_covers_local_imports_and_named_files() -> None:
    Path("my_rewards_b").mkdir()
    for name in ("__init__", "words"):
        Path(f"my_rewards_b/{name}.py").write_text("")
    Path("my_rewards_b/count.py").write_text("def f(prompts, completions):\n    from . import words\n    return [0]\n")
    Path("list.txt").write_text("good\n")
    config = FunctionRewardConfig(function="my_rewards_b.count:f", files=("list.txt",))
    seen = {load(config).identity}
    for changed in ("my_rewards_b/words.py", "my_rewards_b/__init__.py", "list.txt"):
        Path(changed).write_text(f"# {changed}\n")
        seen.add(load(config).identity)
    assert len(seen) == 4


# -- what cannot be used -------------------------------------------------------------------------


def refused(config: FunctionRewardConfig) -> str:
    with pytest.raises((ConfigError, InputError)) as told:
        load(config)
    return str(told.value)


def test_missing_file() -> None:
    told = refused(FunctionRewardConfig(function="nowhere/mine.py:f"))
    assert "nowhere/mine.py" in told
    assert "No such file" in told


def test_missing_module() -> None:
    told = refused(FunctionRewardConfig(function="no_such_package.mine:f"))
    assert "no_such_package.mine" in told.splitlines()[0]
    assert "path/to/file.py:function" in told


def test_syntax_error_names_file_line_and_text() -> None:
    told = refused(function("x = 1\ndef f(:\n    pass\n", "f"))
    assert "syntax error" in told
    assert "mine.py, line 2: def f(:" in told


def test_bytes_that_are_no_source() -> None:
    Path("mine.py").write_bytes(b"x = '\xff\xfe'\n")
    assert "mine.py" in refused(FunctionRewardConfig(function="mine.py:f"))
    Path("mine.py").write_bytes(b"x = 1\0")
    assert "mine.py" in refused(FunctionRewardConfig(function="mine.py:f"))


def test_import_error_names_what_is_missing_and_the_users_line() -> None:
    told = refused(function("def g():\n    import no_such_library_at_all\ng()\n", "f"))
    assert "ModuleNotFoundError: No module named 'no_such_library_at_all'" in told
    assert "mine.py, line 2, in g: import no_such_library_at_all" in told
    assert "install no_such_library_at_all" in told
    assert "raft_core" not in told


@pytest.mark.parametrize("failing", ["raise ValueError('my own words')", "import sys; sys.exit('my own words')"])
def test_a_file_that_fails_while_it_is_loaded(failing: str) -> None:
    before = set(sys.modules)
    told = refused(function(f"{failing}\n", "f"))
    assert "my own words" in told
    assert "mine.py, line 1" in told
    assert set(sys.modules) == before


def test_no_such_function_names_the_nearest() -> None:
    told = refused(function(LENGTH + "def _hidden():\n    pass\n", "lenght"))
    assert "lenght" in told.splitlines()[0]
    assert "mine.py:length" in told.splitlines()[-1]


@pytest.mark.parametrize(
    "text",
    ["length = 3\n", "class length:\n    pass\n", "async def length(prompts, completions):\n    return []\n"],
    ids=["number", "class", "async"],
)
def test_what_cannot_be_called(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(function(text))
    assert "mine.py:length" in caught.value.what
    assert "def" in str(caught.value.expected)


@pytest.mark.parametrize("parameters", ["completions", "a, b, c", "*, prompts, completions", "prompt, completion"])
def test_wrong_parameters_of_a_batched_function(parameters: str) -> None:
    told = refused(function(f"def length({parameters}):\n    return []\n"))
    assert f"({parameters})" in told
    assert "(prompts, completions)" in told
    assert "batched: false" in told


def test_wrong_parameters_of_a_function_of_one_sample() -> None:
    told = refused(function(LENGTH, batched=False))
    assert "(prompt, completion)" in told
    assert "batched: true" in told


def test_missing_named_file() -> None:
    assert "list.txt" in refused(function(LENGTH, files=("list.txt",)))


@pytest.mark.parametrize("what", ["function", "files"])
def test_a_pipe_is_refused_instead_of_waited_for(what: str) -> None:
    os.mkfifo("pipe.py")
    if what == "function":
        assert "not a file" in refused(FunctionRewardConfig(function="pipe.py:f"))
    else:
        assert "neither a file nor a folder" in refused(function(LENGTH, files=("pipe.py",)))


def test_a_link_inside_a_named_folder_is_the_users_mistake() -> None:
    Path("lists").mkdir()
    Path("lists/words.txt").symlink_to("/nowhere")
    assert "symbolic link" in refused(function(LENGTH, files=("lists",)))
