"""DVC for real: pointers, a local remote, another clone, damage, and a stage of ``dvc repro``."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
import yaml

from raft_core.config.run import RaftConfig
from raft_core.errors import IntegrityError, StepError
from raft_core.files.artifacts import copy_shared, digest_of
from raft_core.records.run import BASE, Run, open_run, read_commit
from tasks.versioning.listing import pointer_md5
from tasks.versioning.pointers import content_md5, ensure_repository, restore, version

REPOSITORY = Path(__file__).resolve().parents[3]
DVC = str(Path(sys.executable).with_name("dvc"))


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_two_pointers_an_iteration_that_git_sees_and_payloads_that_it_does_not(in_git: Path, small_run: Run) -> None:
    base = version(small_run, BASE, in_git, push=True)
    first = version(small_run, 0, in_git, push=True)
    assert (base.pushed, first.pushed) == (True, True)
    assert (sorted(base.pointers), sorted(first.pointers)) == (["tables"], ["policy", "tables"])
    folder = small_run.folder(0)
    for name, md5 in first.pointers.items():
        assert pointer_md5(folder / f"{name}.dvc") == md5 == content_md5(folder / name)
    seen = git(in_git, "status", "--porcelain", "-uall", "runs").splitlines()
    assert {line[3:].strip('"').removeprefix("runs/small-run/") for line in seen} == {
        "config.yaml",
        "base/commit.json",
        "base/report.json",
        "base/tables.dvc",
        "iterations/000/commit.json",
        "iterations/000/finetune.json",
        "iterations/000/report.json",
        "iterations/000/policy.dvc",
        "iterations/000/tables.dvc",
    }


class Terminal(StringIO):
    """Standard error as a terminal: DVC draws bars on nothing else."""

    def isatty(self) -> bool:
        return True


def test_no_bar_of_dvc_reaches_the_terminal(in_git: Path, small_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    version(small_run, 0, in_git, push=True)
    shutil.rmtree(small_run.folder(0) / "policy")
    shutil.rmtree(in_git / ".dvc" / "cache")
    restore(small_run.folder(0) / "policy.dvc", in_git)
    assert terminal.getvalue() == ""


def test_again_changes_nothing(in_git: Path, small_run: Run) -> None:
    first = version(small_run, 0, in_git, push=True)
    pointer = small_run.folder(0) / "policy.dvc"
    before = pointer.read_bytes()
    assert version(small_run, 0, in_git, push=True) == first
    assert pointer.read_bytes() == before


def test_the_disk_holds_a_checkpoint_once_and_reuse_still_works(in_git: Path, small_run: Run) -> None:
    folder = small_run.folder(0)
    weights = folder / "policy" / "adapter_model.safetensors"
    copy_shared(folder / "policy", in_git / "runs" / "other" / "policy")
    inode = weights.stat().st_ino
    version(small_run, 0, in_git, push=False)
    md5 = yaml.safe_load((folder / "policy.dvc").read_text())["outs"][0]["md5"]
    listing = json.loads((in_git / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).read_bytes())
    entry = next(entry["md5"] for entry in listing if entry["relpath"] == weights.name)
    cached = in_git / ".dvc/cache/files/md5" / entry[:2] / entry[2:]
    assert cached.stat().st_ino == weights.stat().st_ino == inode
    assert weights.stat().st_mode & 0o222 == 0
    copy_shared(folder / "policy", in_git / "runs" / "third" / "policy")
    shutil.rmtree(in_git / "runs" / "third")
    assert digest_of(folder / "policy") == read_commit_output(small_run, "policy")


def read_commit_output(run: Run, name: str) -> str:
    commit = read_commit(run, 0)
    assert commit is not None
    return commit.outputs[name]


def test_an_unreachable_remote_is_a_warning_and_is_made_up_for(
    in_git: Path, small_run: Run, add_iteration: Callable[[Run, int], None]
) -> None:
    (in_git / ".dvc-remote").write_text("a file where a folder should be")
    outcome = version(small_run, 0, in_git, push=True)
    assert not outcome.pushed
    assert outcome.warning is not None
    assert "next push" in outcome.warning
    (in_git / ".dvc-remote").unlink()
    add_iteration(small_run, 1)
    assert version(small_run, 1, in_git, push=True).pushed
    for iteration in (0, 1):
        for name in ("tables", "policy"):
            md5 = pointer_md5(small_run.folder(iteration) / f"{name}.dvc")
            assert (in_git / ".dvc-remote/files/md5" / md5[:2] / md5[2:]).exists()


@pytest.fixture
def clone(in_git: Path, small_run: Run, tmp_path: Path) -> Path:
    """Another clone of a pushed run, with the same remote."""
    for iteration in (BASE, 0):
        version(small_run, iteration, in_git, push=True)
    git(in_git, "add", ".")
    git(in_git, "commit", "-qm", "a run")
    git(tmp_path, "clone", "-q", str(in_git), "clone")
    config = tmp_path / "clone" / ".dvc" / "config"
    config.write_text(config.read_text().replace("url = ../.dvc-remote", f"url = {in_git / '.dvc-remote'}"))
    return tmp_path / "clone"


class TestClone:
    def test_dvc_pull_brings_the_checkpoint_back(self, clone: Path, small_run: Run) -> None:
        folder = clone / "runs/small-run/iterations/000"
        assert not (folder / "policy").exists()
        subprocess.run([DVC, "pull", "-q", "iterations/000/policy.dvc"], cwd=folder.parents[1], check=True)
        assert digest_of(folder / "policy") == read_commit_output(small_run, "policy")

    def test_restore_brings_it_back_and_again_does_nothing(self, clone: Path, small_run: Run) -> None:
        pointer = clone / "runs/small-run/iterations/000/policy.dvc"
        payload = restore(pointer, clone)
        assert digest_of(payload) == read_commit_output(small_run, "policy")
        inode = payload.stat().st_ino
        assert restore(pointer, clone).stat().st_ino == inode

    def test_a_tampered_remote_is_seen(self, clone: Path, in_git: Path) -> None:
        for stored in (in_git / ".dvc-remote/files/md5").glob("??/*"):
            if not stored.name.endswith(".dir"):
                stored.chmod(0o644)
                stored.write_bytes(stored.read_bytes()[:-1] + b"!")
        with pytest.raises((StepError, IntegrityError)):
            restore(clone / "runs/small-run/iterations/000/policy.dvc", clone)

    def test_damage_through_the_shared_file_is_repaired_from_the_remote(self, clone: Path, small_run: Run) -> None:
        pointer = clone / "runs/small-run/iterations/000/policy.dvc"
        weights = restore(pointer, clone) / "adapter_model.safetensors"
        times = weights.stat()
        weights.chmod(0o644)
        with weights.open("r+b") as file:
            file.write(b"W")
        os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
        weights.chmod(0o444)
        assert digest_of(restore(pointer, clone)) == read_commit_output(small_run, "policy")

    def test_pointer_and_commit_that_disagree(self, clone: Path) -> None:
        folder = clone / "runs/small-run/iterations/000"
        commit = json.loads((folder / "commit.json").read_bytes())
        commit["outputs"]["policy"] = "0" * 64
        (folder / "commit.json").write_text(json.dumps(commit))
        with pytest.raises(IntegrityError, match="changed bytes"):
            restore(folder / "policy.dvc", clone)

    def test_without_the_payloads_the_pointers_still_push(
        self, clone: Path, add_iteration: Callable[[Run, int], None], small_run: Run
    ) -> None:
        run = Run(clone / "runs/small-run", small_run.config)
        add_iteration(run, 1)
        outcome = version(run, 1, clone, push=True)
        assert outcome.pushed
        untouched = version(run, 0, clone, push=True)
        assert sorted(untouched.pointers) == ["policy", "tables"]
        assert untouched.pushed

    def test_a_pointer_that_is_none(self, clone: Path) -> None:
        pointer = clone / "runs/small-run/iterations/000/policy.dvc"
        pointer.write_text("outs: []\n")
        with pytest.raises(IntegrityError, match=r"pointer.*policy\.dvc"):
            restore(pointer, clone)


class TestFreshWorkspace:
    def test_without_git(self, workspace: Path, small_run: Run) -> None:
        outcome = version(small_run, 0, workspace, push=True)
        assert outcome.pushed
        shutil.rmtree(small_run.folder(0) / "policy")
        shutil.rmtree(workspace / ".dvc" / "cache")
        assert digest_of(restore(small_run.folder(0) / "policy.dvc", workspace)) == read_commit_output(
            small_run, "policy"
        )

    def test_inside_a_git_repository_of_the_user(self, workspace: Path, small_run: Run) -> None:
        git(workspace.parent, "init", "-q")
        assert version(small_run, 0, workspace, push=True).pushed
        seen = git(workspace.parent, "status", "--porcelain", "-uall", workspace.name).splitlines()
        assert all(line.startswith("??") for line in seen)
        assert not [line for line in seen if ".dvc-remote" in line or "cache" in line or "/policy/" in line]
        assert [line for line in seen if "policy.dvc" in line]

    def test_an_enclosing_repository_is_used(self, workspace: Path) -> None:
        ensure_repository(workspace.parent)
        ensure_repository(workspace)
        assert not (workspace / ".dvc").exists()

    def test_a_run_outside_the_workspace(self, small_run: Run, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        with pytest.raises(StepError, match=r"small-run.*\n.*\n.*elsewhere"):
            version(small_run, 0, elsewhere, push=False)


def test_a_folder_that_a_killed_process_of_the_same_number_left_behind(workspace: Path) -> None:
    (workspace / f".dvc.{os.getpid()}.tmp").mkdir()
    ensure_repository(workspace)
    assert (workspace / ".dvc" / "config").exists()
    assert not list(workspace.glob(".dvc.*.tmp"))


def test_two_processes_at_once(in_git: Path, small_run: Run, add_iteration: Callable[[Run, int], None]) -> None:
    add_iteration(small_run, 1)
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from pathlib import Path; from raft_core.records.run import read_run\n"
        "from tasks.versioning.pointers import version\n"
        "assert version(read_run(Path('runs/small-run')), int(sys.argv[1]), Path('.'), push=True).pushed\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(iteration)], cwd=in_git) for iteration in (0, 1)]
    assert [process.wait(timeout=600) for process in both] == [0, 0]
    for iteration in (0, 1):
        assert version(small_run, iteration, in_git, push=True).pushed


def test_inside_a_stage_of_dvc_repro(in_git: Path, small_run: Run) -> None:
    script = in_git / "stage.py"
    script.write_text(
        "import sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from raft_core.records.run import read_run\n"
        "from tasks.versioning.pointers import version\n"
        "done = version(read_run(Path('runs/small-run')), 0, Path('.'), push=True)\n"
        "Path('receipt.json').write_text(str(done.pushed))\n"
    )
    stage = {"cmd": f"{sys.executable} stage.py", "outs": [{"receipt.json": {"cache": False}}]}
    (in_git / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"align": stage}}))
    subprocess.run([DVC, "repro", "-q"], cwd=in_git, check=True, timeout=600)
    assert (in_git / "receipt.json").read_text() == "True"
    assert (small_run.folder(0) / "policy.dvc").exists()


@pytest.fixture
def hanging() -> Iterator[str]:
    """A remote on loopback that takes every connection and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/store"


