"""Safetensors of others: a header that lies about the file ends in one error, before anything is loaded."""

import json
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from raft_core.errors import InputError, IntegrityError
from raft_core.policies.text.checkpoint import NOT_COPIED, check_weights, safetensors_shapes


def tensor(shape: Any, offsets: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def write(path: Path, header: Any, data: bytes = b"\0" * 16, size: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if size is None else size).to_bytes(8, "little") + text + data)
    return path


HOSTILE = {
    "a header longer than the file": ({"a": tensor([4], [0, 16])}, b"\0" * 16, 1 << 40),
    "a header of no length": ({}, b"", 0),
    "overlapping tensors": ({"a": tensor([4], [0, 16]), "b": tensor([2], [8, 16])}, b"\0" * 16, None),
    "a gap between tensors": ({"a": tensor([1], [0, 4]), "b": tensor([1], [12, 16])}, b"\0" * 16, None),
    "a start in front of the data": ({"a": tensor([6], [-8, 16])}, b"\0" * 16, None),
    "an end before its start": ({"a": tensor([4], [16, 0]), "b": tensor([4], [0, 16])}, b"\0" * 16, None),
    "a shape of another size": ({"a": tensor([1 << 40], [0, 16])}, b"\0" * 16, None),
    "a negative shape": ({"a": tensor([-2, -2], [0, 16])}, b"\0" * 16, None),
    "a shape of texts": ({"a": tensor(["4"], [0, 16])}, b"\0" * 16, None),
    "offsets of fractions": ({"a": tensor([4], [0.0, 16.0])}, b"\0" * 16, None),
    "three offsets": ({"a": tensor([4], [0, 8, 16])}, b"\0" * 16, None),
    "no offsets": ({"a": {"dtype": "F32", "shape": [4]}}, b"\0" * 16, None),
    "a list": ([1, 2], b"\0" * 16, None),
    "no JSON": (b"{'a': 1}", b"", None),
    "endless nesting": (b"[" * 200_000, b"", None),
    "data behind the last tensor": ({"a": tensor([4], [0, 16])}, b"\0" * 17, None),
    "data that is missing": ({"a": tensor([4], [0, 16])}, b"\0" * 15, None),
}


@pytest.mark.parametrize(("header", "data", "size"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_header_ends_in_one_error(tmp_path: Path, header: Any, data: bytes, size: int | None) -> None:
    path = write(tmp_path / "model.safetensors", header, data, size)
    with pytest.raises(IntegrityError) as caught:
        check_weights(tmp_path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_a_huge_header_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((1 << 36).to_bytes(8, "little"))
        file.truncate((1 << 36) + 8)  # sparse: it takes no room
    with pytest.raises(IntegrityError, match="a header of 68719476736 bytes"):
        safetensors_shapes(path)


def test_what_the_library_writes_passes(tmp_path: Path) -> None:
    import numpy as np

    arrays = {
        "a": np.zeros((3, 5), np.float32),
        "b": np.zeros((), np.int64),
        "c": np.zeros((0, 7), np.float16),
        "d": np.ones((2, 2), np.bool_),
    }
    (tmp_path / "model.safetensors").write_bytes(save(arrays, metadata={"format": "pt"}))
    assert safetensors_shapes(tmp_path / "model.safetensors") == {name: a.shape for name, a in arrays.items()}


@given(st.binary(max_size=300))
def test_any_bytes_end_in_an_answer(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(data)
        with suppress(IntegrityError):
            assert isinstance(safetensors_shapes(path), dict)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "weights.pkl", "last.ckpt", "m.joblib"])
def test_pickles_are_refused_by_name_and_never_opened(tmp_path: Path, name: str) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    if name.endswith(".bin"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Runs()))
    else:
        (tmp_path / name).write_bytes(pickle.dumps(Runs()))
    with pytest.raises(InputError, match="pickles") as caught:
        check_weights(tmp_path)
    assert name in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert any(Path(name).match(pattern) for pattern in NOT_COPIED)


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "", ".", "w.bin"])
def test_an_index_that_names_a_file_elsewhere(tmp_path: Path, shard: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(IntegrityError, match=r"model\.safetensors\.index\.json") as caught:
        check_weights(tmp_path)
    assert caught.value.got == repr(shard)
