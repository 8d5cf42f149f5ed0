"""Training processes: how they start, fail, and die with their owner. No training here, and few imports.

What a rank runs is ``exec`` of a string, since a child imports the function that it is given.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from raft_core.errors import InputError, StepError
from raft_core.files.locks import exclusive, try_exclusive
from raft_core.launch import processes

DEADLINE_S = 60.0


@pytest.fixture(autouse=True, scope="module")
def light_server() -> Iterator[None]:
    """A server that imports torch alone; the heavy one comes back after this module."""
    processes.stop()
    processes.start([])
    yield
    processes.stop()


def run(code: str, scratch: Path, *, ranks: int = 1, lock: Path | None = None) -> None:
    processes.run_ranks(exec, textwrap.dedent(code), ranks=ranks, scratch=scratch, children_lock=lock)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def free(lock: Path) -> bool:
    with try_exclusive(lock) as found:
        return found


def test_each_rank_knows_its_place_and_its_share_of_the_cores(tmp_path: Path) -> None:
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"]
    code = f"""
        import json, os, torch
        from pathlib import Path
        told = [os.environ[name] for name in {names}] + [torch.get_num_threads()]
        Path({str(tmp_path)!r}, "rank" + os.environ["RANK"]).write_text(json.dumps(told))
    """
    run(code, tmp_path, ranks=2)
    threads = max(1, torch.get_num_threads() // 2)
    for rank in range(2):
        told = json.loads((tmp_path / f"rank{rank}").read_text())
        assert told == [str(rank), str(rank), "2", "127.0.0.1", threads]


def test_ranks_meet_without_a_port(tmp_path: Path) -> None:
    code = f"""
        import torch
        from pathlib import Path
        from raft_core.launch.processes import join_ranks
        rank, ranks = join_ranks()
        total = torch.tensor([rank + 1.0])
        torch.distributed.all_reduce(total)
        Path({str(tmp_path)!r}, f"sum{{rank}}").write_text(f"{{total.item()}} {{ranks}}")
    """
    run(code, tmp_path / "a b", ranks=2)
    assert [(tmp_path / f"sum{rank}").read_text() for rank in range(2)] == ["3.0 2", "3.0 2"]


def test_output_goes_to_a_file_for_each_rank(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run("import os, sys; print('told', os.environ['RANK']); os.write(2, b'raw')", tmp_path, ranks=2)
    assert sorted((tmp_path / f"rank-{r}.log").read_text().replace("raw", "") for r in range(2)) == [
        "told 0\n",
        "told 1\n",
    ]
    assert capfd.readouterr() == ("", "")


def test_an_exception_comes_back_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="the training process failed") as caught:
        run("def inner():\n    raise ValueError('the moon is full')\ninner()", tmp_path)
    assert "ValueError: the moon is full" in str(caught.value)
    assert "in inner" in str(caught.value)
    assert str(tmp_path / "rank-0.log") in str(caught.value)


def test_an_error_of_ours_comes_back_as_it_is(tmp_path: Path) -> None:
    code = "from raft_core.errors import InputError\nraise InputError('wrong', got=3, expected=Ellipsis, hint='this')"
    with pytest.raises(InputError) as caught:
        run(code, tmp_path)
    assert str(caught.value) == "wrong\n  got: 3\n  expected: Ellipsis\n  try: this"


def test_memory_that_runs_out_comes_back_as_such(tmp_path: Path) -> None:
    with pytest.raises(MemoryError, match="micro_batch_size"):
        run("raise MemoryError('too much')", tmp_path)


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    code = "import errno, os; raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))"
    with pytest.raises(StepError, match="the disk is full"):
        run(code, tmp_path)
    if Path("/dev/full").exists():
        with pytest.raises(StepError, match="the disk is full"):
            run("open('/dev/full', 'w', buffering=1).write('x' * 100_000)", tmp_path)


def test_what_training_does_not_use_is_not_imported(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="mlflow halted"):
        run("import mlflow", tmp_path)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
        ("import os; os.abort()", "SIGABRT"),
        ("import os; print('last words'); os._exit(3)", "exit code 3\n.*last words"),
        ("raise SystemExit('gone')", "SystemExit: gone"),
    ],
)
def test_a_killed_child_is_one_clear_error_and_its_owner_goes_on(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(StepError, match=f"(?s){message}"):
        run(code, tmp_path)
    run(f"open({str(tmp_path / 'done')!r}, 'w').close()", tmp_path)
    assert (tmp_path / "done").exists()


def test_one_failed_rank_ends_the_others(tmp_path: Path) -> None:
    code = f"""
        import os, time
        from pathlib import Path
        other = Path({str(tmp_path / "other")!r})
        if os.environ["RANK"] == "1":
            Path(f"{{other}}.tmp").write_text(str(os.getpid()))
            os.rename(f"{{other}}.tmp", other)
            time.sleep(600)
        while not other.exists():
            time.sleep(0.01)
        raise ValueError("rank 0 has had enough")
    """
    with pytest.raises(StepError, match=r"(?s)rank 0 of 2 .*had enough"):
        run(code, tmp_path, ranks=2, lock=tmp_path / "lock")
    assert not alive(int((tmp_path / "other").read_text()))
    until(lambda: free(tmp_path / "lock"))


def test_the_lock_is_held_for_as_long_as_a_child_lives(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = f"""
        import time
        from pathlib import Path
        Path({str(tmp_path / "up")!r}).touch()
        while not Path({str(tmp_path / "end")!r}).exists():
            time.sleep(0.01)
    """
    thread = threading.Thread(target=run, args=(code, tmp_path), kwargs={"lock": lock})
    thread.start()
    until((tmp_path / "up").exists)
    assert not free(lock)
    (tmp_path / "end").touch()
    thread.join(DEADLINE_S)
    until(lambda: free(lock))


def test_stop_ends_a_run_in_another_thread(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            run(f"import time; open({str(tmp_path / 'up')!r}, 'w').close(); time.sleep(600)", tmp_path)
        except StepError as error:
            failures.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until((tmp_path / "up").exists)
    processes.stop()
    thread.join(DEADLINE_S)
    processes.start([])
    assert "died" in str(failures[0])


def test_libraries_that_cannot_be_imported_are_told(tmp_path: Path) -> None:
    processes.stop()
    processes.start(["no_such_library"])
    with pytest.raises(StepError, match=r"(?s)cannot be imported.*no_such_library"):
        run("pass", tmp_path)
    processes.start([])


# -- what happens to children when their owner goes -------------------------------------------------

OWNER = """
import sys
from pathlib import Path
from raft_core.launch import processes
processes.start([])
code = '''
import os, time
from pathlib import Path
Path(TARGET + ".tmp").write_text(str(os.getpid()))
os.rename(TARGET + ".tmp", TARGET)
time.sleep(600)
'''.replace("TARGET", repr(sys.argv[1]))
scratch = Path(sys.argv[1]).parent
with (scratch / "begun").open("a") as file:
    file.write("x")
