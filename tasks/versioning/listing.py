"""DVC's pointers and listings, which strangers may have written: checked whole before anything follows them.

A pointer (``policy.dvc``) names a listing by its md5, and a listing names the files of the folder. DVC follows both
wherever they lead: ``"relpath": "../../x.py"`` writes outside the folder, on any machine that pulls.
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

    Raises IntegrityError if it is malformed, or says more than that the payload beside it has these bytes: DVC would
    write and remove what it names, fetch it from where it says, and believe the files that it lists itself.
    One that is not ``ours`` may say more: it is asked what it keeps, and never followed.
    """
    try:
        told = read_yaml(pointer)
        (out,) = told["outs"]
        md5 = str(out["md5"])
        strange = (set(told) - {"outs"}) | (set(out) - POINTER_KEYS)
        if ours and (strange or out["hash"] != "md5"):
            raise ValueError(f"it says more: {', '.join(sorted(map(str, strange)))}" if strange else out["hash"])
        if out["path"] != pointer.stem or "wdir" in told or not MD5.fullmatch(md5):
            raise ValueError(f"path {out['path']!r}, md5 {md5!r}")
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"no DVC pointer: {pointer}",
            got=error,
            expected=f"one output, {pointer.stem} beside it",
            hint="restore it from git",
        ) from error
    return md5


def files_of(listing: bytes, where: object) -> dict[str, str]:
    """Name in the folder → md5, of a listing that lies at ``where``.

    Raises IntegrityError unless every name is a plain path below the folder, and none stands for two files.
    """
    try:
        if len(listing) > MAX_LISTING_BYTES:
            raise ValueError(f"more than {MAX_LISTING_BYTES >> 20} MiB")
        entries = json.loads(listing)
        if not isinstance(entries, list):
            raise ValueError(f"a {type(entries).__name__}, not a list")
        for entry in entries:
            if not isinstance(entry, dict) or set(entry) != {"md5", "relpath"}:
                raise ValueError(f"an entry that is not a name and an md5: {str(entry)[:200]}")
            if not isinstance(entry["md5"], str) or not FILE_MD5.fullmatch(entry["md5"]):
                raise ValueError(f"no md5: {entry['md5']!r}")
            if fault := _fault_of_name(entry["relpath"]):
                raise ValueError(f"{fault}: {entry['relpath']!r}")
        if clash := _clash(entry["relpath"] for entry in entries):
            raise ValueError(f"two names for one place: {clash!r}")
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"no listing of a folder's files: {where}",
            got=str(error) or type(error).__name__,
            expected="names below the folder, each once, with the md5 of its bytes",
            hint="trust nothing else from there: remove it, and bring a sound one from another copy",
        ) from None
    return {entry["relpath"]: entry["md5"] for entry in entries}


def hold_listing(repo: Any, md5: str, *, fetch: bool) -> None:
    """Check the listing ``md5`` in DVC's cache; with ``fetch``, bring it there from the remote first, by itself.

    DVC then finds it in the cache, and never asks the remote for another one. Raises IntegrityError for one that
    leads elsewhere or has other bytes than its name says, StepError if it is nowhere.
    """
    if not md5.endswith(".dir"):
        raise IntegrityError(
            "a DVC pointer names a single file",
            got=f"md5 {md5}",
            expected="a folder (md5 … .dir)",
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
                "DVC's remote lacks the list of a folder's files",
                expected=path,
                hint="run raft sync where the run was made, or restore the remote",
            ) from None
        _check(listing, md5, path)
        write_bytes(cached, listing)
        cached.chmod(READ_ONLY)


def _check(listing: bytes, md5: str, where: object) -> None:
    got = hashlib.md5(listing).hexdigest()
    if len(listing) <= MAX_LISTING_BYTES and f"{got}.dir" != md5:
        raise IntegrityError(f"changed bytes: {where}", got=f"md5 {got}", expected=f"md5 {md5}")
    files_of(listing, where)


def _fault_of_name(name: object) -> str | None:
    if not isinstance(name, str):
        return "no name"
    parts = name.split("/")
    if {"", ".", ".."} & set(parts):  # an absolute path begins with an empty part
        return "it leads out of the folder, or nowhere"
    if "\\" in name or any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in name):
        return "a character that names of files do not have"
    too_long = len(name.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts)
    return "too long" if too_long else None


def _clash(names: Iterable[str]) -> str | None:
    """A name that some file system takes for another one, or for a folder of another one."""
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
