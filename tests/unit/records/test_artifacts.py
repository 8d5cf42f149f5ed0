"""Digests, atomic writes under failures, and shared copies."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_core.errors import IntegrityError, StepError
from raft_core.files.artifacts import (
    artifact,
    canonical_json,
    copy_shared,
    digest_of,
    file_digest,
    folder_digest,
    json_digest,
    model_digest,
    verify,
    verify_model,
    write_bytes,
    write_json,
    written_aside,
)
from raft_core.types import Artifact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "policy"
    (root / "inner").mkdir(parents=True)
    (root / "weights.bin").write_bytes(b"\x00\x01")
    (root / "inner" / "config.json").write_text("{}")
    return root


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- digests -----------------------------------------------------------------------------------


def test_digests_are_those_of_the_bytes(folder: Path) -> None:
    assert file_digest(folder / "weights.bin") == sha256(b"\x00\x01")
    lines = f"{sha256(b'{}')}  inner/config.json\n{sha256(bytes([0, 1]))}  weights.bin\n"
    assert folder_digest(folder) == sha256(lines.encode())
    assert digest_of(folder) == folder_digest(folder)
    assert digest_of(folder / "weights.bin") == sha256(b"\x00\x01")


def test_a_folders_digest_is_of_names_and_bytes_alone(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    shutil.copytree(folder, other)
    (other / "empty").mkdir()
    os.utime(other / "weights.bin", (0, 0))
    assert folder_digest(other) == folder_digest(folder)
    (other / "weights.bin").rename(other / "renamed.bin")
    assert folder_digest(other) != folder_digest(folder)


def test_links_and_line_breaks_in_names_are_refused(folder: Path) -> None:
    (folder / "link").symlink_to("weights.bin")
    with pytest.raises(IntegrityError, match="symbolic link"):
        folder_digest(folder)
    (folder / "link").unlink()
    (folder / "a\nb").write_text("")
    with pytest.raises(IntegrityError, match="line break"):
        folder_digest(folder)


def test_verify_tells_missing_from_changed(folder: Path) -> None:
    item = artifact(folder)
    verify(item)
    (folder / "weights.bin").write_bytes(b"\x00\x02")
    with pytest.raises(IntegrityError, match="changed bytes"):
        verify(item)
    with pytest.raises(IntegrityError, match="missing"):
        verify(Artifact(folder / "nothing", item.digest))


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.integers(), max_size=5))
def test_json_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert canonical_json(turned) == canonical_json(value)
    assert json_digest(turned) == json_digest(value)


def test_json_bytes() -> None:
    assert canonical_json({"b": [1, 0.5], "a": "é"}) == '{\n "a": "é",\n "b": [\n  1,\n  0.5\n ]\n}\n'.encode()
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("nan"))


# -- writing -----------------------------------------------------------------------------------


def test_a_write_is_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert path.read_bytes() == b'{\n "a": 2\n}\n'
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_bytes(path, b"old")

    def fail() -> None:
        with written_aside(path) as aside:
            aside.write_bytes(b"half")
            raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError, match="plug"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_rename_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    write_bytes(path, b"old")

    def refuse(*_: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


FILL = """
import resource, sys
from pathlib import Path
from raft_core.files.artifacts import write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
write_bytes(Path(sys.argv[1]), b"new" * 10_000)
"""
"""Writing beyond the limit fails half-way, as on a full disk."""


def test_a_disk_that_fills_up_leaves_the_old_file(
    tmp_path: Path, start_python: Callable[..., "subprocess.Popen[str]"]
) -> None:
    path = tmp_path / "report.json"
    write_bytes(path, b"old")
    process = start_python(FILL, path)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "StepError: " in output
    assert "free space" in output
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_no_space_is_told_from_other_failures(tmp_path: Path) -> None:
    path = tmp_path / "report.json"

    def fill() -> None:
        with written_aside(path), open("/dev/full", "wb") as full:
            full.write(b"x")

    with pytest.raises(StepError, match=r"report\.json"):
        fill()
    with pytest.raises(FileNotFoundError), written_aside(path):
        pass  # nothing was written
    assert not path.exists()


KILL = """
import os, signal, sys
from pathlib import Path
from raft_core.files.artifacts import written_aside
with written_aside(Path(sys.argv[1])) as aside:
    aside.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_in_the_middle_leaves_the_old_file(
    tmp_path: Path, start_python: Callable[..., "subprocess.Popen[str]"]
) -> None:
    path = tmp_path / "report.json"
    write_bytes(path, b"old")
    process = start_python(KILL, path)
    process.communicate(timeout=600)
    assert process.returncode == -9
    assert path.read_bytes() == b"old"
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("links", [True, False])
def test_the_first_of_several_writers_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(os, "link", _no_links)
    path = tmp_path / "config.yaml"
    for text in ("first", "second"):
        with written_aside(path, replace=False) as aside:
            aside.write_text(text)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def _no_links(*_: object) -> None:
    raise OSError("no hard links here")


