"""Checkpoints inside a fine-tuning: where a new attempt goes on, with the bytes of one that was never cut off.

Trainer and DeepSpeed write ``FOLDER/checkpoint-N``; each loads its part as pickles, which could run anything. So
rank 0 seals a checkpoint once every rank has written its part: ``sealed.json`` holds the sha256 of every file.
Only a checkpoint whose files are exactly those, byte for byte, is ever loaded. Scratch of one step of one run: the
folder is named for the step's content address, never pushed, and deleted at the commit.
"""

import json
import os
import shutil
from pathlib import Path

from raft_core.errors import IntegrityError
from raft_core.files.artifacts import file_digest, folder_files, write_json

SEAL = "sealed.json"
LOGGED = "logged.json"
"""What the training log said up to the checkpoint."""


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in ``folder`` that is whole; everything newer or broken is removed."""
    found = sorted(folder.glob("checkpoint-*"), key=_step, reverse=True)
    for checkpoint in found:
        if is_whole(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint's files are exactly those that were sealed, byte for byte."""
    try:
        sealed = json.loads((checkpoint / SEAL).read_bytes())
        return bool(sealed == _digests(checkpoint))
    except (OSError, ValueError, IntegrityError):
        return False


def seal(checkpoint: Path) -> None:
    """Make every file of a checkpoint durable, then say so."""
    for file in folder_files(checkpoint):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    write_json(checkpoint / SEAL, _digests(checkpoint))


def drop_others(checkpoint: Path) -> None:
    """Remove every other checkpoint beside this one, which is whole."""
    for other in checkpoint.parent.glob("checkpoint-*"):
        if other != checkpoint:
            shutil.rmtree(other)


def _digests(checkpoint: Path) -> dict[str, str]:
    files = {file.relative_to(checkpoint).as_posix(): file for file in folder_files(checkpoint)}
    return {name: file_digest(file) for name, file in files.items() if name != SEAL}


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.partition("-")[2]
    return int(number) if number.isascii() and number.isdecimal() else -1
