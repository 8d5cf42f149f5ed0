"""A DVC remote, a listing, a pointer or a cache that somebody tampered with: nothing is written outside the run."""

import hashlib
import json
import os
import shutil
import stat
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from flows.cli import exits
from raft_core.errors import IntegrityError, StepError
from raft_core.records.run import Run
from tasks.versioning import repository
from tasks.versioning.checkout import checkout
from tasks.versioning.listing import files_of, pointer_md5
from tasks.versioning.objects import check_pointers, find_stores
from tasks.versioning.pointers import ensure_repository, restore, version
from tasks.versioning.repository import opened, private_site_cache

BYTES = b"print('owned')\n"
MD5 = hashlib.md5(BYTES).hexdigest()

CLIMBING = {
    "up": ["../../../../../owned.py"],
    "far up": ["a/../../../../../../owned.py"],
    "absolute": ["/tmp/owned.py"],
    "empty": [""],
    "itself": ["."],
    "a point inside": ["a/./owned.py"],
    "an empty part": ["a//owned.py"],
    "a folder's end": ["owned/"],
    "backslashes": ["..\\..\\owned.py"],
    "a line's end": ["owned\n.py"],
    "no byte": ["owned\x00.py"],
    "right to left": ["owned\u202eyp."],
    "a lone surrogate": ["owned\ud800"],
    "twice": ["owned.py", "owned.py"],
    "twice but for case": ["owned.py", "OWNED.py"],
    "twice but for composition": ["\u00e9.py", "e\u0301.py"],
    "a file and a folder": ["owned", "owned/x.py"],
    "a file and a folder but for case": ["Owned", "owned/x.py"],
    "too long": ["x" * 256],
    "too deep": ["d/" * 600 + "x"],
}


def listing(names: list[Any]) -> bytes:
    return json.dumps([{"md5": MD5, "relpath": name} for name in names]).encode()


@pytest.mark.parametrize("names", CLIMBING.values(), ids=CLIMBING.keys())
def test_a_name_that_leads_elsewhere(names: list[str]) -> None:
    with pytest.raises(IntegrityError, match=r"listing.*: there\n"):
        files_of(listing(names), "there")


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"[1]",
        b"[[]]",
        b"[" * 100_000,
        b"\xff",
        b"",
        b'[{"relpath": "a"}]',
        b'[{"relpath": 1, "md5": "%b"}]',
        listing(["a"]).replace(b"}", b', "isexec": true, "remote": "evil"}'),
        listing(["a"]).replace(MD5.encode(), b"../../../x"),
        listing(["a"]).replace(MD5.encode(), MD5.encode() + b".dir"),
        b"[" + b" " * (1 << 24) + b"]",
    ],
    ids=[
        "no list",
        "a number",
        "a list",
        "deep",
        "no text",
        "nothing",
        "no md5",
        "no name",
        "more",
        "a path as md5",
        "a folder in it",
        "huge",
    ],
)
def test_what_is_no_listing(content: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"listing.*: there\n"):
        files_of(content.replace(b"%b", MD5.encode()), "there")


def test_a_plain_listing_with_folders_and_letters_of_the_world() -> None:
    names = ["a/b.txt", "a/c.txt", "ü.txt", "b", "a b", "...", ".x"]
    assert files_of(listing(names), "there") == dict.fromkeys(names, MD5)


# -- the whole way ------------------------------------------------------------------------------------


@pytest.fixture
def pushed(workspace: Path, small_run: Run) -> Path:
    """A workspace whose run is only in the remote: neither payloads nor cache are here."""
    version(small_run, -1, workspace, push=True)
    version(small_run, 0, workspace, push=True)
    shutil.rmtree(small_run.folder(0) / "policy")
    shutil.rmtree(workspace / ".dvc" / "cache")
    return workspace


