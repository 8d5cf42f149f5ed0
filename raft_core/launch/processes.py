"""Start training processes, on one machine through a preloaded fork server, across machines through a command.

``start()`` begins to import what training needs (torch, transformers, peft, DeepSpeed) in a server process while
sampling runs, so that ``run_ranks`` forks its children in milliseconds instead of spending 6 to 7 seconds in each.
Children share no state with the owner: they get a picklable function of an importable module, write files, and die with
the owner.

Across machines: the function given to ``run_ranks`` first calls ``join_ranks`` and reads everything else from RANK,
LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. ``torchrun`` sets the same variables, so a rank runs
unchanged under it (``raft_core.launch.rank``). RAFT_LAUNCHER is a command that starts such ranks on the machines of a
cluster and returns when they have ended (``run_launched``).
"""

import atexit
import json
import os
import pickle
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from raft_core import errors
from raft_core.errors import RaftError, StepError
from raft_core.launch.children import python_module
from raft_core.launch.forkserver import DISK_FULL, ForkRequest

KEPT_OUT = ("mlflow", "wandb")
"""Modules that DeepSpeed would import although no training uses them; they cost seconds, memory and telemetry."""
RENDEZVOUS = "RAFT_RENDEZVOUS"
LAUNCHER = "RAFT_LAUNCHER"
TAIL_CHARS = 4000
STOP_TIMEOUT_S = 10.0


@dataclass(slots=True)
class _Server:
    """The one fork server of this process. ``owner``: its process id, to detect that this process was forked."""

    owner: int
    process: subprocess.Popen[bytes]
    connection: Connection
    ready: bool = False
    ended: dict[int, int] = field(default_factory=dict)
    """Exit codes of ended children by process id, until they are read."""
    peak_mb: int = 0
    """Highest resident memory of the ended children, in MB, until it is read."""


_server: _Server | None = None
_start_lock = threading.Lock()
_run_lock = threading.Lock()


