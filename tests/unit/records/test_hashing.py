"""Many files hashed at once, each content once."""

import hashlib
import os
from pathlib import Path

import pytest

from raft_core.files.hashing import FileHashes


def test_digests_are_those_of_the_bytes(tmp_path: Path) -> None:
    files = {tmp_path / str(n): os.urandom(n * 1000) for n in range(20)}
    for path, data in files.items():
        path.write_bytes(data)
    hashes = FileHashes(threads=3)
    hashes.prime(files)
    hashes.prime(files, "md5")
    assert {path: hashes.sha256(path) for path in files} == {p: hashlib.sha256(d).hexdigest() for p, d in files.items()}
    assert {path: hashes.md5(path) for path in files} == {p: hashlib.md5(d).hexdigest() for p, d in files.items()}
    assert hashes.num_bytes == 2 * sum(map(len, files.values()))


def test_two_names_of_one_file_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    os.link(tmp_path / "a", tmp_path / "b")
    hashes = FileHashes()
    hashes.prime([tmp_path / "a", tmp_path / "b"])
    assert hashes.sha256(tmp_path / "b") == hashes.sha256(tmp_path / "a")
    assert hashes.num_bytes == 1000


def test_a_missing_file_fails_when_it_is_asked_for(tmp_path: Path) -> None:
    hashes = FileHashes()
    hashes.prime([tmp_path / "none"])
    with pytest.raises(FileNotFoundError):
        hashes.sha256(tmp_path / "none")