@pytest.mark.full
def test_a_remote_that_hangs_is_given_up_after_our_limit(
    workspace: Path, make_config: Callable[..., RaftConfig], add_iteration: Callable[[Run, int], None], hanging: str
) -> None:
    run = open_run(workspace / "runs", "slow", make_config(versioning={"push_limit_s": 4}))
    add_iteration(run, BASE)
    ensure_repository(workspace)
    settings = workspace / ".dvc" / "config"
    local = settings.read_text()
    settings.write_text(local.replace("url = ../.dvc-remote", f"url = {hanging}").replace("verify = true", ""))
    start = time.monotonic()
    outcome = version(run, BASE, workspace, push=True)
    assert time.monotonic() - start >= 4
    assert not outcome.pushed
    assert "within 4 s" in str(outcome.warning)
    settings.write_text(local)
    assert version(run, BASE, workspace, push=True).pushed


@pytest.mark.parametrize(
    "text",
    [
        "outs: [{md5: %s, path: ../../outside}]",
        "outs: [{md5: %s, path: /etc}]",
        "outs: [{md5: %s, path: tables}]",
        "wdir: ../..\nouts: [{md5: %s, path: policy}]",
        "outs: [{md5: ../../../etc/passwd, path: policy}]",
        "outs: [{md5: %s, path: policy}, {md5: %s, path: other}]",
        "outs: []",
        "[]",
        "outs: !!python/name:os.system",
        "a: &a [*a]",
    ],
)
def test_a_pointer_to_anything_but_its_payload_is_refused(tmp_path: Path, text: str) -> None:
    pointer = tmp_path / "policy.dvc"
    pointer.write_text(text.replace("%s", "0" * 32 + ".dir"))
    with pytest.raises(IntegrityError, match=r"pointer.*policy\.dvc"):
        restore(pointer, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["policy.dvc"]


def test_a_listing_of_dvc_that_names_files_elsewhere_removes_none(workspace: Path, small_run: Run) -> None:
    version(small_run, 0, workspace, push=False)
    precious = workspace / "precious.txt"
    precious.write_text("mine")
    cache = workspace / ".dvc" / "cache" / "files" / "md5"
    listing = json.dumps([{"md5": f"..{'/..' * 3}/precious.txt", "relpath": "a"}]).encode()
    md5 = hashlib.md5(listing).hexdigest()
    (cache / md5[:2]).mkdir(exist_ok=True)
    (cache / md5[:2] / f"{md5[2:]}.dir").write_bytes(listing)
    pointer = small_run.folder(0) / "policy.dvc"
    pointer.write_text(f"outs: [{{md5: {md5}.dir, hash: md5, path: policy}}]\n")
    with pytest.raises(IntegrityError, match=re.escape(f"{md5[2:]}.dir")):
        restore(pointer, workspace)
    assert precious.read_text() == "mine"