processes.run_ranks(exec, code, ranks=1, scratch=scratch / "work", children_lock=scratch / "lock")
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_children_die_with_their_owner(tmp_path: Path, ending: signal.Signals) -> None:
    """The owner is a script without a ``__main__`` guard: a child must not run it again."""
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    owner = subprocess.Popen([sys.executable, script, tmp_path / "pid"], stderr=subprocess.DEVNULL)
    until(lambda: (tmp_path / "pid").exists() or owner.poll() is not None)
    child = int((tmp_path / "pid").read_text())
    assert alive(child)
    assert not free(tmp_path / "lock")
    owner.send_signal(ending)
    owner.wait(DEADLINE_S)
    until(lambda: not alive(child))
    until(lambda: free(tmp_path / "lock"))
    assert (tmp_path / "begun").read_text() == "x"


def test_a_child_that_waited_for_the_lock_of_the_next_owner_does_nothing(tmp_path: Path) -> None:
    """Its owner died while it waited: the lock it then gets belongs to a run of somebody else."""
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    with exclusive(tmp_path / "lock"):
        owner = subprocess.Popen([sys.executable, script, tmp_path / "pid"], stderr=subprocess.DEVNULL)
        until((tmp_path / "work" / "rank-0.log").exists)
        owner.kill()
        owner.wait(DEADLINE_S)
    time.sleep(0.5)
    assert not (tmp_path / "pid").exists()
    until(lambda: free(tmp_path / "lock"))


# -- ranks that a launcher starts ---------------------------------------------------------------------

LAUNCHED = """
import sys
from pathlib import Path
from raft_core.launch import processes
from raft_core.config.finetuning import FinetuningConfig
from raft_core.config.policy import TextPolicyConfig
from raft_core.policies.base import FinetuneJob
from raft_core.policies.text.job import write_job
from raft_core.types import Policy
here = Path(sys.argv[1])
job = FinetuneJob(
    Policy(here, "0" * 64), TextPolicyConfig(model="m"), FinetuningConfig(), here, 1.0, 0, 0, 1, here / "out", here,
    children_lock=here / "lock",
)
write_job(job, here / "job.json")
processes.run_launched(here / "job.json", here)
"""
RANK = """
import os, sys, time, types
from pathlib import Path
from raft_core.launch import rank
def train(job):
    (job.scratch / "pid.tmp").write_text(str(os.getpid()))
    (job.scratch / "pid.tmp").rename(job.scratch / "pid")
    time.sleep(600)
sys.modules["raft_core.policies.text.trainer"] = types.SimpleNamespace(train=train)
rank.main(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("start", ["{python} {rank} $1", "setsid {python} {rank} $1"], ids=["group", "session"])
def test_what_a_launcher_started_dies_with_a_killed_owner_and_holds_the_lock(tmp_path: Path, start: str) -> None:
    """torchrun gives each rank a session of its own: that one dies with its parent, a group by one signal."""
    (tmp_path / "owner.py").write_text(LAUNCHED)
    (tmp_path / "rank.py").write_text(RANK)
    launcher = tmp_path / "launcher.sh"
    started = start.format(python=sys.executable, rank=tmp_path / "rank.py")
    launcher.write_text(f"#!/bin/sh\n{started} &\nwait\n")
    launcher.chmod(0o755)
    environment = {**os.environ, processes.LAUNCHER: str(launcher)}
    owner = subprocess.Popen([sys.executable, tmp_path / "owner.py", tmp_path], env=environment)
    until(lambda: (tmp_path / "pid").exists() or owner.poll() is not None)
    rank = int((tmp_path / "pid").read_text())
    assert not free(tmp_path / "lock")
    owner.kill()
    owner.wait(DEADLINE_S)
    until(lambda: not alive(rank))
    until(lambda: free(tmp_path / "lock"))


def test_how_a_launcher_ended_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command, code in (("sh -c 'echo gone; exit 3'", 3), ("sh -c 'echo gone; kill -9 $$'", 137)):
        monkeypatch.setenv(processes.LAUNCHER, command)
        with pytest.raises(StepError, match=f"exit code {code}") as caught:
            processes.run_launched(tmp_path / "job.json", tmp_path)
        assert "gone" in str(caught.value.got)
    monkeypatch.setenv(processes.LAUNCHER, "true")
    assert processes.run_launched(tmp_path / "job.json", tmp_path)
