"""Rows that must go leave an S3 store too; out of reach, the command says so, and finishes when it is back."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raft_core.forgetting.erasure import read_tombstone
from raft_core.records.run import Run, read_run
from raft_core.records.tables import PROMPTS, read_table
from tasks.versioning.pointers import restore

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"
SHORT = [
    "iterations=2",
    "sampling.prompts_per_iteration=16",
    "prompts.max_held_out=16",
    "evaluation.bootstrap_resamples=200",
    "evaluation.max_perplexity_texts=16",
]
Raft = Callable[..., tuple[int, str, str]]


@pytest.fixture
def workspace(tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ENDPOINT_URL", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc-site"))
    folder = tmp_path / "workspace"
    (folder / ".dvc").mkdir(parents=True)
    point_at(folder, s3)
    return folder


def point_at(workspace: Path, store: Any) -> None:
    (workspace / ".dvc" / "config").write_text(store.dvc_config)


@pytest.fixture
def raft(workspace: Path) -> Raft:
    def call(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-c", "from flows.cli.app import main; main()", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "RAFT_WORKSPACE": str(workspace)},
            timeout=400,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return call


def held(s3: Any, prompt_id: str) -> set[str]:
    """The objects of the store that are tables with a row of this prompt: each is fetched whole and read."""
    found = set()
    for key in s3.keys("dvc"):
        data = s3.client().get_object(Bucket="dvc", Key=key)["Body"].read()
        if data[:4] == b"PAR1":
            table = pq.read_table(io.BytesIO(data))
            if "prompt_id" in table.column_names and prompt_id in table["prompt_id"].to_pylist():
                found.add(key)
    return found


def listings_that_name_what_is_not_there(s3: Any) -> list[str]:
    keys = s3.keys("dvc")
    there = {"".join(key.split("/")[-2:]) for key in keys}
    listings = {key: s3.client().get_object(Bucket="dvc", Key=key)["Body"].read() for key in keys if key[-4:] == ".dir"}
    return [key for key, data in listings.items() if not {entry["md5"] for entry in json.loads(data)} <= there]


def pushed_by_another_clone(s3: Any, prompt: dict[str, str]) -> str:
    """A table that nothing here names, with the prompt in it; returns its key."""
    out = io.BytesIO()
    pq.write_table(pa.table({"prompt_id": [prompt["prompt_id"]], "text": [prompt["text"]]}), out)
    key = f"objects/files/md5/00/{'0' * 30}"
    s3.client().put_object(Bucket="dvc", Key=key, Body=out.getvalue())
    return key


def test_an_erasure_reaches_s3_and_one_that_could_not_is_finished_later(workspace: Path, raft: Raft, s3: Any) -> None:
    code, said, told = raft("align", str(TINY), "--name", "first", "-q", *SHORT)
    assert code == 0, said + told
    run: Run = read_run(workspace / "runs" / "first")
    prompt, other = read_table(run.table(0, "prompts"), PROMPTS).to_pylist()[:2]
    foreign = pushed_by_another_clone(s3, prompt)
    before = held(s3, prompt["prompt_id"])
    assert len(before) >= 4
    assert foreign in before
    forget = ("lineage", "forget", "--prompt", prompt["prompt_id"][:12], "--erase", "-y")

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        point_at(workspace, replace(s3, url=f"http://127.0.0.1:{closed.getsockname()[1]}"))
        code, said, told = raft(*forget, "--json")
    done = json.loads(said)["done"]["erased"]
    assert code == 4, told
    assert any("s3://dvc/objects/files/md5" in line for line in done["unfinished"]), done
    assert done["rows"] > 0
    assert held(s3, prompt["prompt_id"]) == before
    assert prompt["prompt_id"] not in read_table(run.table(0, "prompts"), PROMPTS)["prompt_id"].to_pylist()

    point_at(workspace, s3)
    code, said, told = raft(*forget)
    assert code == 0, said + told
    assert "not finished" not in said
    assert held(s3, prompt["prompt_id"]) == set()
    assert len(held(s3, other["prompt_id"])) >= 4
    assert listings_that_name_what_is_not_there(s3) == []

    keys = s3.keys("dvc")
    code, said, told = raft(*forget, "--json")
    again = json.loads(said)["done"]["erased"]
    assert (code, again["rows"], again["objects"], again["unfinished"]) == (0, 0, 0, [])
    assert s3.keys("dvc") == keys

    shutil.rmtree(workspace / ".dvc" / "cache")
    shutil.rmtree(run.folder(0) / "tables")
    restore(run.folder(0) / "tables.dvc", workspace)
    tombstone = read_tombstone(run.folder(0))
    assert tombstone is not None
    assert tombstone.because == (f"prompt {prompt['prompt_id']}",)
    code, said, told = raft("lineage", "verify", "first")
    assert code == 0, said + told
    assert "erased" in said
