"""Checkpoints inside a fine-tuning, from which a new attempt continues with the same result as without interruption.

Trainer and DeepSpeed write ``FOLDER/checkpoint-N``; both load their part as pickles, which could run any code. So
rank 0 seals a checkpoint once every rank has written its part: ``sealed.json`` holds the sha256 of every file.
Only a checkpoint whose files match it byte for byte is loaded. The folder belongs to one step of one run: it is named
by the step's content address, never pushed, and deleted at the commit.
"""

import json
import os
import shutil
from pathlib import Path

from raft_core.errors import IntegrityError
from raft_core.files.artifacts import file_digest, folder_files, write_json

SEAL = "sealed.json"
LOGGED = "logged.json"
"""The training log up to the checkpoint."""


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in ``folder``; newer, incomplete ones are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=_step, reverse=True)
    for checkpoint in found:
        if is_whole(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint's files match its seal, byte for byte."""
    try:
        sealed = json.loads((checkpoint / SEAL).read_bytes())
        return bool(sealed == _digests(checkpoint))
    except (OSError, ValueError, IntegrityError):
        return False


def seal(checkpoint: Path) -> None:
    """Make every file of a checkpoint durable, then write its seal."""
    for file in folder_files(checkpoint):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    write_json(checkpoint / SEAL, _digests(checkpoint))


def drop_others(checkpoint: Path) -> None:
    """Remove every checkpoint except this one, which is complete."""
    for other in checkpoint.parent.glob("checkpoint-*"):
        if other != checkpoint:
            shutil.rmtree(other)


def _digests(checkpoint: Path) -> dict[str, str]:
    files = {file.relative_to(checkpoint).as_posix(): file for file in folder_files(checkpoint)}
    return {name: file_digest(file) for name, file in files.items() if name != SEAL}


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.partition("-")[2]
    return int(number) if number.isascii() and number.isdecimal() else -1
