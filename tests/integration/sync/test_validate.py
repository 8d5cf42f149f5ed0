"""The suites on real Great Expectations: each check is met by a table that breaks it and nothing else."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import pandas as pd
import pyarrow as pa
import pytest

from raft_core.config.run import RaftConfig
from raft_core.errors import GateStop, StepError
from raft_core.records import tables
from tasks.validation.gx_frames import Measures, TextMeasures, measures_of
from tasks.validation.gx_results import GxFrame, run
from tasks.validation.validate import apply_quarantine, validate_samples, validate_scored, validate_selected

Rows = list[dict[str, Any]]
MakeTable = Callable[[str, Any], pa.Table]
MakeConfig = Callable[..., RaftConfig]
META = {"check": "pattern", "level": "row", "expected": "no match", "key": "validation.forbidden_pattern"}


def stopped(checked: Any) -> set[str]:
    return {result.check for result in checked.stop}


def quarantined(checked: Any) -> list[tuple[str, str]]:
    return [(row["sample_id"], row["check"]) for row in checked.quarantine.to_pylist()]


def failed_checks(checked: Any) -> set[str]:
    return {row["check"] for row in checked.checks.to_pylist() if not row["passed"]}


@pytest.fixture
def check_samples(make_table: MakeTable, make_config: MakeConfig, prompts_table: pa.Table) -> Callable[..., Any]:
    def check(rows: Rows, previous: Measures | None = None, **validation: Any) -> Any:
        table = make_table("samples", rows)
        return validate_samples(table, prompts_table, make_config(validation=validation), previous)

    return check


@pytest.fixture
def check_scored(make_table: MakeTable, make_config: MakeConfig, samples: Rows) -> Callable[..., Any]:
    def check(rows: Rows, **validation: Any) -> Any:
        config = make_config(validation=validation)
        return validate_scored(make_table("scored", rows), make_table("samples", samples), config)

    return check


@pytest.fixture
def check_selected(make_table: MakeTable, make_config: MakeConfig, prompts_table: pa.Table) -> Callable[..., Any]:
    def check(rows: Rows, held_out: frozenset[str] = frozenset(), previous: Any = None, **validation: Any) -> Any:
        config = make_config(validation=validation)
        return validate_selected(make_table("selected", rows), prompts_table, held_out, config, previous)

    return check


class TestSamples:
    def test_sound_samples_pass_and_the_tables_fit(self, check_samples: Callable[..., Any], samples: Rows) -> None:
        checked = check_samples(samples, forbidden_pattern="(#|@)")
        assert failed_checks(checked) == set()
        assert checked.checks.schema == tables.VALIDATION
        assert checked.quarantine.schema == tables.QUARANTINE
        assert checked.quarantine.num_rows == 0
        assert checked.measures["mean_length"] == 4.0
        json.dumps(checked.raw)

    def test_the_same_tables_twice_are_the_same_result(self, check_samples: Callable[..., Any], samples: Rows) -> None:
        samples[3]["completion"] = ""
        first, second = check_samples(samples), check_samples(samples)
        assert first.checks.equals(second.checks)
        assert first.quarantine.equals(second.quarantine)

    @pytest.mark.parametrize(
        ("changes", "check"),
        [
            ({"completion": " \n\t"}, "completion_chars"),
            ({"prompt_token_ids": []}, "empty_prompt"),
            ({"finish_reason": "error"}, "finish_reason"),
            ({"logprobs": [-1.0] * 3}, "logprobs_per_token"),
            ({"sampling_logprobs": [-1.0] * 5}, "sampling_logprobs_per_token"),
            ({"logprobs": [-1.0, math.nan, -1.0, -1.0]}, "logprobs_valid"),
            ({"logprobs": [-1.0, -math.inf, -1.0, -1.0]}, "logprobs_valid"),
            ({"sampling_logprobs": [-1.0, 0.5, -1.0, -1.0]}, "logprobs_valid"),
            ({"completion": "so good #blessed"}, "forbidden_pattern"),
        ],
    )
    def test_a_bad_sample_is_quarantined_alone(
        self, check_samples: Callable[..., Any], samples: Rows, changes: dict[str, Any], check: str
    ) -> None:
        samples[5] |= changes
        checked = check_samples(samples, forbidden_pattern="(#|@)", max_forbidden_share=0.1)
        assert quarantined(checked) == [(samples[5]["sample_id"], check)]
        assert stopped(checked) == set()

    def test_too_many_tokens_and_none_at_all(self, check_samples: Callable[..., Any], samples: Rows) -> None:
        for row, length in ((samples[0], 9), (samples[1], 0)):
            row |= {name: [-1.0] * length for name in ("logprobs", "sampling_logprobs")}
            row["completion_token_ids"] = [1] * length
        checked = check_samples(samples)
        assert quarantined(checked) == [
            (samples[0]["sample_id"], "num_tokens"),
            (samples[1]["sample_id"], "num_tokens"),
        ]
        assert checked.quarantine["reason"][0].as_py() == "num_tokens is 9; expected 1 to 8"

    def test_nulls_do_not_slip_through(self, check_samples: Callable[..., Any], samples: Rows) -> None:
        samples[2] |= {"completion": None, "completion_token_ids": None, "finish_reason": None}
        checked = check_samples(samples)
        found = {check for _, check in quarantined(checked)}
        assert found >= {"completion_chars_present", "num_tokens_present", "finish_reason_present"}
        assert {sample for sample, _ in quarantined(checked)} == {samples[2]["sample_id"]}

    def test_an_empty_table_stops(self, check_samples: Callable[..., Any]) -> None:
        assert stopped(check_samples([])) >= {"row_count", "samples_per_prompt"}

    def test_k_counts_every_status(self, check_samples: Callable[..., Any], samples: Rows) -> None:
        samples[4] |= {"status": "quarantined", "reason": "the endpoint was away"}
        checked = check_samples(samples)
        assert stopped(checked) == set()
        assert checked.quarantine.to_pylist() == [
            {
                "sample_id": samples[4]["sample_id"],
                "prompt_id": samples[4]["prompt_id"],
                "stage": "samples",
                "check": "sampling",
                "reason": "the endpoint was away",
            }
        ]
        assert stopped(check_samples(samples[:4] + samples[5:])) == {"row_count", "samples_per_prompt"}

    def test_a_sample_that_came_quarantined_is_not_judged_again(
        self, check_samples: Callable[..., Any], samples: Rows
    ) -> None:
        samples[4] |= {"status": "quarantined", "reason": "failed", "completion": "", "finish_reason": "error"}
        assert quarantined(check_samples(samples)) == [(samples[4]["sample_id"], "sampling")]

    def test_identities(self, check_samples: Callable[..., Any], samples: Rows) -> None:
        samples[1]["sample_id"] = samples[0]["sample_id"]
        assert stopped(check_samples(samples)) == {"sample_unique"}
        samples[1] |= {"sample_id": "other", "prompt_id": "of another iteration"}
        assert stopped(check_samples(samples)) == {"prompt_known", "samples_per_prompt"}

    def test_shares(self, check_samples: Callable[..., Any], samples: Rows) -> None:
        for row in samples[:3]:
            row |= {"completion": "the same", "finish_reason": "length"}
        assert stopped(check_samples(samples, max_duplicate_share=0.25, min_stop_share=0.75)) == set()
        assert stopped(check_samples(samples, max_duplicate_share=0.24)) == {"duplicate_share"}
        assert stopped(check_samples(samples, min_stop_share=0.76)) == {"stop_share"}

    def test_equal_texts_of_other_prompts_are_no_duplicates(
        self, check_samples: Callable[..., Any], samples: Rows
    ) -> None:
        for row in samples:
            row["completion"] = f"kind {row['k']}"
        assert stopped(check_samples(samples, max_duplicate_share=0.0)) == set()

    def test_the_quarantined_share_stops(self, check_samples: Callable[..., Any], samples: Rows) -> None:
        for row in samples[::4]:
            row["completion"] = ""
        assert stopped(check_samples(samples, max_quarantined_share=0.25)) == set()
        checked = check_samples(samples, max_quarantined_share=0.2)
        assert stopped(checked) == {"quarantined_share"}
        for row in samples:
            row["completion"] = ""
        limits = {"max_quarantined_share": 1.0, "max_duplicate_share": 1.0}
        assert stopped(check_samples(samples, **limits)) == {"any_valid"}

    def test_the_forbidden_share_stops(self, check_samples: Callable[..., Any], samples: Rows) -> None:
        for row in samples[:3]:
            row["completion"] += " #"
        assert stopped(check_samples(samples, forbidden_pattern="#", max_forbidden_share=0.25)) == set()
        checked = check_samples(samples, forbidden_pattern="#", max_forbidden_share=0.2)
        assert stopped(checked) == {"forbidden_share"}
        assert len(quarantined(checked)) == 3

    def test_length_drift_and_surge_need_an_iteration_before(
        self, check_samples: Callable[..., Any], samples: Rows
    ) -> None:
        before = TextMeasures(1.0, {"#": 0.0, "@": 0.0})
        checked = check_samples(samples, Measures(before, before), max_length_drift=3.9)
        assert stopped(checked) == {"length_drift"}
        assert stopped(check_samples(samples, Measures(before, before), max_length_drift=4.0)) == set()

    def test_the_hashes_of_the_paper_are_seen(
        self, check_samples: Callable[..., Any], samples: Rows, make_table: MakeTable, make_config: MakeConfig
    ) -> None:
        table = make_table("samples", samples)
        previous = measures_of(table, table, make_config())
        for row in samples:
            row["completion"] += "#####"
        checked = check_samples(samples, previous, max_surge=0.1)
        assert stopped(checked) == {"character_surge"}
        assert checked.stop[0].names == ["#"]
        assert stopped(check_samples(samples, previous, max_surge=0.25)) == set()

    def test_wrong_columns_stop_before_anything_else(
        self, make_table: MakeTable, make_config: MakeConfig, samples: Rows, prompts_table: pa.Table
    ) -> None:
        table = make_table("samples", samples)
        checked = validate_samples(table.drop_columns(["seed"]), prompts_table, make_config())
        assert stopped(checked) == {"columns"}
        retyped = table.set_column(2, "k", table["k"].cast(pa.float64()))
        checked = validate_samples(retyped, prompts_table, make_config())
        assert stopped(checked) == {"types"}
        assert checked.stop[0].values == ["column is k, type is double"]

    def test_a_check_that_cannot_be_computed_is_not_bad_data(self) -> None:
        broken = {"rows": [gxe.ExpectColumnValuesToNotMatchRegex(column="completion", regex="(", meta=META)]}
        frame = GxFrame(pd.DataFrame({"completion": ["text"]}), pa.array(["s0"]))
        with pytest.raises(StepError, match="'pattern'") as failed:
            run(broken, {"rows": frame})
        assert failed.value.hint is not None
        assert "validation.forbidden_pattern" in failed.value.hint

    def test_every_bad_row_is_named(
        self, make_table: MakeTable, make_config: MakeConfig, samples: Rows, prompts_table: pa.Table
    ) -> None:
        many = [{**samples[0], "sample_id": f"{i}", "completion": "" if i % 3 else "text"} for i in range(1500)]
        checked = validate_samples(make_table("samples", many), prompts_table, make_config())
        assert [row["sample_id"] for row in checked.quarantine.to_pylist()] == [str(i) for i in range(1500) if i % 3]


class TestScored:
    def test_sound_scores_pass(self, check_scored: Callable[..., Any], scored: Rows) -> None:
        checked = check_scored(scored, reward_min=0.0, reward_max=0.5)
        assert failed_checks(checked) == set()
        assert checked.measures == {"mean_reward": 0.25}

    @pytest.mark.parametrize(
        ("reward", "check"),
        [
            (None, "reward_present"),
            (math.nan, "reward_present"),
            (math.inf, "reward_finite"),
            (-math.inf, "reward_finite"),
            (-0.01, "reward_min"),
            (0.51, "reward_max"),
        ],
    )
    def test_a_bad_reward_is_quarantined(
        self, check_scored: Callable[..., Any], scored: Rows, reward: float | None, check: str
    ) -> None:
        scored[7]["reward"] = reward
        checked = check_scored(scored, reward_min=0.0, reward_max=0.5)
        assert (scored[7]["sample_id"], check) in quarantined(checked)
        assert {sample for sample, _ in quarantined(checked)} == {scored[7]["sample_id"]}
        assert stopped(checked) == set()

    def test_a_sample_without_score_has_its_reason(self, check_scored: Callable[..., Any], scored: Rows) -> None:
        scored[0] |= {"status": "quarantined", "reason": "lexicon raised ValueError", "reward": None}
        checked = check_scored(scored)
        assert checked.quarantine.select(["check", "reason"]).to_pylist() == [
            {"check": "scoring", "reason": "lexicon raised ValueError"}
        ]
        assert stopped(checked) == set()

    def test_rows_must_be_those_of_the_samples(self, check_scored: Callable[..., Any], scored: Rows) -> None:
        assert stopped(check_scored(scored[1:])) == {"row_count"}
        scored[0]["sample_id"] = "unknown"
        assert stopped(check_scored(scored)) == {"sample_known"}
        scored[0]["sample_id"] = scored[1]["sample_id"]
        assert stopped(check_scored(scored)) == {"sample_unique"}

    def test_a_score_under_another_prompt_stops(self, check_scored: Callable[..., Any], scored: Rows) -> None:
        scored[0]["prompt_id"] = scored[3]["prompt_id"]
        assert stopped(check_scored(scored)) == {"sample_known"}

    def test_ties(self, check_scored: Callable[..., Any], scored: Rows) -> None:
        for row in scored[:3]:
            row["reward"] = 0.5
        assert stopped(check_scored(scored, max_tie_share=0.25)) == set()
        checked = check_scored(scored, max_tie_share=0.24)
        assert stopped(checked) == {"tie_share"}
        assert checked.stop[0].names == [scored[0]["prompt_id"]]

    @pytest.mark.parametrize(
        ("selection", "rewards", "signal"),
        [
            ({"type": "best_of_k"}, [0.5] * 12, 0.0),
            ({"type": "best_of_k"}, [0.1] * 3 + [0.2] * 3 + [0.3] * 3 + [0.4] * 3, 0.0),
            ({"type": "best_of_k"}, [0.0] * 11 + [1.0], 0.25),
            ({"type": "top_fraction", "fraction": 0.5}, [0.5] * 12, 0.0),
            ({"type": "top_fraction", "fraction": 0.5}, [0.1] * 6 + [0.2] * 6, 0.5),
            ({"type": "all_best"}, [1.0] * 9 + [0.0] * 3, 0.25),
            ({"type": "threshold", "threshold": 0.5}, [0.6, 0.7, 0.8] * 4, 0.0),
            ({"type": "threshold", "threshold": 0.5}, [0.6, 0.7, 0.4] * 4, 1.0),
        ],
    )
    def test_prompts_without_signal(
        self,
        make_table: MakeTable,
        make_config: MakeConfig,
        samples: Rows,
        scored: Rows,
        selection: dict[str, Any],
        rewards: list[float],
        signal: float,
    ) -> None:
        for row, reward in zip(scored, rewards, strict=True):
            row["reward"] = reward
        tables_of = make_table("scored", scored), make_table("samples", samples)

        def check(least: float) -> Any:
            return validate_scored(*tables_of, make_config(selection=selection, validation={"min_signal_share": least}))

        assert stopped(check(signal)) == set()
        if signal < 1:
            assert stopped(check(signal + 0.01)) == {"signal_share"}

    def test_a_constant_reward_stops_by_default_and_says_what_to_try(
        self, check_scored: Callable[..., Any], scored: Rows, tmp_path: Path
    ) -> None:
        for row in scored:
            row["reward"] = 0.5
        with pytest.raises(GateStop) as stop:
            check_scored(scored).raise_if_stopped(tmp_path / "report.md")
        assert "signal_share: 4 of 4 rows fail" in str(stop.value.got)
        for key in ("sampling.samples_per_prompt", "sampling.temperature", "validation.min_signal_share"):
            assert key in (stop.value.hint or "")
        assert "signal_share" in (tmp_path / "report.md").read_text()

    def test_usable_prompts(self, check_scored: Callable[..., Any], scored: Rows) -> None:
        for row in scored[:2] + scored[3:5]:
            row["reward"] = None
        limits = {"min_valid_per_prompt": 2, "max_quarantined_share": 1.0}
        assert stopped(check_scored(scored, **limits, min_prompt_coverage=0.5)) == set()
        assert stopped(check_scored(scored, **limits, min_prompt_coverage=0.51)) == {"usable_prompts"}

    def test_rewards_that_are_all_null_stop(self, check_scored: Callable[..., Any], scored: Rows) -> None:
        for row in scored:
            row["reward"] = None
        assert stopped(check_scored(scored, max_quarantined_share=1.0)) == {"any_valid", "usable_prompts"}


class TestSelected:
    def test_a_sound_set_passes(self, check_selected: Callable[..., Any], selected: Rows) -> None:
        checked = check_selected(selected, held_out=frozenset({"elsewhere"}), forbidden_pattern="#")
        assert failed_checks(checked) == set()

    @pytest.mark.parametrize(
        ("changes", "check"),
        [
            ({"reward": math.nan}, "reward_present"),
            ({"reward": math.inf}, "reward_finite"),
            ({"weight": 0.0}, "weight_positive"),
            ({"weight": math.inf}, "weight_positive"),
            ({"rank": -1}, "rank_range"),
            ({"completion": ""}, "completion_chars"),
            ({"sampling_logprobs": [-1.0]}, "sampling_logprobs_per_token"),
            ({"prompt_id": "unknown"}, "prompt_known"),
            ({"completion": "#"}, "forbidden_pattern"),
        ],
    )
    def test_every_failure_stops(
        self, check_selected: Callable[..., Any], selected: Rows, changes: dict[str, Any], check: str
    ) -> None:
        selected[1] |= changes
        checked = check_selected(selected, forbidden_pattern="#")
        assert check in stopped(checked)
        assert checked.quarantine.num_rows == 0

    def test_nothing_selected_stops(self, check_selected: Callable[..., Any]) -> None:
        assert stopped(check_selected([])) == {"row_count", "prompt_coverage"}

    def test_twice_selected_stops(self, check_selected: Callable[..., Any], selected: Rows) -> None:
        assert stopped(check_selected([*selected, selected[0]])) == {"sample_unique"}

    def test_prompt_coverage(self, check_selected: Callable[..., Any], selected: Rows) -> None:
        assert stopped(check_selected(selected[:2], min_prompt_coverage=0.5)) == set()
        assert stopped(check_selected(selected[:2], min_prompt_coverage=0.51)) == {"prompt_coverage"}

    def test_held_out_prompts_are_not_trained_on(self, check_selected: Callable[..., Any], selected: Rows) -> None:
        held_out = frozenset({selected[2]["prompt_id"]})
        checked = check_selected(selected, held_out)
        assert stopped(checked) == {"held_out_overlap"}
        assert checked.stop[0].names == [selected[2]["prompt_id"]]
        assert stopped(check_selected(selected, held_out, max_held_out_overlap=0.25)) == set()

    def test_drift_is_held_against_the_selected_set_before(
        self, check_selected: Callable[..., Any], selected: Rows
    ) -> None:
        sampled, chosen = TextMeasures(4.0, {}), TextMeasures(20.0, {})
        assert stopped(check_selected(selected, previous=Measures(sampled, chosen))) == {"length_drift"}


def test_quarantine_is_applied(
    check_samples: Callable[..., Any], samples: Rows, scored: Rows, make_table: MakeTable
) -> None:
    samples[5] |= {"completion": "", "finish_reason": "error"}
    quarantine = check_samples(samples).quarantine
    table = apply_quarantine(make_table("scored", scored), quarantine)
    assert table.schema == tables.SCORED
    bad = table.slice(5, 1).to_pylist()[0]
    assert (bad["status"], bad["reward"]) == ("quarantined", None)
    assert bad["reason"].startswith("finish_reason is error; expected stop or length; completion_chars is 0; expected ")
    assert table["status"].to_pylist().count("ok") == 11
    assert table["reward"].null_count == 1


def test_the_report_names_checks_rows_and_reasons(
    check_samples: Callable[..., Any], samples: Rows, tmp_path: Path
) -> None:
    for row in samples[:6]:
        row["completion"] = "<script>|`\n# Title"
    checked = check_samples(
        samples, max_duplicate_share=0.1, forbidden_pattern="script", max_forbidden_share=1.0, max_quarantined_share=1.0
    )
    report = tmp_path / "iterations" / "000" / "validation_samples.md"
    with pytest.raises(GateStop) as stop:
        checked.raise_if_stopped(report)
    text = report.read_text()
    assert "6 of 12 rows fail (50 %)" in text
    assert samples[0]["sample_id"] in text
    assert "copies is 3" in text
    assert "<script>" not in text
    assert "\n# Title" not in text
    assert str(report) in str(stop.value)
    assert "validation.max_duplicate_share" in str(stop.value)


def test_nothing_stops_a_sound_table(check_samples: Callable[..., Any], samples: Rows, tmp_path: Path) -> None:
    check_samples(samples).raise_if_stopped(tmp_path / "report.md")
    assert list(tmp_path.iterdir()) == []
