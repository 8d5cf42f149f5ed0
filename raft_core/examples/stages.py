"""Data classes for stages: what a stage is, what its function returns, and the receipt that it writes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Progress = Callable[[str], None]
"""Called with one line of text that is shown to the waiting user."""


@dataclass(frozen=True, slots=True)
class Source:
    """A downloaded file of a package at a version."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Built:
    """What a stage's function returns: figures to record (deterministic, no times) and its sources."""

    measured: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of an example. ``build`` is "module:function", called as ``f(out, inputs, progress) -> Built``.

    ``outputs`` are paths relative to ``out``; the function writes nothing else. ``inputs``: earlier stage →
    the outputs of it that are read; the function gets the folders of these stages.
    """

    build: str
    outputs: tuple[str, ...]
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a prepared stage holds. ``outputs``: relative path → sha256 (of a folder: ``folder_digest``);
    ``sizes``: every file → bytes."""

    stage: str
    key: str
    outputs: Mapping[str, str]
    sources: tuple[Source, ...]
    measured: Mapping[str, Any]
    sizes: Mapping[str, int]