def start(modules: Sequence[str]) -> None:
    """Start the fork server if there is none, without waiting for it to import ``modules``."""
    global _server
    with _start_lock:
        if _server is not None and _server.owner == os.getpid() and _server.process.poll() is None:
            return
        ours, theirs = Pipe(duplex=True)
        environment = {
            **os.environ,
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # checking for a GPU must not initialize it before a fork
            "TOKENIZERS_PARALLELISM": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        named = [*modules, *(f"!{name}" for name in KEPT_OUT)]
        process = subprocess.Popen(
            python_module("raft_core.launch.forkserver", str(theirs.fileno()), str(os.getpid()), *named),
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        _server = _Server(os.getpid(), process, ours)
        atexit.register(stop)


def stop() -> None:
    """End the fork server and all its children; a ``run_ranks`` in another thread then fails."""
    global _server
    with _start_lock:
        server, _server = _server, None
        if server is None or server.owner != os.getpid():
            return
        server.process.terminate()
        try:
            server.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.process.kill()  # the kernel then kills its children
            server.process.wait()
        server.connection.close()


def run_ranks(
    function: Callable[[Any], None],
    argument: Any,
    *,
    ranks: int,
    scratch: Path,
    children_lock: Path | None = None,
    preload: Sequence[str] = (),
) -> None:
    """Run ``function(argument)`` in ``ranks`` processes and wait; their output goes to ``scratch/rank-N.log``.

    Each process holds ``children_lock`` (shared) while it lives, and is killed when this process dies. Only one
    fine-tuning runs at a time; a second call waits. ``preload``: as for ``start``, which is called if it was not.

    Raises the RaftError that a rank raised; StepError with rank and signal or traceback if one failed otherwise;
    MemoryError if one ran out of memory. No rank survives the call, however it ends.
    """
    import torch

    scratch.mkdir(parents=True, exist_ok=True)
    threads = max(1, torch.get_num_threads() // ranks)
    rendezvous = scratch / "rendezvous"
    rendezvous.unlink(missing_ok=True)
    port = _free_port()
    requests = [
        ForkRequest(
            function,
            argument,
            _rank_environment(rank, ranks, port, rendezvous),
            threads,
            scratch / f"rank-{rank}.log",
            scratch / f"rank-{rank}.error",
            children_lock,
        )
        for rank in range(ranks)
    ]
    with _run_lock:
        try:
            failed, others_live = _run(_ready_server(preload), requests)
        except BaseException:
            stop()
            raise
        if others_live:
            stop()
    if failed is not None:
        raise _failure(*failed, ranks, scratch)


def run_launched(job: Path, scratch: Path) -> bool:
    """Run ``RAFT_LAUNCHER JOB`` and wait for it; False if RAFT_LAUNCHER is not set. Output goes to ``launcher.log``.

    Raises StepError unless it exits with 0. The command and its process group end with this call: if it is interrupted
    or this process is killed, they get SIGTERM, ten seconds to end the ranks on other machines, then SIGKILL. Each
    rank holds the job's children_lock while it lives, on every machine.
    """
    command = os.environ.get(LAUNCHER)
    if not command:
        return False
    log = scratch / "launcher.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("launched.py")), *shlex.split(command), str(job)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code = process.wait()
        except BaseException:
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(STOP_TIMEOUT_S)
            raise
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if code:
        raise StepError(f"the command in {LAUNCHER} ended with exit code {code}", got=_tail(log), hint=f"read {log}")
    return True


def _run(server: _Server, requests: Sequence[ForkRequest]) -> tuple[tuple[int, int] | None, bool]:
    """((rank, exit code) of the first rank that failed or None, whether others are still running)."""
    ranks_by_pid: dict[int, int] = {}
    for rank, request in enumerate(requests):
        request.error.unlink(missing_ok=True)
        server.connection.send_bytes(pickle.dumps(request))
        ranks_by_pid[_receive(server, "started")] = rank
    while ranks_by_pid:
        pid, code = _await_end(server, ranks_by_pid)
        rank = ranks_by_pid.pop(pid)
        if code != 0:
            return (rank, code), bool(ranks_by_pid)
    return None, False


def take_peak_memory_mb() -> int:
    """Highest resident memory (MB) of the training processes that ended since the last call; 0 if none did."""
    if (server := _server) is None:
        return 0
    peak_mb, server.peak_mb = server.peak_mb, 0
    return peak_mb


def join_ranks() -> tuple[int, int]:
    """Join the process group; every rank calls this first. Returns (rank, number of ranks).

    On one machine the ranks meet through a file, so that no port can conflict with another run; under torchrun at
    MASTER_ADDR and MASTER_PORT.
    """
    import torch
    from torch import distributed

    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if on_gpu else "gloo"
    if meeting := os.environ.get(RENDEZVOUS):
        store = distributed.FileStore(meeting, ranks)  # type: ignore[attr-defined]
        distributed.init_process_group(backend, store=store, rank=rank, world_size=ranks)
    else:
        distributed.init_process_group(backend)
    return rank, ranks


def become_rank() -> None:
    """Set up a process that torchrun started like a child of the fork server: DeepSpeed's environment, no MLflow."""
    import torch

    os.environ.setdefault("ACCELERATE_USE_DEEPSPEED", "true")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for name in KEPT_OUT:
        sys.modules[name] = None  # type: ignore[assignment]


def _rank_environment(rank: int, ranks: int, port: int, rendezvous: Path) -> Mapping[str, str]:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    loopback = "lo" if sys.platform == "linux" else "lo0"
    return {
        **{name: str(value) for name, value in place.items()},
        "MASTER_ADDR": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": loopback,
        "ACCELERATE_USE_DEEPSPEED": "true",
        RENDEZVOUS: str(rendezvous),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ready_server(preload: Sequence[str]) -> _Server:
    start(preload)
    server = _server
    assert server is not None
    if not server.ready:
        _receive(server, "ready")
        server.ready = True
    return server


def _await_end(server: _Server, ranks_by_pid: Mapping[int, int]) -> tuple[int, int]:
    """(process id, exit code) of the next of these children to end."""
    while True:
        for pid in ranks_by_pid:
            if pid in server.ended:
                return pid, server.ended.pop(pid)
        _receive(server, "ended")


def _receive(server: _Server, expected: str) -> Any:
    """The value of the next message of that kind; ended children are noted on the way."""
    while True:
        try:
            kind, value = server.connection.recv()
        except (EOFError, OSError):
            stop()
            raise StepError(
                "the process that starts training processes (the fork server) died",
                got="no more messages from it",
                hint="look at the system log (dmesg): the memory was probably exhausted",
            ) from None
        if kind == "broken":
            stop()
            raise StepError(
                "the training libraries cannot be imported", got=value[-TAIL_CHARS:], hint="run raft doctor"
            )
        if kind == "ended":
            pid, code, peak_mb = value
            server.ended[pid] = code
            server.peak_mb = max(server.peak_mb, peak_mb)
        if kind == expected:
            return value


def _failure(rank: int, code: int, ranks: int, scratch: Path) -> BaseException:
    who = "the training process" if ranks == 1 else f"rank {rank} of {ranks} of the training"
    log = scratch / f"rank-{rank}.log"
    try:
        reported = json.loads((scratch / f"rank-{rank}.error").read_text())
    except (OSError, ValueError):
        reported = None
    if code < 0:
        name = signal.Signals(-code).name
        guess = "lower finetuning.micro_batch_size: the memory was probably exhausted" if name == "SIGKILL" else None
        return StepError(f"{who} was killed by {name}", got=_tail(log), hint=guess or f"read {log}")
    if reported is None and code != DISK_FULL:
        return StepError(
            f"{who} ended without an error message", got=f"exit code {code}\n{_tail(log)}", hint=f"read {log}"
        )
    if code == DISK_FULL:
        return StepError(
            f"the disk is full: {who} could not write", got=scratch, hint="free space, then run this command again"
        )
    if reported["kind"] == "MemoryError":
        return MemoryError(f"{who} ran out of memory; lower finetuning.micro_batch_size")
    if reported["kind"] == "other":
        return StepError(f"{who} failed", got=reported["traceback"][-TAIL_CHARS:], hint=f"read {log}")
    kind: type[RaftError] = getattr(errors, reported["kind"], StepError)
    return kind(reported["what"], got=reported["got"], expected=reported["expected"], hint=reported["hint"])


def _tail(log: Path) -> str:
    try:
        return log.read_text(errors="replace")[-TAIL_CHARS:].strip() or "no output"
    except OSError:
        return "no output"
