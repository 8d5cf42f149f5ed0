"""The chain from a policy back to its prompts, on a run made by hand."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from raft_core.audit.lineage import Counts, lineage
from raft_core.errors import InputError, IntegrityError
from raft_core.files.artifacts import canonical_json, digest_of, file_digest
from raft_core.forgetting.erasure import TOMBSTONE, Erased, write_tombstone
from raft_core.records.run import BASE, Run, record_event
from raft_core.records.tables import SAMPLES, read_table, write_table

Forge = Callable[[int, dict[str, object]], None]


def test_the_chain_of_the_best_policy(synthetic_run: Run, base_policy: Path) -> None:
    found = lineage(synthetic_run)
    assert (found.run, found.chosen) == ("made", "best of the run")
    assert [link.iteration for link in found.links] == [1, 0, BASE]
    best, first, base = found.links
    assert best.commit == file_digest(synthetic_run.folder(1) / "commit.json")
    assert (best.parent, first.parent, base.parent) == (first.commit, base.commit, None)
    assert (best.sampled_from, first.sampled_from) == (first.policy.identity, base.policy.identity)
    assert base.sampled_from is None
    assert base.policy.digest == digest_of(base_policy) == best.policy.base
    assert base.policy.source == str(base_policy)
    assert best.policy.digest == best.outputs["policy"]
    assert best.reward == pytest.approx(0.2)
    assert best.counts == Counts(prompts=3, samples=6, selected=3, quarantined=None)
    assert base.counts == Counts(None, None, None, None)
    assert best.prompt_sources == {"books": 1, "films": 2}
    assert list(best.steps) == ["evaluate", "finetune", "sample"]
    assert best.steps["finetune"].key == "finetune 1"
    assert best.steps["finetune"].inputs == {
        "policy": first.policy.identity,
        "selected": best.outputs["tables/selected.parquet"],
    }
    assert best.steps["finetune"].outputs == {"policy": best.policy.digest}
    assert best.elsewhere == ()


def test_any_iteration_may_be_asked_for(synthetic_run: Run) -> None:
    assert [link.iteration for link in lineage(synthetic_run, 2).links] == [2, 1, 0, BASE]
    assert [link.iteration for link in lineage(synthetic_run, BASE).links] == [BASE]
    with pytest.raises(InputError, match="no commit of iteration 3"):
        lineage(synthetic_run, 3)


def test_an_unfinished_run_begins_at_its_last_commit(synthetic_run: Run) -> None:
    (synthetic_run.folder(2) / "commit.json").unlink()
    found = lineage(synthetic_run)
    assert (found.chosen, found.links[0].iteration) == ("last commit", 1)


def test_the_best_is_never_read_from_the_event_log(synthetic_run: Run) -> None:
    for best in (0, 2, -1, 10**30, "x", None):
        record_event(synthetic_run, "finished", status="completed", best=best, reason="forged")
        assert lineage(synthetic_run).links[0].iteration == 1
    (synthetic_run.path / "events.jsonl").unlink()
    assert lineage(synthetic_run).links[0].iteration == 1


def test_the_best_is_never_read_from_a_report_that_was_edited(synthetic_run: Run) -> None:
    (synthetic_run.folder(2) / "report.json").write_text('{"iteration": 2, "reward": 9.0}')
    with pytest.raises(IntegrityError, match="changed bytes"):
        lineage(synthetic_run)


def test_a_run_without_a_commit(synthetic_run: Run) -> None:
    for path in list(synthetic_run.path.rglob("commit.json")):
        path.unlink()
    with pytest.raises(InputError, match="no commit"):
        lineage(synthetic_run, 0)


def test_a_clone_with_pointers_alone(synthetic_run: Run) -> None:
    whole = lineage(synthetic_run, 1)
    for name in ("tables", "policy"):
        shutil.rmtree(synthetic_run.folder(1) / name)
    link = lineage(synthetic_run, 1).links[0]
    assert link.counts == Counts(None, None, None, None)
    assert link.prompt_sources is None
    assert link.elsewhere == tuple(name for name in link.outputs if name != "report.json")
    assert (link.commit, link.policy, link.reward) == (
        whole.links[0].commit,
        whole.links[0].policy,
        whole.links[0].reward,
    )


def test_it_can_be_printed_as_json(synthetic_run: Run) -> None:
    assert canonical_json(asdict(lineage(synthetic_run)))


def test_an_edited_commit_breaks_the_chain(synthetic_run: Run, forge_commit: Forge) -> None:
    forge_commit(0, {"numerics": {"device": "gpu"}})
    with pytest.raises(IntegrityError, match="broken chain"):
        lineage(synthetic_run)


def test_a_commit_that_cannot_be_followed(synthetic_run: Run, forge_commit: Forge) -> None:
    forge_commit(2, {"policy": {"digest": "x"}})
    with pytest.raises(IntegrityError, match="edited or foreign commit"):
        lineage(synthetic_run, 2)


def test_a_cut_table(synthetic_run: Run) -> None:
    path = synthetic_run.table(1, "samples")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(IntegrityError, match=r"samples\.parquet"):
        lineage(synthetic_run)


def test_what_was_erased_still_counts(synthetic_run: Run) -> None:
    folder, path = synthetic_run.folder(1), synthetic_run.table(1, "samples")
    whole, was = path.read_bytes(), file_digest(path)
    for count in (2, 1):  # twice: the tombstone adds up
        write_table(path, read_table(path, SAMPLES).slice(count), SAMPLES)
        write_tombstone(folder, {"tables/samples.parquet": Erased(was, file_digest(path), count)}, ["prompt 1"])
    best, first, _ = lineage(synthetic_run).links
    assert best.counts == Counts(3, 6, 3, None, {"samples": 3})
    assert first.counts == Counts(3, 6, 3, None)
    path.write_bytes(whole)  # a kill before the new table was in place, or rows that came back
    assert lineage(synthetic_run).links[0].counts == Counts(3, 6, 3, None)


def test_a_tombstone_that_does_not_hold_counts_for_nothing(synthetic_run: Run) -> None:
    folder, path = synthetic_run.folder(1), synthetic_run.table(1, "samples")
    write_tombstone(folder, {"tables/samples.parquet": Erased("0" * 64, file_digest(path), 4)}, ["prompt 1"])
    assert lineage(synthetic_run, 1).links[0].counts.samples == 10
    shutil.copy(folder / TOMBSTONE, synthetic_run.folder(0) / TOMBSTONE)
    shutil.copy(path, synthetic_run.table(0, "samples"))
    assert lineage(synthetic_run, 0).links[0].counts == Counts(3, 6, 3, None)
    edited = (folder / TOMBSTONE).read_text().replace('"rows": 4', '"rows": 5').replace('"rows":4', '"rows":5')
    (folder / TOMBSTONE).write_text(edited)
    assert lineage(synthetic_run).links[0].counts == Counts(3, 6, 3, None)
