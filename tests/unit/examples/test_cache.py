"""Stages are built once, whole or not at all, whoever else builds them and whatever kills them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raft_core import imports
from raft_core.errors import ExampleError
from raft_core.examples.cache import build_once, read_receipt, stage_folder, stage_key
from raft_core.examples.location import cache_folder
from raft_core.examples.presets import EXAMPLES
from raft_core.examples.stages import Receipt, Stage

WriteModule = Callable[[str, str], None]
SOURCE = """
from raft_core.examples.stages import Built, Source

def build(out, inputs, progress):
    (out / "word.txt").write_text("{word}")
    (out / "folder").mkdir()
    (out / "folder" / "a.txt").write_text("a")
    progress("built")
    return Built(measured={{"letters": {letters}}}, sources=(Source("pkg", "1", "ab"),))
"""


def _build(stage: Stage, lines: list[str], **inputs: Receipt) -> Receipt:
    return build_once("w", "first", stage, inputs, lines.append)


def test_a_stage_is_built_once_then_read(example_cache: Path, write_stage_module: WriteModule) -> None:
    write_stage_module("stage_once", SOURCE.format(word="hello", letters=5))
    stage = Stage("stage_once:build", outputs=("word.txt", "folder"))
    lines: list[str] = []
    first, second = _build(stage, lines), _build(stage, lines)
    assert first == second
    assert lines == ["w: preparing first", "built"]
    assert first.outputs["word.txt"] == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert first.sizes == {"folder/a.txt": 1, "word.txt": 5}
    assert (first.measured, first.sources[0].name) == ({"letters": 5}, "pkg")
    folder = stage_folder("w", "first", first.key)
    assert folder.parent == example_cache / "w"
    assert sorted(path.name for path in folder.iterdir()) == ["folder", "receipt.json", "word.txt"]
    assert "time" not in (folder / "receipt.json").read_text()


def test_the_key_follows_inputs_and_source(example_cache: Path, write_stage_module: WriteModule) -> None:
    write_stage_module("stage_key_a", SOURCE.format(word="a", letters=1))
    write_stage_module("stage_key_b", SOURCE.format(word="a", letters=2))
    plain = Stage("stage_key_a:build", outputs=())
    fed = Stage("stage_key_a:build", outputs=(), inputs={"data": ("x",)})

    def receipt(digest: str) -> Receipt:
        return Receipt("data", "k", {"x": digest, "not read": digest * 2}, (), {}, {})

    def changed_elsewhere(digest: str) -> Receipt:
        return Receipt("data", "k", {"x": digest, "not read": "other"}, (), {}, {})

    keys = [
        stage_key(plain, {}),
        stage_key(Stage("stage_key_b:build", outputs=()), {}),
        stage_key(fed, {"data": receipt("1")}),
        stage_key(fed, {"data": receipt("2")}),
    ]
    assert len(set(keys)) == 4
    assert stage_key(fed, {"data": changed_elsewhere("1"), "other": receipt("3")}) == keys[2]


@pytest.mark.parametrize("damage", ["cut", "gone", "receipt"])
def test_a_damaged_stage_is_built_again(example_cache: Path, write_stage_module: WriteModule, damage: str) -> None:
    write_stage_module("stage_damage", SOURCE.format(word="hello", letters=5))
    stage = Stage("stage_damage:build", outputs=("word.txt",))
    receipt = _build(stage, [])
    folder = stage_folder("w", "first", receipt.key)
    if damage == "cut":
        (folder / "word.txt").write_text("hell")
    elif damage == "gone":
        (folder / "folder" / "a.txt").unlink()
    else:
        (folder / "receipt.json").write_text(json.dumps({"stage": "first"}))
    assert read_receipt(folder) is None
    assert _build(stage, []) == receipt
    assert (folder / "word.txt").read_text() == "hello"


def test_a_failing_stage_leaves_nothing(example_cache: Path, write_stage_module: WriteModule) -> None:
    write_stage_module("stage_fails", "def build(out, inputs, progress):\n    (out / 'x').write_text('x')\n    1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        _build(Stage("stage_fails:build", outputs=("x",)), [])
    assert [path.name for path in (example_cache / "w").iterdir()] == [".locks"]


def test_a_cache_that_cannot_be_written_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_stage_module: WriteModule
) -> None:
    write_stage_module("stage_unwritable", SOURCE.format(word="a", letters=1))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("RAFT_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(ExampleError, match="RAFT_CACHE=FOLDER"):
        _build(Stage("stage_unwritable:build", outputs=("word.txt",)), [])


def test_killed_in_the_middle_it_is_built_again(example_cache: Path, write_stage_module: WriteModule) -> None:
    write_stage_module(
        "stage_killed",
        "import os, signal\nfrom pathlib import Path\nfrom raft_core.examples.stages import Built\n"
        "def build(out, inputs, progress):\n"
        "    (out / 'x').write_text('half')\n"
        "    marker = Path(os.environ['RAFT_CACHE']) / 'killed'\n"
        "    if not marker.exists():\n"
        "        marker.touch()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    (out / 'x').write_text('whole')\n"
        "    return Built()\n",
    )
    code = (
        "from raft_core.examples.cache import build_once\nfrom raft_core.examples.stages import Stage\n"
        "build_once('w', 'first', Stage('stage_killed:build', outputs=('x',)), {}, print)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    left_over = [path for path in (example_cache / "w").iterdir() if path.name != ".locks"]
    assert len(left_over) == 1
    assert left_over[0].name.startswith(".first-")
    (example_cache / "w" / ".other-0123456789ab.99").mkdir()
    receipt = _build(Stage("stage_killed:build", outputs=("x",)), [])
    folder = stage_folder("w", "first", receipt.key)
    assert (folder / "x").read_text() == "whole"
    assert sorted(path.name for path in folder.parent.iterdir()) == [".locks", folder.name]


def test_of_two_processes_one_builds_and_both_succeed(example_cache: Path, write_stage_module: WriteModule) -> None:
    write_stage_module(
        "stage_race",
        "import os, time\nfrom pathlib import Path\nfrom raft_core.examples.stages import Built\n"
        "def build(out, inputs, progress):\n"
        "    with (Path(os.environ['RAFT_CACHE']) / 'built').open('a') as file:\n"
        "        file.write('x')\n"
        "    time.sleep(0.5)\n"
        "    (out / 'x').write_text('x')\n"
        "    return Built()\n",
    )
    code = (
        "from raft_core.examples.cache import build_once\nfrom raft_core.examples.stages import Stage\n"
        "print(build_once('w', 'first', Stage('stage_race:build', outputs=('x',)), {}, lambda line: None).key)\n"
    )
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    keys = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert keys[0] == keys[1]
    assert (example_cache / "built").read_text() == "x"


def test_the_cache_folder_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAFT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("RAFT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "raft-mlops"


def test_the_list_of_examples_and_packages_is_no_part_of_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new version of one package must not make the assets of every example outdated."""
    read: list[str] = []
    real = imports.source_of
    monkeypatch.setattr(imports, "source_of", lambda name: read.append(name) or real(name))
    imports.code_digest.cache_clear()
    for stage in EXAMPLES["tiny"].stages.values():
        stage_key(stage, {})
    imports.code_digest.cache_clear()
    assert "raft_core.examples.tiny_grammar" in read
    assert {"raft_core.examples.presets", "raft_core.examples.packages", "raft_core.examples.fetch"} & {*read} == set()
