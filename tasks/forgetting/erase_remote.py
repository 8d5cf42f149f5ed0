"""Erase rows from a DVC remote that is not a folder of this machine, for example an S3 store.

Every Parquet file in the remote is searched by range requests for the columns that matter, because no local list is
complete: the cache may be absent and other clones may have pushed. The text to forget is passed to the child process on
standard input, since a command line is visible to everyone on the machine.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from raft_core.forgetting.target_rows import Target, stream_holds
from raft_core.launch.forkserver import die_with_parent
from tasks.versioning.remote import in_child
from tasks.versioning.repository import opened

REQUESTS_AT_ONCE = 8
MAGIC = b"PAR1"
Listing = TypeVar("Listing")


def erase_over_network(workspace: Path, target: Target, limit_s: float) -> tuple[int, list[str]]:
    """Remove every object with such rows from the default remote, and the directory listings that name one.

    Returns how many objects held rows, and the paths of damaged tables. Idempotent.
    Raises StepError if the remote cannot be reached or changed, or takes longer than ``limit_s`` seconds.
    """
    asked = {"prompts": sorted(target.prompts), "sources": sorted(target.sources), "text": target.text}
    answer = json.loads(in_child("tasks.forgetting.erase_remote", [], workspace, limit_s, json.dumps(asked)))
    return int(answer["erased"]), [str(path) for path in answer["damaged"]]


def remove_objects(store: Any, target: Target) -> tuple[int, list[str]]:
    """``erase_over_network`` on an open object database of DVC."""
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        every = sorted(_oids(store))
        listings = [oid for oid in every if oid.endswith(".dir")]
        files = [oid for oid in every if not oid.endswith(".dir")]
        found = dict(zip(files, pool.map(lambda oid: _holds(store, oid, target), files), strict=True))
        erased = [oid for oid, held in found.items() if held]
        if erased:
            contents = pool.map(lambda oid: listed(store.fs.cat_file(store.oid_to_path(oid))), listings)
            list(pool.map(store.delete, naming(dict(zip(listings, contents, strict=True)), erased)))
            list(pool.map(store.delete, erased))
    return len(erased), [store.oid_to_path(oid) for oid, held in found.items() if held is None]


def _oids(store: Any) -> Iterable[str]:
    for path in store.fs.find(store.path):
        with suppress(ValueError):  # not an object of DVC
            yield store.path_to_oid(path)


def _holds(store: Any, oid: str, target: Target) -> bool | None:
    """Whether an object holds such rows; None if the table is too damaged to be searched."""
    path = store.oid_to_path(oid)
    if store.fs.cat_file(path, start=0, end=len(MAGIC)) != MAGIC:
        return False
    with store.fs.open(path, "rb") as file:
        try:
            return stream_holds(file, target)
        except pa.ArrowException:
            return None


def naming(listings: Mapping[Listing, Iterable[str]], erased: Iterable[str]) -> list[Listing]:
    """Which of DVC's ``listings`` (any name → objects of the folder) name an object in ``erased``."""
    lost = set(erased)
    return [name for name, named in listings.items() if not lost.isdisjoint(named)]


def listed(listing: bytes) -> list[str]:
    """The objects that a listing of DVC names; empty if it is damaged."""
    try:
        return [str(entry["md5"]) for entry in json.loads(listing)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def main() -> int:
    """Child process: reads the target from standard input, prints how many objects held rows and which are damaged."""
    asked = json.load(sys.stdin)
    target = Target(frozenset(asked["prompts"]), frozenset(asked["sources"]), asked["text"])
    try:
        with opened(Path()) as repo:
            erased, damaged = remove_objects(repo.cloud.get_remote_odb(command="raft"), target)
        print(json.dumps({"erased": erased, "damaged": damaged}))
    except Exception as error:  # stores raise exceptions of many libraries
        print(" ".join(f"{type(error).__name__}: {error}".split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    sys.exit(main())
