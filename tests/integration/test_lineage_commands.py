"""``raft lineage …`` on a real finished run of the tiny example, as a person calls it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from flows.cli import exits
from flows.cli.app import app
from raft_core.files.artifacts import file_digest
from raft_core.forgetting.erasure import Erased, write_tombstone
from raft_core.forgetting.target_rows import Target, holds
from raft_core.promotion.ledger import FileLedger
from raft_core.records.run import Run, hold, read_chain, read_events, read_run
from raft_core.records.tables import PROMPTS, SAMPLES, SELECTED, read_table
from tasks.versioning.listing import pointer_md5
from tasks.versioning.objects import objects

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "tiny.yaml"
SHORT = [
    "iterations=2",
    "sampling.prompts_per_iteration=16",
    "prompts.max_held_out=16",
    "evaluation.bootstrap_resamples=200",
    "evaluation.max_perplexity_texts=16",
]
Raft = Callable[..., tuple[int, str, str]]


def short_run(workspace: Path, name: str) -> None:
    """As a person starts it: in a process of its own."""
    command = [
        sys.executable,
        "-c",
        "from flows.cli.app import main; main()",
        "align",
        str(TINY),
        *SHORT,
        "--name",
        name,
    ]
    environment = {**os.environ, "RAFT_WORKSPACE": str(workspace)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace in git, as a clone of this project has it, with one finished run; nobody writes into it."""
    folder = tmp_path_factory.mktemp("finished") / "work space"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DVC_SITE_CACHE_DIR", str(folder.parent / "dvc-site"))
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        for name in (".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        short_run(folder, "first")
        yield folder


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    subprocess.run(["cp", "-a", str(finished), str(tmp_path / "copy")], check=True)
    return tmp_path / "copy"


@pytest.fixture
def raft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Raft:
    """``raft(workspace, "lineage", …)``: exit code, standard output, standard error."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def call(workspace: Path, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("RAFT_WORKSPACE", str(workspace))
        code = exits.run_command(app, arguments)
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def asked(raft: Raft, workspace: Path, *arguments: str, code: int = 0) -> Any:
    found, out, err = raft(workspace, "lineage", *arguments, "--json")
    assert found == code, out + err
    return json.loads(out)


def the_run(workspace: Path) -> Run:
    return read_run(workspace / "runs" / "first")


def flip(path: Path) -> None:
    """One bit, the dates restored, as a bad disk does it; the file gets bytes of its own first."""
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def kinds(document: dict[str, Any]) -> list[str]:
    inside = [problem["kind"] for run in document["runs"].values() for problem in run["problems"]]
    return sorted(inside + [problem["kind"] for problem in document["problems"]])


# -- verify -------------------------------------------------------------------------------------------


def test_a_sound_run_verifies(finished: Path, raft: Raft) -> None:
    found = asked(raft, finished, "verify", "--remote")
    assert found["ok"]
    assert found["runs"]["first"]["num_commits"] == 3
    assert found["objects"] > 10
    assert found["unseen"] == []
    assert found["runs"]["first"]["unseen"] == []
    code, out, _ = raft(finished, "lineage", "verify", "raft-tiny", "--chain")
    assert code == 0
    assert "no problem" in out


def test_every_fault_is_named(workspace: Path, raft: Raft) -> None:
    run = the_run(workspace)
    flip(run.table(0, "samples"))
    remote = next(path for path in objects(workspace / ".dvc-remote" / "files" / "md5") if path.stat().st_size > 100)
    flip(remote)
    cached = next(path for path in objects(workspace / ".dvc" / "cache" / "files" / "md5") if path.suffix != ".dir")
    flip(cached)
    pointer = run.folder(1) / "policy.dvc"
    pointer.write_text(pointer.read_text().replace(pointer_md5(pointer), "0" * 32 + ".dir"))
    found = asked(raft, workspace, "verify", "--remote", code=exits.FAILED_STEP)
    assert kinds(found) == ["changed", "object", "object", "pointer"]
    assert str(run.table(0, "samples")) in json.dumps(found)
    code, out, _ = raft(workspace, "lineage", "verify", "--remote")
    assert code == exits.FAILED_STEP
    assert "4 problems" in out
    for path in (remote, cached, pointer):
        assert path.name in out.replace("\n", "")


def test_a_last_commit_forged_with_its_seal_disagrees_with_the_registry(workspace: Path, raft: Raft) -> None:
    from raft_core.files.artifacts import json_digest, write_json

    path = the_run(workspace).folder(1) / "commit.json"
    forged = {**json.loads(path.read_bytes()), "batch_plan": [[7]]}
    del forged["content"]
    write_json(path, {**forged, "content": json_digest(forged)})
    found = asked(raft, workspace, "verify", "--chain", code=exits.FAILED_STEP)
    assert kinds(found) == ["registry"]


def test_a_clone_says_what_it_could_not_see(workspace: Path, raft: Raft) -> None:
    run = the_run(workspace)
    for number in (-1, 0, 1):
        shutil.rmtree(run.folder(number) / "tables")
    shutil.rmtree(workspace / ".dvc" / "cache")
    found = asked(raft, workspace, "verify")
    assert found["ok"]
    assert any("dvc pull" in line for line in found["runs"]["first"]["unseen"])
    assert len(found["runs"]["first"]["unseen"]) > 10


# -- find, explain, diff, show ------------------------------------------------------------------------


def test_from_an_answer_to_its_prompt_and_its_rivals(finished: Path, raft: Raft) -> None:
    run = the_run(finished)
    chosen = read_table(run.table(0, "selected"), SELECTED).to_pylist()[0]
    found = asked(raft, finished, "find", "--text", chosen["completion"], "-n", "1000")
    mine = [use for use in found["samples"] if use["sample_id"] == chosen["sample_id"]]
    assert mine[0]["selected"]
    assert mine[0]["run"] == "first"
    assert {(m["iteration"], m["through"]) for m in found["models"]} >= {(0, None)}
    assert "raft-tiny/1" in {m["registered"] for m in found["models"]}
    assert found["iterations"][0]["committed"].startswith("20")
    why = asked(raft, finished, "explain", chosen["sample_id"][:10])
    assert (why["fate"], why["rank"]) == ("selected", 1)
    assert len(why["rivals"]) == 4
    assert max(r["reward"] for r in why["rivals"]) == why["reward"] == pytest.approx(sum(why["components"].values()))
    loser = why["rivals"][-1]["sample_id"]
    assert asked(raft, finished, "explain", loser, "--run", "first@0")["fate"] == "dropped"
    for arguments in (("find", "--prompt", chosen["prompt_id"]), ("explain", loser)):
        code, out, _ = raft(finished, "lineage", *arguments)
        assert code == 0
        assert chosen["sample_id"][:12] in out


def test_what_cannot_be_found(finished: Path, raft: Raft) -> None:
    assert asked(raft, finished, "find", "--text", "no such words at all")["iterations"] == []
    for arguments in (("find",), ("find", "--text", "a", "--prompt", "b"), ("explain", "nosuch")):
        assert raft(finished, "lineage", *arguments)[0] == exits.USERS_MISTAKE


def test_two_iterations_differ(finished: Path, raft: Raft) -> None:
    found = asked(raft, finished, "diff", "first@0", "first@1")
    assert (found["same"], found["ancestor"], found["settings"]) == (False, 0, {})
    assert asked(raft, finished, "diff", "raft-tiny", "first")["same"]
    code, out, _ = raft(finished, "lineage", "diff", "first@base", "first@1")
    assert code == 0
    assert "iteration 0" in out


def test_the_chain_from_any_end(finished: Path, raft: Raft, tmp_path: Path) -> None:
    run = the_run(finished)
    last = read_chain(run)[-1]
    taken_away = shutil.copy(run.table(0, "selected"), tmp_path / "mail.parquet")
    sent = shutil.copy(run.folder(1) / "policy.dvc", tmp_path / "policy-dvc.yaml")
    ends = {
        str(sent): 1,
        str(run.table(1, "samples")): 1,
        str(run.folder(0) / "policy"): 0,
        str(run.folder(0) / "policy.dvc"): 0,
        str(run.folder(1) / "report.json"): 1,
        str(taken_away): 0,
        last.digest[:12]: 1,
        last.content["policy"]["identity"]: 1,
        "raft-tiny@candidate": read_events(run, "finished")[-1]["best"],
        "first@0": 0,
    }
    for end, iteration in ends.items():
        found = asked(raft, finished, "show", end)
        assert found["run"] == "first"
        assert found["links"][0]["iteration"] == iteration, end
    facts = asked(raft, finished, "show", str(run.table(1, "samples")))["facts"]
    assert [fact for fact in facts if "bytes match" in fact]
    foreign = tmp_path / "foreign.txt"
    foreign.write_text("nobody made this")
    for end in (str(foreign), "abcdef012345", "nosuch"):
        assert raft(finished, "lineage", "show", end)[0] == exits.USERS_MISTAKE


def test_a_changed_file_is_called_so(workspace: Path, raft: Raft) -> None:
    flip(the_run(workspace).table(1, "samples"))
    found = asked(raft, workspace, "show", str(the_run(workspace).table(1, "samples")))
    assert any(fact.startswith("CHANGED") for fact in found["facts"])


# -- checkout, git and DVC ----------------------------------------------------------------------------


def test_an_iteration_comes_back_from_the_remote(workspace: Path, raft: Raft, tmp_path: Path) -> None:
    run = the_run(workspace)
    expected = read_chain(run)[1].outputs
    shutil.rmtree(run.folder(0) / "tables")
    flip(run.folder(0) / "policy" / "adapter_model.safetensors")
    shutil.rmtree(workspace / ".dvc" / "cache")
    done = asked(raft, workspace, "checkout", "first@0", "--to", str(tmp_path / "out"))
    assert done["restored"] == ["tables", "policy"]
    assert file_digest(tmp_path / "out" / "tables" / "samples.parquet") == expected["tables/samples.parquet"]
    (tmp_path / "out" / "tables" / "samples.parquet").write_bytes(b"mine now")
    assert asked(raft, workspace, "verify")["ok"]
    assert raft(workspace, "lineage", "checkout", "first@0", "--to", str(tmp_path / "out"))[0] == exits.USERS_MISTAKE


def test_git_clone_and_dvc_pull_bring_the_checkpoint(workspace: Path, raft: Raft, tmp_path: Path) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "add", "."], cwd=workspace, check=True)
    subprocess.run([*git, "commit", "-qm", "run"], cwd=workspace, check=True)
    tracked = subprocess.run(["git", "ls-files"], cwd=workspace, check=True, capture_output=True, text=True).stdout
    assert "runs/first/iterations/000/commit.json" in tracked
    assert not [name for name in tracked.splitlines() if name.endswith((".parquet", ".safetensors", ".duckdb"))]
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(workspace), str(clone)], check=True)
    shutil.rmtree(clone / ".dvc-remote", ignore_errors=True)
    shutil.copytree(workspace / ".dvc-remote", clone / ".dvc-remote")
    assert asked(raft, clone, "verify", "--chain")["ok"]
    with Repo(str(clone)) as repo:
        repo.pull([str(clone / "runs/first/iterations/001/policy.dvc")])
        shown = repo.metrics.show(targets=[str(clone / "runs/first/iterations/001/report.json")])
    (metrics,) = shown[""]["data"].values()
    assert metrics["data"]["reward"] == json.loads((the_run(clone).folder(1) / "report.json").read_bytes())["reward"]
    run = the_run(clone)
    found = asked(raft, clone, "verify")
    assert found["ok"]
    assert not any("001/policy " in line for line in found["runs"]["first"]["unseen"])
    weights = run.folder(1) / "policy" / "adapter_model.safetensors"
    assert file_digest(weights) == file_digest(the_run(workspace).folder(1) / "policy" / weights.name)


# -- forget -------------------------------------------------------------------------------------------


def test_forgetting_a_prompt(workspace: Path, raft: Raft) -> None:
    run = the_run(workspace)
    prompt = read_table(run.table(0, "prompts"), PROMPTS).to_pylist()[0]
    dry = asked(raft, workspace, "forget", "--prompt", prompt["prompt_id"])
    assert dry["done"] is None
    assert {(s["run"], s["iteration"]) for s in dry["plan"]["sets"]} >= {("first", 0)}
    assert not (workspace / "exclusions.jsonl").exists()
    with hold(run):
        assert raft(workspace, "lineage", "forget", "--prompt", prompt["prompt_id"], "-y")[0] == exits.USERS_MISTAKE
    assert not (workspace / "exclusions.jsonl").exists()

    shutil.copytree(workspace / ".dvc-remote", workspace / "old-store")  # the store of before it was moved
    settings = workspace / ".dvc" / "config"
    settings.write_text(settings.read_text() + f"['remote \"old\"']\n    url = {workspace / 'old-store'}\n")

    done = asked(raft, workspace, "forget", "--prompt", prompt["prompt_id"], "--erase", "-y")["done"]
    assert done["excluded"]
    assert done["withdrawn"] == [{"name": "raft-tiny", "version": "1", "aliases": ["candidate"]}]
    assert done["erased"]["rows"] >= 1 + 4 + 4 + 1
    assert done["erased"]["objects"] >= 6
    assert not [p for p in objects(workspace / "old-store") if holds(p, Target(frozenset([prompt["prompt_id"]])))]
    raw = prompt["text"].encode()
    checked = asked(raft, workspace, "verify", "--remote")
    assert checked["ok"], checked
    assert len(checked["runs"]["first"]["erased"]) >= 4
    assert prompt["prompt_id"] not in read_table(run.table(0, "samples"), SAMPLES)["prompt_id"].to_pylist()
    left = [p for p in workspace.rglob("*") if p.is_file() and raw in p.read_bytes() and "prompts.train" not in p.name]
    assert [path for path in left if not _other_prompt_holds(run, prompt)] == []
    assert asked(raft, workspace, "find", "--prompt", prompt["prompt_id"])["iterations"] == []
    entries = FileLedger(workspace / "ledger.jsonl").entries()
    assert [(e.kind, e.body["iteration"]) for e in entries][:2] == [("withdrawn", 0), ("withdrawn", 1)]
    assert {e.kind for e in entries[2:]} == {"erased"}
    assert all(e.body["by"] and prompt["prompt_id"] in e.body["reason"] for e in entries)
    again = asked(raft, workspace, "forget", "--prompt", prompt["prompt_id"], "--erase", "-y")["done"]
    assert FileLedger(workspace / "ledger.jsonl").entries() == entries
    assert (again["excluded"], again["erased"]["rows"]) == (False, 0)


def test_an_erasure_that_nobody_ordered(workspace: Path, raft: Raft) -> None:
    run = the_run(workspace)
    prompt = read_table(run.table(0, "prompts"), PROMPTS).to_pylist()[0]
    asked(raft, workspace, "forget", "--prompt", prompt["prompt_id"], "--erase", "-y")
    hidden = Erased(read_chain(run)[2].outputs["tables/validation.parquet"], "0" * 64, 1)
    write_tombstone(run.folder(1), {"tables/validation.parquet": hidden}, ["nobody"])
    assert "ledger" in kinds(asked(raft, workspace, "verify", code=exits.FAILED_STEP))
    (workspace / "ledger.jsonl").unlink()
    told = asked(raft, workspace, "verify", code=exits.FAILED_STEP)["problems"]
    assert {p["kind"] for p in told if p["iteration"] == 0} == {"ledger"}, "without a ledger nobody ordered it"


def _other_prompt_holds(run: Run, prompt: dict[str, Any]) -> bool:
    """Whether the text is a part of another prompt: then the bytes may well be found."""
    texts = [t for n in (0, 1) for t in read_table(run.table(n, "prompts"), PROMPTS)["text"].to_pylist()]
    return any(prompt["text"] in text for text in texts)


@pytest.mark.full
def test_a_later_run_leaves_it_out(workspace: Path, raft: Raft) -> None:
    drawn = read_table(the_run(workspace).table(0, "prompts"), PROMPTS).to_pylist()
    assert raft(workspace, "lineage", "forget", "--prompt", drawn[0]["prompt_id"], "-y")[0] == 0
    short_run(workspace, "later")
    later = read_run(workspace / "runs" / "later")
    for number in (0, 1):
        ids = read_table(later.table(number, "prompts"), PROMPTS)["prompt_id"].to_pylist()
        assert drawn[0]["prompt_id"] not in ids
    record = later.path / "exclusions.json"
    assert json.loads(record.read_text()) == {"prompts": [drawn[0]["prompt_id"]]}
    assert {commit.content["exclusions"] for commit in read_chain(later)} == {file_digest(record)}


@pytest.mark.full
def test_a_run_is_reproduced_and_a_difference_is_sized(workspace: Path, raft: Raft, tmp_path: Path) -> None:
    found = asked(raft, workspace, "reproduce", "first")
    assert found["same"], found
    assert (found["commits"], found["same_commits"]) == (3, 3)
