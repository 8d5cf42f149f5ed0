"""The command that downloads a model or data set of the Hugging Face hub: RAFT itself reads only local files."""

import re
from pathlib import Path
from typing import Literal

from raft_core.errors import InputError

NAME = r"[A-Za-z0-9][\w.\-]*"
ID = re.compile(rf"(?:(?:hf:/+|https:/+huggingface\.co/)(?:datasets/|models/)?)?({NAME}/{NAME})/?")
"""``openai/gsm8k``, also written as an address (in which ``Path`` has reduced ``//`` to ``/``)."""


def download_command(reference: str, kind: Literal["model", "dataset"]) -> str | None:
    """The command that downloads ``reference`` into a folder here; None if it exists here or does not look like an id.

    ``models/mine`` looks like an id too, so use this for the hint of an error and never for a decision.
    """
    found = ID.fullmatch(reference.strip())
    if found is None or Path(reference).exists():
        return None
    folder, name = ("data" if kind == "dataset" else "models"), found[1].rpartition("/")[2]
    repository = " --repo-type dataset" if kind == "dataset" else ""
    return f"hf download {found[1]}{repository} --local-dir {folder}/{name}"


def refuse_hub_id(reference: str) -> None:
    """Raise InputError if the ``model`` of a reward does not exist here and looks like an id of the hub."""
    if command := download_command(reference, "model"):
        folder = command.rpartition(" ")[2]
        raise InputError(
            f"no folder {reference}",
            got="something that looks like a model of the Hugging Face hub; raft reads local folders only",
            expected="a folder on this machine; relative paths start at the current directory",
            hint=f"`{command}`, then set `model: {folder}` of the reward (for a gated or private model run "
            "`hf auth login` first)",
        )
