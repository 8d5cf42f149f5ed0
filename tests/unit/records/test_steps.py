"""A step is done once: reused by content, never by name, and never if its bytes changed."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raft_core import imports
from raft_core.files.artifacts import digest_of
from raft_core.imports import code_digest
from raft_core.policies.base import MODALITIES
from raft_core.records.steps import StepKey, StepRecord, run_cached

KEY = StepKey("sample", {"policy": "abc", "prompts": None}, {"k": 8}, "code", {"dtype": "float32"}, seed=3)


class Counting:
    """A step that writes a file and a folder, and counts how often it ran."""

    def __init__(self, runs: Path) -> None:
        self.runs, self.count = runs, 0

    def do(self, run: str, key: StepKey = KEY) -> StepRecord:
        outputs = self.outputs(run)

        def compute() -> None:
            self.count += 1
            outputs["table"].parent.mkdir(parents=True, exist_ok=True)
            outputs["table"].write_text(f"table of {key.digest}")
            outputs["policy"].mkdir(parents=True)
            (outputs["policy"] / "weights").write_text("weights")

        return run_cached(self.runs, key, outputs, compute)

    def outputs(self, run: str) -> dict[str, Path]:
        return {"table": self.runs / run / "tables" / "t.parquet", "policy": self.runs / run / "policy"}


@pytest.fixture
def step(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "runs")


def test_the_first_time_it_is_computed(step: Counting) -> None:
    record = step.do("a")
    assert not record.reused
    assert record.key == KEY.digest
    assert record.outputs == {name: digest_of(path) for name, path in step.outputs("a").items()}


def test_in_the_same_run_it_is_left_alone(step: Counting) -> None:
    first = step.do("a")
    before = step.outputs("a")["table"].stat()
    again = step.do("a")
    assert again == replace(first, reused=True)
    assert step.count == 1
    assert step.outputs("a")["table"].stat().st_mtime_ns == before.st_mtime_ns


def test_another_run_shares_the_bytes(step: Counting) -> None:
    first, other = step.do("a"), step.do("b")
    assert (other.reused, other.outputs) == (True, first.outputs)
    assert step.count == 1
    assert step.outputs("b")["table"].samefile(step.outputs("a")["table"])
    assert (step.outputs("b")["policy"] / "weights").samefile(step.outputs("a")["policy"] / "weights")


@pytest.mark.parametrize(
    "changed",
    [
        replace(KEY, step="score"),
        replace(KEY, inputs={"policy": "abd", "prompts": None}),
        replace(KEY, inputs={"policy": "abc"}),
        replace(KEY, settings={"k": 9}),
        replace(KEY, code="other"),
        replace(KEY, numerics={"dtype": "bfloat16"}),
        replace(KEY, seed=4),
    ],
    ids=["step", "input", "fewer inputs", "settings", "code", "numerics", "seed"],
)
def test_whatever_can_change_the_bytes_changes_the_key(step: Counting, changed: StepKey) -> None:
    step.do("a")
    assert not step.do("b", changed).reused
    assert step.count == 2


def test_the_key_is_the_same_on_every_machine() -> None:
    turned = replace(KEY, inputs=dict(reversed(KEY.inputs.items())))
    assert turned.digest == KEY.digest
    assert KEY.digest == "6cf1b1aa46c5fa2573dcba35baba8c5208be572883de64ec0e9243a2d2221637"


def test_tampered_bytes_are_not_reused(step: Counting) -> None:
    first = step.do("a")
    (step.outputs("a")["policy"] / "weights").write_text("poison!")
    other = step.do("b")
    assert not other.reused
    assert other.outputs == first.outputs
    assert step.count == 2


@pytest.mark.parametrize("name", ["link", "more"])
def test_a_folder_with_something_added_is_not_reused(step: Counting, name: str) -> None:
    step.do("a")
    added = step.outputs("a")["policy"] / name
    added.symlink_to("weights") if name == "link" else added.write_text("")
    assert not step.do("b").reused


def test_a_tampered_output_of_its_own_is_restored(step: Counting) -> None:
    first = step.do("a")
    step.do("b")
    target = step.outputs("b")["table"]
    target.unlink()
    target.write_text("tampered")
    again = step.do("b")
    assert (again.reused, again.outputs) == (True, first.outputs)
    assert digest_of(target) == first.outputs["table"]
    assert step.count == 1


def test_half_an_output_is_done_again(step: Counting) -> None:
    step.do("a")
    shutil.rmtree(step.outputs("a")["policy"])
    assert not step.do("a").reused
    assert step.count == 2


def test_a_run_that_was_removed_is_no_source(step: Counting) -> None:
    step.do("a")
    shutil.rmtree(step.runs / "a")
    assert not step.do("b").reused
    assert step.do("c").reused


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "3", "{}", '{"table": 1, "policy": 2}', '{"table": {}, "policy": {}}', "\udcff"]
)
def test_a_spoilt_index_costs_a_computation_and_no_more(step: Counting, content: str) -> None:
    first = step.do("a")
    (step.runs / ".steps" / f"{KEY.digest}.json").write_text(content, errors="surrogateescape")
    assert step.do("b").outputs == first.outputs
    assert step.count == 2
    assert step.do("c").reused


def test_a_failed_computation_leaves_no_entry(step: Counting) -> None:
    def fail() -> None:
        raise RuntimeError("oops")

    with pytest.raises(RuntimeError, match="oops"):
        run_cached(step.runs, KEY, step.outputs("a"), fail)
    assert not (step.runs / ".steps").exists()
    assert not step.do("a").reused


def test_what_lay_there_from_a_killed_attempt_is_cleared_away(step: Counting) -> None:
    leftover = step.outputs("a")["policy"]
    leftover.mkdir(parents=True)
    (leftover / "half").write_text("")
    assert not step.do("a").reused
    assert not (leftover / "half").exists()


# -- the code that a step runs -------------------------------------------------------------------


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Modules of an imaginary package, by name."""
    known: dict[str, str] = {}
    monkeypatch.setattr(imports, "source_of", lambda name: known[name].encode() if name in known else None)
    code_digest.cache_clear()
    yield known
    code_digest.cache_clear()


