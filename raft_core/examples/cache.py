"""The cache of prepared stages: content-addressed folders, built in a temporary folder and renamed.

CACHE/EXAMPLE/STAGE-<key12>/
  receipt.json     what the stage produced and from which inputs; if it exists, the folder is complete
  …                the stage's outputs

The key is the digest of the stage's source in ``examples/`` (which contains the constants of the recipe)
and of the digests of its inputs. The library versions are not part of it: a policy trained with an
earlier torch is as good a start as another, and every run records the digest of its policy.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from raft_core.errors import ExampleError
from raft_core.examples.location import cache_folder
from raft_core.examples.stages import Built, Progress, Receipt, Source, Stage
from raft_core.files.artifacts import digest_of, folder_files, fsync_folder, json_digest, write_json
from raft_core.files.locks import exclusive, try_exclusive
from raft_core.imports import code_digest

FORMAT = 1


def stage_key(stage: Stage, inputs: Mapping[str, Receipt]) -> str:
    """The content address of the outputs of ``stage`` for ``inputs``."""
    module = stage.build.partition(":")[0]
    made_from = {name: {path: inputs[name].outputs[path] for path in read} for name, read in stage.inputs.items()}
    return json_digest([FORMAT, stage.build, code_digest(module, within=("raft_core.examples",)), made_from])


def stage_folder(example: str, name: str, key: str) -> Path:
    """The folder of the stage with this key, whether it is prepared or not."""
    return cache_folder() / example / f"{name}-{key[:12]}"


def read_receipt(folder: Path) -> Receipt | None:
    """The receipt of a prepared stage; None if it is missing or invalid, or if files are missing or cut off.

    Only sizes are compared, since this runs on every ``resolve``.
    """
    try:
        plain = json.loads((folder / "receipt.json").read_bytes())
        plain["sources"] = tuple(Source(**source) for source in plain["sources"])
        receipt = Receipt(**plain)
        whole = all((folder / name).stat().st_size == size for name, size in receipt.sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return receipt if whole else None


def build_once(example: str, name: str, stage: Stage, inputs: Mapping[str, Receipt], progress: Progress) -> Receipt:
    """The receipt of a stage, which is built if necessary; if two processes need it, one builds and one waits.

    Raises ExampleError if the cache cannot be written, and what the stage's function raises.
    """
    key = stage_key(stage, inputs)
    folder = stage_folder(example, name, key)
    if (receipt := read_receipt(folder)) is not None:
        return receipt
    try:
        with _locked(folder.parent / ".locks" / folder.name, progress):
            if (receipt := read_receipt(folder)) is None:
                progress(f"{example}: preparing {name}")
                input_folders = {
                    earlier: stage_folder(example, earlier, inputs[earlier].key) for earlier in stage.inputs
                }
                receipt = _build(folder, name, key, stage, input_folders, progress)
    except ExampleError:
        raise
    except OSError as error:
        raise ExampleError(
            f"the stage {name} of the example {example} could not be written to {folder.parent}",
            got=error,
            expected="a writable folder with enough free space",
            hint="free some space or make the folder writable, or use another cache: RAFT_CACHE=FOLDER",
        ) from error
    return receipt


def _build(
    folder: Path, name: str, key: str, stage: Stage, input_folders: Mapping[str, Path], progress: Progress
) -> Receipt:
    _remove_left_overs(folder.parent, held=folder.name)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    aside.mkdir(parents=True)
    try:
        module, _, function = stage.build.partition(":")
        built: Built = getattr(import_module(module), function)(aside, input_folders, progress)
        receipt = Receipt(
            stage=name,
            key=key,
            outputs={output: digest_of(aside / output) for output in stage.outputs},
            sources=built.sources,
            measured=built.measured,
            sizes={file.relative_to(aside).as_posix(): file.stat().st_size for file in folder_files(aside)},
        )
        _make_durable(aside)
        write_json(aside / "receipt.json", asdict(receipt))
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
        fsync_folder(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return receipt


def _remove_left_overs(example: Path, held: str) -> None:
    """Remove temporary folders of killed processes, whose locks are free. ``held`` is the stage that we have locked."""
    for aside in example.glob(".*-*.*"):
        stage = aside.name.removeprefix(".").rpartition(".")[0]
        with nullcontext(True) if stage == held else try_exclusive(example / ".locks" / stage) as nobody_builds:
            if nobody_builds:
                shutil.rmtree(aside, ignore_errors=True)


def _make_durable(folder: Path) -> None:
    for file in folder_files(folder):
        with file.open("rb") as open_file:
            os.fsync(open_file.fileno())


@contextmanager
def _locked(lock: Path, progress: Progress) -> Iterator[None]:
    """Hold ``lock``. The kernel releases it when its owner ends, so nothing needs cleaning up after a kill."""
    with try_exclusive(lock) as free:
        if not free:
            progress(f"waiting for another process that is preparing {lock.name}")
        with nullcontext() if free else exclusive(lock):
            yield
