"""What to type for something that lies on the Hugging Face hub: RAFT reads local files and fetches none by itself."""

import re
from pathlib import Path
from typing import Literal

from raft_core.errors import InputError

NAME = r"[A-Za-z0-9][\w.\-]*"
ID = re.compile(rf"(?:(?:hf:/+|https:/+huggingface\.co/)(?:datasets/|models/)?)?({NAME}/{NAME})/?")
"""``openai/gsm8k``, perhaps as an address (of whose slashes a ``Path`` keeps one)."""


def download_command(reference: str, kind: Literal["model", "dataset"]) -> str | None:
    """The command that fetches ``reference`` into a folder here; None: it is there, or does not read like an id.

    ``models/mine`` reads like one as well: so this is for an error's hint, never for a decision.
    """
    found = ID.fullmatch(reference.strip())
    if found is None or Path(reference).exists():
        return None
    folder, name = ("data" if kind == "dataset" else "models"), found[1].rpartition("/")[2]
    repository = " --repo-type dataset" if kind == "dataset" else ""
    return f"hf download {found[1]}{repository} --local-dir {folder}/{name}"


def refuse_hub_id(reference: str) -> None:
    """Raise InputError where the ``model`` of a reward is not here and reads like an id of the hub."""
    if command := download_command(reference, "model"):
        folder = command.rpartition(" ")[2]
        raise InputError(
            f"no folder {reference}; if it is a model of the Hugging Face hub, it has to be fetched first",
            expected="a folder on this machine, relative to the current one",
            hint=f"{command} and write model: {folder}",
        )
