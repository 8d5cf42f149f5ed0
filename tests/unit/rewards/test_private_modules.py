"""What a reward runs is what was hashed: its modules are its own, from bytes that were read once."""

import importlib
import os
import py_compile
import sys
from pathlib import Path

import pytest

from raft_core.errors import ConfigError, RewardError
from raft_core.rewards.function import FunctionReward, FunctionRewardConfig, load
from raft_core.types import Prompt

PROMPT = [Prompt.of("p")]
MAIN = "from helper import VALUE\ndef f(prompts, completions):\n    return [VALUE for _ in completions]\n"


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> None:
    """With the old size and time where there was a file: what a cache would take for the same."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    stat = path.stat() if path.exists() else None
    path.write_text(text)
    if stat is not None:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def loaded(text: str = MAIN, **settings: object) -> FunctionReward:
    write("mine.py", text)
    return load(FunctionRewardConfig(function="mine.py:f", **settings))


def score(reward: FunctionReward) -> object:
    (value,) = reward(PROMPT, ["c"])
    return value


def test_a_helper_that_changed_is_run_anew() -> None:
    write("helper.py", "VALUE = 1\n")
    before = loaded()
    write("helper.py", "VALUE = 2\n")
    after = loaded()
    assert (score(before), score(after)) == (1, 2)
    assert before.identity != after.identity
    assert "helper" not in sys.modules


def test_a_helper_of_a_helper_too() -> None:
    write("pack/__init__.py", "")
    write("pack/inner.py", "VALUE = 1\n")
    write("helper.py", "from pack import inner\nVALUE = inner.VALUE\n")
    assert score(loaded()) == 1
    write("pack/inner.py", "VALUE = 2\n")
    assert score(loaded()) == 2


def test_a_folder_without_init_is_no_way_around() -> None:
    write("space/inner.py", "VALUE = 1\n")
    text = "from space import inner\ndef f(prompts, completions):\n    return [inner.VALUE]\n"
    first = loaded(text)
    write("space/inner.py", "VALUE = 2\n")
    second = loaded(text)
    assert (score(first), score(second)) == (1, 2)
    assert first.identity != second.identity
    assert "space" not in sys.modules


def test_a_helper_that_did_not_change_keeps_what_it_holds() -> None:
    write("helper.py", "import itertools\nCOUNT = itertools.count()\n")
    text = "import helper\ndef f(prompts, completions):\n    return [next(helper.COUNT)]\n"
    assert [score(loaded(text)), score(loaded(text))] == [0, 1]


def test_what_the_process_imported_before_is_not_taken_for_a_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    write("elsewhere/helper.py", "VALUE = 'foreign'\n")
    monkeypatch.syspath_prepend("elsewhere")
    foreign = importlib.import_module("helper")
    monkeypatch.undo()
    try:
        os.chdir(Path(foreign.__file__ or "").parents[1])
        write("helper.py", "VALUE = 'own'\n")
        assert score(loaded()) == "own"
        assert sys.modules["helper"] is foreign
    finally:
        del sys.modules["helper"]


def test_two_folders_have_helpers_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    rewards = []
    for name in ("one", "two"):
        Path(name).mkdir()
        with monkeypatch.context() as within:
            within.chdir(name)
            write("helper.py", f"VALUE = {name!r}\n")
            rewards.append(loaded(MAIN.replace("    return", "    from helper import VALUE\n    return")))
    assert [score(reward) for reward in rewards] == ["one", "two"]


def test_bytecode_beside_the_source_is_not_run() -> None:
    write("evil.py", "VALUE = 666\n")
    write("helper.py", "VALUE = 1  \n")
    os.utime("helper.py", (0, 0))
    os.utime("evil.py", (0, 0))
    assert Path("evil.py").stat().st_size == Path("helper.py").stat().st_size
    planted = importlib.util.cache_from_source("helper.py")
    py_compile.compile("evil.py", planted, dfile=str(Path("helper.py").absolute()))
    assert score(loaded()) == 1


def test_a_lazy_import_runs_the_bytes_that_were_hashed() -> None:
    write("helper.py", "VALUE = 1\n")
    reward = loaded("def f(prompts, completions):\n    import helper\n    return [helper.VALUE]\n")
    write("helper.py", "VALUE = 2\n")
    assert score(reward) == 1


def test_what_is_imported_by_name_while_loading_is_hashed() -> None:
    text = "import importlib\nM = importlib.import_module('hel' + 'per')\ndef f(p, c):\n    return [M.VALUE]\n"
    identities = set()
    for value in (1, 2):
        write("helper.py", f"VALUE = {value}\n")
        reward = loaded(text)
        assert score(reward) == value
        assert set(reward.sources) == {"mine.py", "helper"}
        identities.add(reward.identity)
    assert len(identities) == 2


LATE = "import importlib\ndef f(prompts, completions):\n    return [importlib.import_module('hel' + 'per').VALUE]\n"


def test_what_is_imported_by_name_later_is_refused() -> None:
    write("helper.py", "VALUE = 1\n")
    with pytest.raises(ImportError, match=r"local module helper .*`files`"):
        score(loaded(LATE))


def test_unless_files_names_it() -> None:
    write("helper.py", "VALUE = 1\n")
    reward = loaded(LATE, files=("helper.py",))
    assert score(reward) == 1
    changed = loaded(LATE, files=("helper.py",))
    assert changed.identity == reward.identity
    write("helper.py", "VALUE = 2\n")
    with pytest.raises(ImportError, match="local module helper "):
        score(changed)


def test_neighbours_by_a_path_of_its_own() -> None:
    write("deep/helper.py", "VALUE = 3\n")
    text = f"import sys\nsys.path.insert(0, {str(Path('deep').absolute())!r})\n" + MAIN
    before = list(sys.path)
    first = loaded(text)
    assert score(first) == 3
    assert sys.path == before
    write("deep/helper.py", "VALUE = 4\n")
    assert score(loaded(text)) == 4


def test_raft_itself_is_there_once() -> None:
    text = "from raft_core.errors import ConfigError\ndef f(prompts, completions):\n    raise ConfigError('x')\n"
    reward = loaded(text)
    with pytest.raises(ConfigError):
        score(reward)
    assert set(reward.sources) == {"mine.py"}


def test_data_that_changes_while_it_is_used() -> None:
    Path("words.txt").write_text("good")
    reward = loaded("def f(prompts, completions):\n    return [0]\n", files=("words.txt",))
    reward.verify()
    Path("words.txt").unlink()
    Path("words.txt").write_text("good")  # as dvc checkout does, or an editor that saves
    reward.verify()
    Path("words.txt").write_text("better")
    with pytest.raises(RewardError, match=r"changed .*words\.txt"):
        reward.verify()
