"""What a run may be called: one rule, stricter for new runs than for those that are there."""

import re
from pathlib import Path

import pytest

from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError
from raft_core.records.names import check_new_run_name, check_run_name, registered_name
from raft_core.records.run import Run, open_run, read_run

BAD = ["CON", "con", "NUL", "nul.txt", "aux.txt", "Prn", "COM1", "lpt9.log", "one.", "one.."]


@pytest.mark.parametrize("name", BAD)
def test_what_another_machine_takes_for_another_name_names_no_new_run(name: str, synthetic_run: Run) -> None:
    runs = synthetic_run.path.parent
    with pytest.raises(ConfigError, match=re.escape(repr(name))):
        open_run(runs, name, synthetic_run.config)
    assert not (runs / name).exists()
    (synthetic_run.path).rename(runs / name)  # from a machine that let it
    assert read_run(runs / check_run_name(name)).name == name
    assert open_run(runs, name, synthetic_run.config).name == name


def test_names_that_differ_by_case_alone_are_one_folder_elsewhere(synthetic_run: Run) -> None:
    runs = synthetic_run.path.parent
    for name in ("MADE", "Made"):
        with pytest.raises(ConfigError, match=f"'{name}'.*'made'"):
            open_run(runs, name, synthetic_run.config)
    assert open_run(runs, "made", synthetic_run.config) == synthetic_run
    assert check_new_run_name(runs, "made-2") == "made-2"


def test_an_iteration_in_place_of_a_run_is_answered_with_the_run() -> None:
    with pytest.raises(ConfigError) as caught:
        check_run_name("made@2")
    assert str(caught.value.hint).endswith(": made")


def test_one_length_for_writing_and_reading(synthetic_run: Run) -> None:
    runs = synthetic_run.path.parent
    assert check_run_name("a" * 100) == check_new_run_name(runs, "a" * 100)
    for check in (check_run_name, lambda name: check_new_run_name(runs, name)):
        with pytest.raises(ConfigError, match="at most 100"):
            check("a" * 101)


def test_a_run_with_the_longest_name_is_listed(synthetic_run: Run, tmp_path: Path) -> None:
    from raft_core.records.overview import run_paths

    open_run(synthetic_run.path.parent, "a" * 100, synthetic_run.config)
    assert [path.name for path in run_paths(tmp_path)] == ["a" * 100, "made"]


def test_a_registered_model_is_called_by_the_configuration(synthetic_run: Run) -> None:
    assert registered_name(synthetic_run.config) == "raft-made"
    tracking = synthetic_run.config.tracking.model_copy(update={"model_name": "mine"})
    config: RaftConfig = synthetic_run.config.model_copy(update={"tracking": tracking})
    assert registered_name(config) == "mine"
