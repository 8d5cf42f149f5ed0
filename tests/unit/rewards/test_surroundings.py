"""What a reward does to the process ends with its call, and processes that it starts find its code."""

import locale
import os
import signal
import sys
from pathlib import Path

import pytest

from raft_core.rewards.function import FunctionReward, FunctionRewardConfig, load
from raft_core.types import Prompt

PROMPTS = [Prompt.of("p"), Prompt.of("q")]


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded(text: str, **settings: object) -> FunctionReward:
    Path("mine.py").write_text(text)
    return load(FunctionRewardConfig(function="mine.py:f", **settings))


def body(*lines: str, before: str = "") -> str:
    return f"{before}\ndef f(prompts, completions):\n" + "".join(f"    {line}\n" for line in lines)


# -- processes -------------------------------------------------------------------------------------

POOL = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
import helper

def length(text):
    return len(text) + helper.MORE

def f(prompts, completions):
    context = multiprocessing.get_context({method!r})
    if {executor}:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return list(pool.map(length, completions))
    with context.Pool(1) as pool:
        return pool.map(length, completions)
"""


@pytest.mark.parametrize(
    ("method", "executor"), [("spawn", False), ("spawn", True), ("forkserver", False), ("fork", False)]
)
def test_processes_run_the_code_that_was_hashed(method: str, executor: bool) -> None:
    Path("helper.py").write_text("MORE = 10\n")
    Path("random.py").write_text("raise SystemExit('the random.py of the current folder was run')\n")
    reward = loaded(POOL.format(method=method, executor=executor))
    Path("helper.py").write_text("MORE = 20\n")
    assert reward(PROMPTS, ["a", "bcd"]) == [11, 13]


def test_a_pool_that_is_made_while_the_file_is_loaded_ends_in_words() -> None:
    pool = "import multiprocessing\nPOOL = multiprocessing.get_context('spawn').Pool(1)\ndef g(x): return x\n"
    reward = loaded(body("return POOL.map(g, [0, 1])", before=pool))
    try:
        with pytest.raises(ImportError, match=r"mine\.py.* fails in a child process"):
            reward(PROMPTS, ["a", "b"])
    finally:
        reward.function.__globals__["POOL"].terminate()


def test_multiprocessing_itself_is_as_it_was() -> None:
    from multiprocessing import spawn, util

    before = spawn.get_preparation_data, util._args_from_interpreter_flags  # type: ignore[attr-defined]
    loaded(body("return [0, 1]"))(PROMPTS, ["a", "b"])
    after = spawn.get_preparation_data, util._args_from_interpreter_flags  # type: ignore[attr-defined]
    assert before == after


# -- folder, path, environment ---------------------------------------------------------------------


def test_a_changed_folder_is_changed_back(tmp_path: Path) -> None:
    Path("words.txt").write_text("abc")
    reward = loaded(body("import os", "size = os.path.getsize('words.txt')", "os.chdir('/')", "return [size, size]"))
    assert [reward(PROMPTS, ["a", "b"]), reward(PROMPTS, ["a", "b"])] == [[3, 3], [3, 3]]
    assert Path.cwd() == tmp_path


def test_a_failing_reward_changes_nothing_either(tmp_path: Path) -> None:
    reward = loaded(body("import os", "os.chdir('/')", "os.environ['HOME'] = '/nowhere'", "raise ValueError"))
    home = os.environ.get("HOME")
    with pytest.raises(ValueError):  # noqa: PT011
        reward(PROMPTS, ["a", "b"])
    assert (Path.cwd(), os.environ.get("HOME")) == (tmp_path, home)


def test_what_loading_sets_up_holds_while_the_reward_runs(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Path("data/words.txt").write_text("abc")
    before = "import os, sys\nos.chdir('data')\nos.environ['MINE'] = '4'\nsys.path.append('/mine')\n"
    asked = "[os.path.getsize('words.txt'), int(os.environ['MINE']) + sys.path.count('/mine')]"
    reward = loaded(body(f"return {asked}", before=before))
    path, environment = list(sys.path), dict(os.environ)
    for _ in range(2):
        assert reward(PROMPTS, ["a", "b"]) == [3, 5]
        assert (Path.cwd(), sys.path, dict(os.environ)) == (tmp_path, path, environment)


def test_a_generator_runs_in_the_same_place(tmp_path: Path) -> None:
    Path("words.txt").write_text("abc")
    reward = loaded("import os\ndef f(prompts, completions):\n  while True:\n    yield os.path.getsize('words.txt')\n")
    os.chdir("/")
    assert reward(PROMPTS, ["a", "b"])[:2] == [3, 3]
    assert Path.cwd() == Path("/")


# -- the rest of the process -----------------------------------------------------------------------


def test_nobody_is_asked() -> None:
    with pytest.raises(EOFError):
        loaded(body("return [input(), 0]"))(PROMPTS, ["a", "b"])
    text = body("import subprocess", "return [len(subprocess.run(['cat'], capture_output=True).stdout)] * 2")
    reader, writer = os.pipe()
    kept = os.dup(0)
    try:
        os.dup2(reader, 0)
        os.write(writer, b"an answer for somebody else")
        assert loaded(text)(PROMPTS, ["a", "b"]) == [0, 0]
        assert os.read(0, 100) == b"an answer for somebody else"
    finally:
        os.dup2(kept, 0)
        for descriptor in (kept, reader, writer):
            os.close(descriptor)


def test_streams_signals_locale_and_torch_are_as_they_were() -> None:
    import torch

    lines = (
        "import io, locale, signal, sys, torch",
        "sys.stdout = sys.stderr = io.StringIO()",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "signal.signal(signal.SIGALRM, lambda *_: None)",
        "signal.alarm(1000)",
        "locale.setlocale(locale.LC_ALL, 'C')",
        "torch.set_default_dtype(torch.float64)",
        "torch.set_grad_enabled(False)",
        "torch.set_num_threads(7)",
        "torch.use_deterministic_algorithms(True)",
        "return [0, 1]",
    )

    def state() -> tuple[object, ...]:
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
        settings = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
        return (
            sys.stdin,
            sys.stdout,
            sys.stderr,
            handlers,
            locale.setlocale(locale.LC_ALL),
            settings,
            torch.are_deterministic_algorithms_enabled(),
            signal.getitimer(signal.ITIMER_REAL)[0] < 500,
        )

    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    before = state()
    assert loaded(body(*lines))(PROMPTS, ["a", "b"]) == [0, 1]
    assert state() == before
