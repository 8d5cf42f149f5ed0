"""Compare two runs of the same configuration: the same bytes, or the first difference and its size."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raft_core.errors import IntegrityError
from raft_core.files.plain_json import read_json
from raft_core.records.run import BASE, Commit, Run, differences, read_chain
from raft_core.records.tables import SCHEMAS, read_table

ORDER = (
    "tables/prompts.parquet",
    "tables/samples.parquet",
    "tables/scored.parquet",
    "tables/quarantine.parquet",
    "tables/validation.parquet",
    "tables/selected.parquet",
    "policy",
    "finetune.json",
    "tables/evaluation.parquet",
    "tables/perplexity.parquet",
    "report.json",
)
"""Outputs in the order in which an iteration makes them."""
MOST_SHOWN = 12
"""Keys of a document that are listed one by one."""


@dataclass(frozen=True, slots=True)
class Gap:
    """One output that differs. ``size``: what differs in it, one line each."""

    iteration: int
    output: str
    size: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """``numerics`` and ``code``: why bytes may differ. ``first``: the first output that differs; None: none does."""

    commits: int
    same_commits: int
    outputs: int
    same_outputs: int
    numerics: Mapping[str, tuple[Any, Any]]
    code: tuple[str, ...]
    first: Gap | None
    differing: tuple[str, ...]
    said: tuple[str, ...]
    """Keys in which the first differing commits differ, apart from outputs and digests of earlier commits."""
    missing: tuple[int, ...]
    """Iterations that the second run has not made."""

    @property
    def same(self) -> bool:
        """Whether every commit, and so every output, has the same bytes."""
        return self.commits == self.same_commits and not self.missing


def compare(one: Run, other: Run) -> Comparison:
    """Compare every commit of ``one`` with that of ``other``. Raises IntegrityError if a chain of commits is broken."""
    mine, theirs = read_chain(one), {commit.iteration: commit for commit in read_chain(other)}
    pairs = [(commit, theirs[commit.iteration]) for commit in mine if commit.iteration in theirs]
    gaps = [(a.iteration, name) for a, b in pairs for name in _differing(a, b)]
    first = None
    if gaps:
        number, name = gaps[0]
        first = Gap(number, name, tuple(_size(one.folder(number) / name, other.folder(number) / name)))
    return Comparison(
        commits=len(mine),
        same_commits=sum(a.digest == b.digest for a, b in pairs),
        outputs=sum(len(a.outputs) for a, _ in pairs),
        same_outputs=sum(len(a.outputs) for a, _ in pairs) - len(gaps),
        numerics={
            key: (here, there)
            for a, b in pairs[:1]
            for key, here, there in differences(a.content.get("numerics", {}), b.content.get("numerics", {}))
        },
        code=tuple(sorted({step for a, b in pairs for step in _other_code(a, b)})),
        first=first,
        differing=tuple(f"{_label(number)}/{name}" for number, name in gaps),
        said=next((tuple(_other_keys(a, b)) for a, b in pairs if a.digest != b.digest), ()),
        missing=tuple(commit.iteration for commit in mine if commit.iteration not in theirs),
    )


def _differing(a: Commit, b: Commit) -> list[str]:
    names = {name for name in {*a.outputs, *b.outputs} if a.outputs.get(name) != b.outputs.get(name)}
    known = [name for name in ORDER if name in names]
    return known + sorted(names - set(known))


def _other_code(a: Commit, b: Commit) -> Iterator[str]:
    there = b.content["steps"]
    for name, step in a.content["steps"].items():
        if name in there and step.get("code") and there[name].get("code") and step["code"] != there[name]["code"]:
            yield name


def _other_keys(a: Commit, b: Commit) -> Iterator[str]:
    for key, _, _ in differences(dict(a.content), dict(b.content)):
        if key.split(".")[0] not in ("parent", "content", "outputs"):
            yield key


def _label(iteration: int) -> str:
    return "base" if iteration == BASE else f"{iteration:03d}"


# -- how large a difference is ---------------------------------------------------------------------


def _size(a: Path, b: Path) -> Iterator[str]:
    if not a.exists() or not b.exists():
        yield f"only {'the first' if a.exists() else 'the second'} run has it"
    elif a.suffix == ".parquet":
        yield from _table_gap(a, b)
    elif a.is_dir():
        yield from _folder_gap(a, b)
    elif a.suffix == ".json":
        yield from _document_gap(a, b)


def _document_gap(a: Path, b: Path) -> Iterator[str]:
    try:
        one, other = read_json(a), read_json(b)
    except (OSError, ValueError) as error:
        yield str(error)
        return
    yield from _json_gap(one, other)


def _table_gap(a: Path, b: Path) -> Iterator[str]:
    schema = SCHEMAS[a.stem]
    try:
        one, other = read_table(a, schema), read_table(b, schema)
    except IntegrityError as error:
        yield str(error)
        return
    if len(one) != len(other):
        yield f"{len(one):,} rows in the first, {len(other):,} in the second"
        return
    for name in schema.names:
        x, y = one[name].combine_chunks(), other[name].combine_chunks()
        if x.equals(y):
            continue
        rows, largest = _column_gap(x, y)
        yield f"column {name}: {rows:,} of {len(one):,} rows differ" + (
            f", by {largest:.3g} at most" if largest is not None else ""
        )


def _column_gap(x: pa.Array, y: pa.Array) -> tuple[int, float | None]:
    """Rows that differ, and the largest absolute difference (None: not numbers, or lists of different lengths)."""
    if pa.types.is_list(x.type):
        rows = sum(a != b for a, b in zip(x.to_pylist(), y.to_pylist(), strict=True))
        a, b = pc.list_flatten(x), pc.list_flatten(y)
        comparable = pa.types.is_primitive(a.type) and pc.list_value_length(x).equals(pc.list_value_length(y))
        return rows, _largest(a, b) if comparable else None
    equal = pc.or_kleene(pc.equal(x, y), pc.and_(pc.is_null(x), pc.is_null(y)))
    rows = len(x) - (pc.sum(pc.fill_null(equal, False)).as_py() or 0)
    return rows, _largest(x, y) if pa.types.is_floating(x.type) or pa.types.is_integer(x.type) else None


def _largest(a: pa.Array, b: pa.Array) -> float | None:
    value = pc.max(pc.abs(pc.subtract(pc.cast(a, pa.float64()), pc.cast(b, pa.float64())))).as_py()
    return None if value is None else float(value)


def _folder_gap(a: Path, b: Path) -> Iterator[str]:
    names = sorted({p.relative_to(root).as_posix() for root in (a, b) for p in root.rglob("*") if p.is_file()})
    for name in names:
        one, other = a / name, b / name
        if not one.is_file() or not other.is_file():
            yield f"{name}: only {'the first' if one.is_file() else 'the second'} run has it"
        elif one.read_bytes() != other.read_bytes():
            if name.endswith(".safetensors"):
                yield f"{name}: {_tensor_gap(one, other)}"
            else:
                yield f"{name}: different bytes"


def _tensor_gap(a: Path, b: Path) -> str:
    from safetensors.torch import load_file

    one, other = load_file(a), load_file(b)
    if one.keys() != other.keys():
        return "the files hold different tensors"
    gaps = {
        name: float((one[name].double() - other[name].double()).abs().max())
        for name in one
        if one[name].shape == other[name].shape and not one[name].equal(other[name])
    }
    shapes = sum(one[name].shape != other[name].shape for name in one)
    if shapes:
        return f"{shapes} tensors differ in shape"
    return f"{len(gaps)} of {len(one)} tensors differ, by {max(gaps.values(), default=0.0):.3g} at most"


def _json_gap(a: Any, b: Any) -> Iterator[str]:
    every = list(differences(a, b))
    for key, here, there in every[:MOST_SHOWN]:
        yield f"{key}: {here!r} in the first, {there!r} in the second"
    if len(every) > MOST_SHOWN:
        yield f"and {len(every) - MOST_SHOWN} more keys"
