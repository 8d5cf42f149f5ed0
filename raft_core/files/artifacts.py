"""Files identified by content: digests, durable writes, and copies by hard link."""

import errno
import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from raft_core.errors import IntegrityError, StepError
from raft_core.files.plain_json import open_regular
from raft_core.types import Artifact

NOT_LOADED = (
    ".md",
    ".png",
    ".jpg",
    ".jpeg",
    ".gif",
    ".svg",
    ".webp",
    ".pdf",
    ".ipynb",
    ".bin",
    ".bin.index.json",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".joblib",
    ".npy",
    ".npz",
    ".h5",
    ".msgpack",
    ".msgpack.index.json",
    ".h5.index.json",
    ".ot",
    ".gguf",
    ".onnx",
    ".onnx_data",
    ".tflite",
    ".mlmodel",
    ".zip",
    ".tar",
    ".gz",
    ".log",
    ".lock",
)
"""Endings of files in model folders that loading a model never reads."""
TEMPLATES = "additional_chat_templates"
"""The one subfolder of a model folder that its tokenizer reads."""


def file_digest(path: Path) -> str:
    """sha256 (hexadecimal) of a file's bytes. Raises IntegrityError for a pipe or device, which may never end."""
    try:
        file = open_regular(path)
    except ValueError as error:
        raise IntegrityError(
            f"{path} cannot be hashed: it is not a regular file", got=error, expected="a regular file"
        ) from None
    with file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_files(path: Path) -> Iterator[Path]:
    """Every file below ``path``, sorted by its relative name.

    Raises IntegrityError for a symbolic link, and for a line break in a name (see ``folder_digest``).
    """
    for file in sorted(path.rglob("*"), key=lambda p: p.relative_to(path).as_posix()):
        if file.is_symlink():
            raise IntegrityError(f"symbolic link inside an artifact: {file}", hint="replace it with the file itself")
        if "\n" in file.name:
            raise IntegrityError(f"line break in a file name inside an artifact: {file!r}", hint="rename it")
        if file.is_file():
            yield file