# -- shared copies -----------------------------------------------------------------------------


def test_a_shared_copy_is_the_same_file_on_disk(folder: Path, tmp_path: Path) -> None:
    copy_shared(folder, tmp_path / "again")
    copy_shared(folder / "weights.bin", tmp_path / "deep" / "one.bin")
    assert folder_digest(tmp_path / "again") == folder_digest(folder)
    assert (tmp_path / "again" / "weights.bin").samefile(folder / "weights.bin")
    assert (tmp_path / "deep" / "one.bin").samefile(folder / "weights.bin")


def test_without_hard_links_bytes_are_copied(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _no_links)
    copy_shared(folder, tmp_path / "again")
    assert folder_digest(tmp_path / "again") == folder_digest(folder)
    assert not (tmp_path / "again" / "weights.bin").samefile(folder / "weights.bin")


def test_a_copy_never_writes_into_a_file_that_is_there(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("shared by others")
    with pytest.raises(FileExistsError):
        copy_shared(folder / "weights.bin", target)
    assert target.read_text() == "shared by others"


def test_replacing_one_copy_leaves_the_other(folder: Path, tmp_path: Path) -> None:
    copy_shared(folder / "weights.bin", tmp_path / "copy")
    write_bytes(tmp_path / "copy", b"new")
    assert (folder / "weights.bin").read_bytes() == b"\x00\x01"


def _model(folder: Path) -> Path:
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "tokenizer.model", "own_code.py"):
        (folder / name).write_text(name)
    return folder


def test_a_model_is_what_a_load_reads(tmp_path: Path) -> None:
    model = _model(tmp_path / "model")
    before = model_digest(model)
    assert before == folder_digest(model)
    for name in (
        ".git/index",
        ".cache/huggingface/download/a.lock",
        ".gitattributes",
        "README.md",
        "loss.png",
        "onnx/model.onnx",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "model.gguf",
        "consolidated.safetensors",
        "model.safetensors.index.json",
        "runs/events",
    ):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(str(os.urandom(4)))
        assert model_digest(model) == before, name
    (model / "additional_chat_templates").mkdir()
    for name in (
        "vocab.txt",
        "own_code.py",
        "chat_template.jinja",
        "additional_chat_templates/tools.jinja",
        "new.json",
    ):
        (model / name).write_text("changed")
        assert model_digest(model) != before, name
        before = model_digest(model)


def test_shards_that_the_index_names_are_the_model(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "one.safetensors"}}')
    (model / "one.safetensors").write_text("a")
    before = model_digest(model)
    (model / "two.safetensors").write_text("b")
    assert model_digest(model) == before
    (model / "one.safetensors").write_text("b")
    assert model_digest(model) != before


def test_a_digest_of_the_whole_folder_that_a_run_recorded_stays(tmp_path: Path) -> None:
    model = _model(tmp_path / "model")
    (model / "README.md").write_text("a")
    recorded = folder_digest(model)
    assert model_digest(model) != recorded
    assert model_digest(model, recorded) == recorded
    verify_model(model, recorded)
    verify_model(model, model_digest(model))
    (model / "README.md").write_text("b")
    with pytest.raises(IntegrityError, match="changed bytes"):
        verify_model(model, recorded)


def test_links_in_a_model_are_followed_or_refused(tmp_path: Path) -> None:
    model = _model(tmp_path / "model")
    before = model_digest(model)
    (tmp_path / "blob").write_text("model.safetensors")
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to("../blob")
    assert model_digest(model) == before
    (model / "vocab.txt").unlink()
    (model / "vocab.txt").symlink_to("vocab.txt")
    with pytest.raises(IntegrityError, match=r".*vocab\.txt"):
        model_digest(model)
    (model / "vocab.txt").unlink()
    os.mkfifo(model / "vocab.txt")
    with pytest.raises(IntegrityError, match="not a regular file"):
        model_digest(model)


@pytest.mark.timeout(60)
def test_a_pipe_is_not_waited_for_while_hashing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "report.json")
    with pytest.raises(IntegrityError, match=r"report\.json"):
        file_digest(tmp_path / "report.json")
