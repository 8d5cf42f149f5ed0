"""A pulled model: plain, verified, restored from DVC where its weights are gone, and served."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from raft_core.files.artifacts import digest_of
from raft_core.records.run import Run

Raft = Callable[..., tuple[int, str, str]]
Answer = dict[str, list[dict[str, str]]]


@pytest.fixture
def champion(raft: Raft, rules: Callable[..., str]) -> None:
    assert raft("promote", "one@0", "--rules", rules())[0] == 0


def test_a_plain_checkpoint_with_its_manifest(raft: Raft, champion: None, tmp_path: Path, run: Run) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "served"
    code, told, _ = raft("pull", "champion", "--to", str(out))
    assert code == 0
    assert told.startswith(f"{out}: raft-tiny, iteration 0 of run one, verified; a transformers folder")
    manifest = json.loads((out / "raft.json").read_bytes())
    assert manifest["files"] == {p.name: digest_of(p) for p in out.iterdir() if p.name != "raft.json"}
    assert len(manifest["ledger_entry"]) == 64
    mask = os.umask(0o022)
    os.umask(mask)
    assert all(path.stat().st_mode & 0o444 == 0o444 & ~mask for path in out.iterdir()), "for whoever serves it"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    ids = tokenizer("Review: the film was", return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape[1] > ids.shape[1]
    code, _, err = raft("pull", "champion", "--to", str(out))
    assert (code, "exists" in err) == (2, True)
    assert raft("pull", "previous", "--to", str(tmp_path / "none"))[0] == 2
    assert raft("pull", "raft-tiny@champion", "--to", str(tmp_path / "again"))[0] == 0
    assert digest_of(tmp_path / "again") == digest_of(out)


def test_weights_come_back_from_dvc_and_changed_ones_do_not_leave(
    raft: Raft, copied: Path, champion: None, tmp_path: Path
) -> None:
    weights = copied / "runs" / "one" / "iterations" / "000" / "policy"
    shutil.rmtree(weights)
    assert raft("pull", "champion", "--to", str(tmp_path / "restored"))[0] == 0
    assert weights.is_dir()
    file = weights / "adapter_model.safetensors"
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    code, _, err = raft("pull", "champion", "--to", str(tmp_path / "spoilt"))
    assert (code, "changed bytes" in err) == (4, True)
    assert not (tmp_path / "spoilt").exists()


@pytest.mark.full
def test_transformers_serve_serves_it(raft: Raft, champion: None, tmp_path: Path) -> None:
    out = tmp_path / "served"
    raft("pull", "champion", "--to", str(out))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        asked = {"model": str(out), "prompt": "Review: the film was", "max_tokens": 8}
        answer = patient(f"http://127.0.0.1:{port}/v1/completions", asked, server, tmp_path / "serve.log")
        assert answer["choices"][0]["text"].strip()
    finally:
        server.terminate()
        server.wait(30)


def patient(url: str, asked: dict[str, object], server: subprocess.Popen[bytes], log: Path) -> Answer:
    """The answer, once the server listens."""
    deadline = time.monotonic() + 600
    while True:
        try:
            request = Request(url, json.dumps(asked).encode(), {"Content-Type": "application/json"})
            with urlopen(request, timeout=600) as response:
                answer: Answer = json.loads(response.read())
                return answer
        except (URLError, OSError) as error:
            ended = server.poll() is not None or time.monotonic() > deadline
            if ended or getattr(error, "code", 0) >= 400:
                pytest.fail(f"{error}\n{log.read_text()[-3000:]}")
            time.sleep(1)