def folder_digest(path: Path, hashed: Callable[[Path], str] = file_digest) -> str:
    """sha256 over the lines ``<sha256 of the file>  <relative name>``, sorted by name.

    ``hashed`` returns the sha256 of a file, for callers that have hashed many files already.
    """
    lines = [f"{hashed(f)}  {f.relative_to(path).as_posix()}\n" for f in folder_files(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def model_files(folder: Path) -> Iterator[Path]:
    """The files of a model folder that loading can read, sorted by name; they determine the model.

    Left out: hidden files, folders (``.git/``, ``.cache/``, ``onnx/``), documents, pictures, weights in other formats
    and safetensors that do not belong to the model. Files with unknown names count. Symbolic links are followed.

    Raises IntegrityError for a broken link, and for anything that is not a regular file.
    """
    weights = _weights(folder)
    found = [path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir()]
    templates = folder / TEMPLATES
    found += [*templates.glob("*.jinja")] if templates.is_dir() else []
    for path in sorted(found, key=lambda p: p.relative_to(folder).as_posix()):
        name = path.name.lower()
        foreign = name.endswith((".safetensors", ".safetensors.index.json")) and path.name not in weights
        if foreign or name.endswith(NOT_LOADED):
            continue
        try:
            regular = stat.S_ISREG(path.stat().st_mode)
        except OSError as error:
            raise IntegrityError(
                f"broken symbolic link in a model folder: {path}",
                got=os.readlink(path) if path.is_symlink() else error,
                hint=f"download the model again, or copy the complete folder with its links: cp -rL {folder} …",
            ) from error
        if not regular or "\n" in path.name:
            raise IntegrityError(f"{path!r} in a model folder is not a regular file", hint="remove it")
        yield path


def _weights(folder: Path) -> set[str]:
    """Names of the safetensors that transformers loads from ``folder``, and their index; without either, all names."""
    if (folder / "model.safetensors").exists():
        return {"model.safetensors"}
    index = folder / "model.safetensors.index.json"
    try:
        return {index.name, *json.loads(index.read_bytes())["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {path.name for path in folder.iterdir()}


def model_digest(folder: Path, known: str | None = None, hashed: Callable[[Path], str] = file_digest) -> str:
    """sha256 over the lines of ``folder_digest``, of ``model_files`` alone.

    Returns ``known`` if the whole folder has that digest, as runs of older versions recorded it.
    """
    lines = [f"{hashed(f)}  {f.relative_to(folder).as_posix()}\n" for f in model_files(folder)]
    found = hashlib.sha256("".join(lines).encode()).hexdigest()
    if known is not None and known != found:
        with suppress(IntegrityError):
            if folder_digest(folder, hashed) == known:
                return known
    return found


def digest_of(path: Path, hashed: Callable[[Path], str] = file_digest) -> str:
    """Digest of a file or folder."""
    return folder_digest(path, hashed) if path.is_dir() else hashed(path)


def artifact(path: Path) -> Artifact:
    """The artifact at ``path``, hashed now."""
    return Artifact(path, digest_of(path))


def verify(item: Artifact) -> None:
    """Raise IntegrityError unless ``item.path`` has the digest ``item.digest``."""
    if not item.path.exists():
        raise IntegrityError(
            f"missing: {item.path}", expected=f"sha256 {item.digest}", hint=f"restore it: dvc pull {item.path}.dvc"
        )
    if (got := digest_of(item.path)) != item.digest:
        raise IntegrityError(
            f"changed bytes: {item.path}",
            got=f"sha256 {got}",
            expected=f"sha256 {item.digest}",
            hint=f"restore it: dvc checkout --force {item.path}.dvc, or dvc pull {item.path}.dvc",
        )


def verify_model(folder: Path, digest: str) -> None:
    """Raise IntegrityError unless the model in ``folder`` has the digest ``digest``."""
    if not folder.exists():
        raise IntegrityError(
            f"missing model folder: {folder}", expected=f"sha256 {digest}", hint="put the model folder back"
        )
    if (got := model_digest(folder, digest)) != digest:
        raise IntegrityError(
            f"changed bytes in model folder {folder}",
            got=f"sha256 {got}",
            expected=f"sha256 {digest}",
            hint="restore the contents that the model folder had when the run started",
        )


def canonical_json(value: Any) -> bytes:
    """JSON bytes that depend only on the value: sorted keys, no NaN, newline at the end."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def json_digest(value: Any) -> str:
    """sha256 of ``canonical_json(value)``."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def fsync_folder(path: Path) -> None:
    """Make renames inside ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def written_aside(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; when the block succeeds, that file is fsynced and renamed.

    A reader sees the old file or the complete new one, also after a power cut. Without ``replace`` an existing file
    stays, so of several writers the first one wins.

    Raises StepError if the disk is full; the old file is then unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        if replace:
            os.replace(aside, path)
        else:
            _link_or_rename(aside, path)
        fsync_folder(path.parent)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise StepError(
            f"the disk is full: {path} could not be written",
            got=error,
            hint="free space, then run this command again; everything finished is kept",
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def _link_or_rename(aside: Path, path: Path) -> None:
    try:
        os.link(aside, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not path.exists():
            os.replace(aside, path)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file durably and atomically."""
    with written_aside(path) as aside:
        aside.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write ``canonical_json(value)`` durably and atomically."""
    write_bytes(path, canonical_json(value))


def copy_shared(source: Path, target: Path) -> None:
    """Copy a file or folder to ``target``, by hard links if the file system has them.

    This is safe because artifacts are never changed in place: a new version is a new file.
    """
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_or_copy)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(str(source), str(target))


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except FileExistsError:
        raise  # copying would change a file that others may share
    except OSError:
        shutil.copy2(source, target)
    return target