def store(folder: Path, name: str, content: bytes) -> None:
    path = folder / "files" / "md5" / name[:2] / name[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.chmod(0o644)
    path.write_bytes(content)


def tamper(workspace: Path, run: Run, names: list[Any], *, consistently: bool, where: str = ".dvc-remote") -> Path:
    """A listing with ``names`` in the remote (or the cache); ``consistently``: the pointer names it as well."""
    pointer = run.folder(0) / "policy.dvc"
    content, old = listing(names), pointer_md5(pointer)
    new = hashlib.md5(content).hexdigest() + ".dir" if consistently else old
    pointer.write_text(pointer.read_text().replace(old, new))
    store(workspace / where, MD5, BYTES)
    store(workspace / where, new, content)
    return pointer


def outside(workspace: Path) -> list[Path]:
    """Every file of the attacker that lies where it could do harm, and every one in the payload."""
    above = workspace.parent
    stores = (workspace / ".dvc-remote", workspace / ".dvc" / "cache")
    files = [path for path in above.rglob("*") if path.is_file() and not any(map(path.is_relative_to, stores))]
    return [path for path in files if path.read_bytes() == BYTES]


@pytest.mark.parametrize("consistently", [True, False], ids=["pointer too", "listing alone"])
@pytest.mark.parametrize("where", [".dvc-remote", ".dvc/cache"])
@pytest.mark.parametrize("names", [CLIMBING["up"], CLIMBING["absolute"]], ids=["up", "absolute"])
def test_nothing_is_written_outside(
    names: list[str], where: str, consistently: bool, pushed: Path, small_run: Run
) -> None:
    repaired = where == ".dvc/cache" and not consistently  # its own name gives it away: a sound one is fetched
    placed = [str(pushed.parent / "owned.py") if name.startswith("/") else name for name in names]
    pointer = tamper(pushed, small_run, placed, consistently=consistently, where=where)
    for bring in (
        lambda: restore(pointer, pushed),
        lambda: checkout(small_run, 0, pushed),
        lambda: checkout(small_run, 0, pushed, pushed / "copy"),
    ):
        with nullcontext() if repaired else pytest.raises((IntegrityError, StepError)):
            bring()
        assert outside(pushed) == []
    assert outside(pushed) == []
    if consistently:
        assert list(check_pointers(small_run, read(small_run), find_stores(pushed, remote=True), hashes())) != []


def read(run: Run) -> Any:
    from raft_core.records.run import read_commit

    return read_commit(run, 0)


def hashes() -> Any:
    from raft_core.files.hashing import FileHashes

    return FileHashes()


@pytest.mark.parametrize(
    "command",
    [
        ["lineage", "checkout", "small-run@0"],
        ["pull", "small-run@0", "--to", "{}/pulled"],
        ["promote", "--dry-run", "small-run@0"],
        ["sync", "--all"],
        ["lineage", "verify"],
        ["gc", "--dry-run"],
    ],
    ids=lambda command: command[0] + command[1] if isinstance(command, list) else None,
)
def test_no_command_writes_outside(
    command: list[str], pushed: Path, small_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.cli.app import app

    tamper(pushed, small_run, CLIMBING["up"], consistently=True)
    monkeypatch.setenv("RAFT_WORKSPACE", str(pushed))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    exits.run_command(app, [word.format(pushed) for word in command])
    assert outside(pushed) == []


def test_a_listing_of_the_cache_sends_nothing_from_outside(workspace: Path, small_run: Run) -> None:
    """Its md5s become paths, of which a push reads."""
    version(small_run, 0, workspace, push=False)
    pointer = small_run.folder(0) / "policy.dvc"
    content = listing(["a"]).replace(MD5.encode(), b"../../../../../secret")
    new = hashlib.md5(content).hexdigest() + ".dir"
    store(workspace / ".dvc" / "cache", new, content)
    shutil.rmtree(small_run.folder(0) / "policy")
    pointer.write_text(pointer.read_text().replace(pointer_md5(pointer), new))
    with pytest.raises(IntegrityError, match=r"listing.*"):
        version(small_run, -1, workspace, push=True)


@pytest.mark.parametrize(
    "more",
    [
        "wdir: ../../..\n",
        "cmd: touch owned\n",
        "deps:\n- path: /etc/passwd\n",
        "  files:\n  - relpath: ../../../../../owned.py\n    md5: " + MD5 + "\n",
        "  remote: evil\n",
        "  cache: false\n",
        "  persist: true\n",
        "  version_id: x\n",
    ],
)
def test_a_pointer_that_says_more_is_not_followed(more: str, pushed: Path, small_run: Run) -> None:
    pointer = small_run.folder(0) / "policy.dvc"
    pointer.write_text(pointer.read_text() + more)
    with pytest.raises(IntegrityError, match=r"pointer.*policy\.dvc"):
        restore(pointer, pushed)


@pytest.mark.parametrize("line", ["  path: policy\n", "  hash: md5\n"])
def test_a_pointer_that_says_less_is_not_followed(line: str, pushed: Path, small_run: Run) -> None:
    pointer = small_run.folder(0) / "policy.dvc"
    assert line in pointer.read_text()
    pointer.write_text(pointer.read_text().replace(line, ""))
    with pytest.raises(IntegrityError, match=r"pointer.*policy\.dvc"):
        restore(pointer, pushed)


@pytest.mark.parametrize("level", ["payload", "iteration"])
def test_a_symbolic_link_in_a_run_leads_nowhere(level: str, pushed: Path, small_run: Run) -> None:
    """Also with sound bytes: the files would come to lie where the link leads."""
    elsewhere = pushed.parent / "elsewhere"
    pointer = small_run.folder(0) / "policy.dvc"
    if level == "payload":
        elsewhere.mkdir()
        pointer.with_suffix("").symlink_to(elsewhere)
    else:
        shutil.move(small_run.folder(0), elsewhere)
        small_run.folder(0).symlink_to(elsewhere)
    with pytest.raises(IntegrityError, match=r"/000/policy leads out|symbolic link"):
        restore(pointer, pushed)
    assert not (elsewhere / "adapter_config.json").exists()
    assert not (elsewhere / "policy").exists()


# -- DVC's site cache ---------------------------------------------------------------------------------


class TestSiteCache:
    def test_it_lies_in_the_repository_and_is_ours_alone(
        self, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("DVC_SITE_CACHE_DIR")
        ensure_repository(workspace)
        (workspace / "below").mkdir()
        with opened(workspace / "below") as repo:
            site = Path(repo.site_cache_dir)
        chosen = workspace / ".dvc" / "tmp" / f"site-{os.geteuid()}"
        assert site.is_relative_to(chosen)
        assert stat.S_IMODE(chosen.stat().st_mode) == 0o700

    def test_another_users_pickle_is_not_loaded(self, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a folder that everyone may write to, as DVC's own is."""
        public = workspace / "public"
        public.mkdir()
        ensure_repository(workspace)
        closed = repository._closed
        monkeypatch.setattr(repository, "_closed", lambda folder: folder == public and closed(folder))  # not pytest's
        public.chmod(0o777)
        monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(public))
        with pytest.raises(StepError, match=r"other users.*(public|site-\d+)"), opened(workspace):
            pass
        assert list(public.iterdir()) == []
        public.chmod(0o700)
        with opened(workspace) as repo:
            assert Path(repo.site_cache_dir).is_relative_to(public)

    def test_a_folder_of_another_user_is_refused(self, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DVC_SITE_CACHE_DIR")
        (workspace / ".dvc").mkdir()
        private_site_cache(workspace)
        us = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: us + 1)
        (workspace / ".dvc" / "tmp" / f"site-{us}").rename(workspace / ".dvc" / "tmp" / f"site-{us + 1}")
        with pytest.raises(StepError, match=r"other users.*(public|site-\d+)"):
            private_site_cache(workspace)
