"""When evidence is young enough to decide by."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.promotion.evidence import _is_young

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("time", "young"),
    [
        (NOON - timedelta(hours=23), True),
        (NOON - timedelta(hours=25), False),
        (NOON + timedelta(minutes=4), True),
        (NOON + timedelta(minutes=6), False),
        (NOON.replace(year=2099), False),
    ],
)
def test_neither_old_evidence_decides_nor_what_is_dated_later(time: datetime, young: bool, tmp_path: Path) -> None:
    when = tmp_path / "key.json"
    when.write_text(json.dumps({"time": time.isoformat()}))
    assert _is_young(when, NOON, DAY) is young


@pytest.mark.parametrize(
    "text", ["", "[]", '{"time": 7}', '{"time": "2099"}', '{"time": "2026-01-01T12:00:00"}', "[" * 9000]
)
def test_a_time_that_cannot_be_read_is_measured_anew(text: str, tmp_path: Path) -> None:
    when = tmp_path / "key.json"
    when.write_text(text)
    assert not _is_young(when, NOON, DAY)