def digest(*modules: str) -> str:
    code_digest.cache_clear()
    return code_digest(*modules)


def test_code_follows_imports(sources: dict[str, str]) -> None:
    sources.update(
        {
            "raft_core.a": "from raft_core import b\nimport numpy",
            "raft_core.b": "import raft_core.c",
            "raft_core.c": "x = 1",
            "raft_core.d": "y = 1",
            "numpy": "z = 1",
        }
    )
    before = digest("raft_core.a")
    sources["raft_core.d"] = sources["numpy"] = "changed = 1"
    assert digest("raft_core.a") == before
    sources["raft_core.c"] = "x = 2"
    assert digest("raft_core.a") != before


def test_code_follows_imports_inside_functions_and_in_circles(sources: dict[str, str]) -> None:
    sources.update({"raft_core.a": "def f():\n    from raft_core.b import g", "raft_core.b": "import raft_core.a"})
    before = digest("raft_core.a")
    sources["raft_core.b"] += "\n"
    assert digest("raft_core.a") != before


def test_code_of_real_modules() -> None:
    best, top = code_digest("raft_core.selection.best_of_k"), code_digest("raft_core.selection.top_fraction")
    assert best != top
    assert len(best) == 64


def test_what_only_a_type_checker_imports_is_not_followed(sources: dict[str, str]) -> None:
    lines = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import raft_core.b\nelse:\n    import raft_core.c\n"
    )
    sources.update({"raft_core.a": lines, "raft_core.b": "x = 1", "raft_core.c": "x = 1"})
    before = digest("raft_core.a")
    sources["raft_core.b"] = "x = 2"
    assert digest("raft_core.a") == before
    sources["raft_core.c"] = "x = 2"
    assert digest("raft_core.a") != before


def test_our_registries_are_left_out_and_no_others(sources: dict[str, str]) -> None:
    ours, theirs = "raft_core.metrics.registry", "raft_core.other.registry"
    sources.update({"raft_core.a": f"import {ours}\nimport {theirs}", ours: "x = 1", theirs: "x = 1"})
    before = digest("raft_core.a")
    sources[ours] = "x = 2"
    assert digest("raft_core.a") == before
    sources[theirs] = "x = 2"
    assert digest("raft_core.a") != before


@pytest.mark.parametrize("kind", MODALITIES)
def test_keys_cover_nothing_that_cannot_change_their_bytes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling and training know no gate, metric, selector, promotion rule or example."""
    read: list[str] = []
    real = imports.source_of
    monkeypatch.setattr(imports, "source_of", lambda name: read.append(name) or real(name))
    for code in (MODALITIES[kind].sampler.CODE, MODALITIES[kind].likelihood.CODE, MODALITIES[kind].trainer.CODE):
        digest(*code)
    digest("raft_core.rewards.score")
    code_digest.cache_clear()
    rooms = ("config.gates", "config.run", "metrics", "selection", "promotion", "examples", "evaluation", "gates")
    strangers = [name for name in set(read) if name.removeprefix("raft_core.").startswith(rooms) and real(name)]
    assert [name for name in strangers if name not in imports.REGISTRIES] == []


def test_code_that_does_not_exist_is_no_key() -> None:
    with pytest.raises(ValueError, match=r"no Python source of raft_core\.nothing"):
        code_digest("raft_core.nothing")
