"""Check DVC's pointers and listings completely before DVC follows them: they may come from untrusted people.

A pointer (``policy.dvc``) names a listing by its md5, and a listing names the files of a folder. DVC follows both
without checks: ``"relpath": "../../x.py"`` writes outside the folder on any machine that pulls.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from raft_core.errors import IntegrityError, StepError
from raft_core.files.artifacts import write_bytes
from raft_core.files.plain_yaml import read_yaml

MD5 = re.compile(r"[0-9a-f]{32}(?:\.dir)?")
FILE_MD5 = re.compile(r"[0-9a-f]{32}")
POINTER_KEYS = {"md5", "hash", "path", "size", "nfiles"}
MAX_LISTING_BYTES = 1 << 24
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 1024
READ_ONLY = 0o444


def pointer_md5(pointer: Path, *, ours: bool = True) -> str:
    """The md5 in a ``.dvc`` file (of a folder: with ``.dir`` at its end).

    Raises IntegrityError if it is malformed, or contains more than the md5 of the payload beside it: DVC would write
    and remove what it names, fetch it from the place it names, and trust the files that it lists.
    With ``ours`` False more keys are allowed: such a pointer is only read, never followed.
    """
    try:
        content = read_yaml(pointer)
        (out,) = content["outs"]
        md5 = str(out["md5"])
        strange = (set(content) - {"outs"}) | (set(out) - POINTER_KEYS)
        if ours and (strange or out["hash"] != "md5"):
            raise ValueError(
                f"unexpected keys {', '.join(sorted(map(str, strange)))}" if strange else f"hash {out['hash']!r}"
            )
        if out["path"] != pointer.stem or "wdir" in content or not MD5.fullmatch(md5):
            raise ValueError(f"path {out['path']!r}, md5 {md5!r}")
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"not a valid DVC pointer: {pointer}",
            got=error,
            expected=f"one output with an md5, {pointer.stem} beside it",
            hint="restore it from git",
        ) from error
    return md5


def files_of(listing: bytes, where: object) -> dict[str, str]:
    """File name in the folder → md5, from the bytes of a listing at ``where``.

    Raises IntegrityError unless every name is a plain path below the folder and no two names are the same place.
    """
    try:
        if len(listing) > MAX_LISTING_BYTES:
            raise ValueError(f"more than {MAX_LISTING_BYTES >> 20} MiB")
        entries = json.loads(listing)
        if not isinstance(entries, list):
            raise ValueError(f"{type(entries).__name__} instead of a list")
        for entry in entries:
            if not isinstance(entry, dict) or set(entry) != {"md5", "relpath"}:
                raise ValueError(f"an entry without exactly relpath and md5: {str(entry)[:200]}")
            if not isinstance(entry["md5"], str) or not FILE_MD5.fullmatch(entry["md5"]):
                raise ValueError(f"not an md5: {entry['md5']!r}")
            if fault := _fault_of_name(entry["relpath"]):
                raise ValueError(f"{fault}: {entry['relpath']!r}")
        if clash := _clash(entry["relpath"] for entry in entries):
            raise ValueError(f"two names of the same place: {clash!r}")
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"not a valid listing of a folder: {where}",
            got=str(error) or type(error).__name__,
            expected="paths below the folder, each once, with the md5 of its bytes",
            hint="remove it and restore it from another copy; do not trust other objects from there",
        ) from None
    return {entry["relpath"]: entry["md5"] for entry in entries}


def hold_listing(repo: Any, md5: str, *, fetch: bool) -> None:
    """Check the listing ``md5`` in DVC's cache; with ``fetch``, get only it from the remote first.

    DVC then finds it in the cache and does not ask the remote for it. Raises IntegrityError if it leads elsewhere or
    its bytes do not match its name, StepError if the remote lacks it.
    """
    if not md5.endswith(".dir"):
        raise IntegrityError(
            "a DVC pointer names a file instead of a folder",
            got=f"md5 {md5}",
            expected="the md5 of a folder, which ends in .dir",
            hint="restore the pointer from git",
        )
    cached = Path(repo.cache.local.oid_to_path(md5))
    if cached.is_file():
        with cached.open("rb") as file:
            _check(file.read(MAX_LISTING_BYTES + 1), md5, cached)
    elif fetch:
        store = repo.cloud.get_remote_odb(command="pull")
        path = store.oid_to_path(md5)
        try:
            with store.fs.open(path, "rb") as file:
                listing = file.read(MAX_LISTING_BYTES + 1)
        except FileNotFoundError:
            raise StepError(
                "DVC's remote lacks the listing of a folder",
                expected=f"the object {path}",
                hint="run raft sync on the machine that made the run, or restore the remote",
            ) from None
        _check(listing, md5, path)
        write_bytes(cached, listing)
        cached.chmod(READ_ONLY)


def _check(listing: bytes, md5: str, where: object) -> None:
    got = hashlib.md5(listing).hexdigest()
    if len(listing) <= MAX_LISTING_BYTES and f"{got}.dir" != md5:
        raise IntegrityError(
            f"changed bytes: {where}",
            got=f"md5 {got}",
            expected=f"md5 {md5}",
            hint="remove it; dvc pull fetches it again",
        )
    files_of(listing, where)


def _fault_of_name(name: object) -> str | None:
    if not isinstance(name, str):
        return "not a file name"
    parts = name.split("/")
    if {"", ".", ".."} & set(parts):  # an absolute path begins with an empty part
        return "a path that leads out of the folder"
    if "\\" in name or any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in name):
        return "a character that is not allowed in file names"
    too_long = len(name.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts)
    return "too long" if too_long else None


def _clash(names: Iterable[str]) -> str | None:
    """A name that a file system may take for another listed name, or for a folder of one."""
    seen: dict[str, str] = {}
    folders: set[str] = set()
    for name in names:
        plain = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if plain in seen:
            return name
        seen[plain] = name
        parts = plain.split("/")
        folders |= {"/".join(parts[:i]) for i in range(1, len(parts))}
    return next((name for plain, name in seen.items() if plain in folders), None)
