"""The command line: what it prints, and how it ends."""

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from flows.cli import app as command_line
from flows.cli import exits
from flows.cli.reference import reference
from flows.loop.align import _end_recorded
from flows.loop.session import Session
from flows.process import environment
from raft_core import errors
from raft_core.config.run import RaftConfig
from raft_core.errors import GateStop, StepError
from raft_core.records.run import Run, hold, record_event

ROOT = Path(__file__).parents[3]
Raft = Callable[..., tuple[int, str, str]]
TINY = str(Path(__file__).parents[3] / "configs" / "tiny.yaml")


def test_show_json_is_exactly_the_documented_form(write_run: Callable[..., Run], raft_json: Callable[..., Any]) -> None:
    write_run()
    document = raft_json("show", "hand")
    assert list(document) == ["name", "status", "best", "reason", "iterations"]
    assert document["name"] == "hand"
    assert document["status"] == "completed"
    assert document["best"] == 1
    assert "all 2 iterations are done" in document["reason"]
    assert [row["iteration"] for row in document["iterations"]] == [-1, 0, 1]
    assert document["iterations"][2] == {
        "iteration": 1,
        "num_prompts": 2,
        "reward": 0.68,
        "reward_low": 0.68 - 0.05,
        "reward_high": 0.68 + 0.05,
        "gold_reward": 0.21,
        "perplexity": 63.7,
        "distinct_1": 0.31,
        "distinct_2": 0.8,
        "mean_length": 12.0,
        "truncation": 0.02,
        "kl": 0.4,
        "headroom": 0.5,
        "seconds": 3.75,
        "seconds_sample": 2.5,
        "seconds_evaluate": 1.25,
    }


def test_show_prints_one_row_per_iteration_and_marks_the_best(write_run: Callable[..., Run], raft: Raft) -> None:
    write_run()
    code, out, _ = raft("show")
    lines = out.splitlines()
    assert code == exits.DONE
    assert [line.split()[0] for line in lines[:4]] == ["iteration", "base", "0", "1"]
    assert "0.68 [0.63, 0.73]" in lines[3]
    assert "★" in lines[3]
    assert "★" not in lines[1] + lines[2]
    assert "▁" in out
    assert "█" in out
    assert "0.07 → 0.68" in out


def test_show_prints_each_warning_once_with_its_count(write_run: Callable[..., Run], raft: Raft) -> None:
    run = write_run()
    for message in ["no tracker", *(f"w{n}" for n in range(5)), "no tracker"]:
        record_event(run, "warning", message=message)
    warned = [line.strip() for line in raft("show")[1].splitlines() if line.startswith("!") or "events.jsonl" in line]
    assert warned[:-1] == [f"! w{n}" for n in range(5)]
    assert warned[-1].endswith("events.jsonl: 1")
    record_event(run, "warning", message="w4")
    assert "! w4 (2 times)" in raft("show")[1]


def test_show_drops_columns_on_a_narrow_terminal_but_never_the_reward(
    write_run: Callable[..., Run], raft: Raft, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run()
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = raft("show")
    assert "0.68 ±0.05" in out
    assert "0.310" not in out
    assert "left out here: distinct-1" in " ".join(out.split())
    _, out, _ = raft("show", "--wide")
    assert "0.68 [0.63, 0.73]" in out
    assert "distinct-1" in out
    assert "left out" not in out


def test_a_run_without_its_last_iteration_is_interrupted(
    write_run: Callable[..., Run], raft_json: Callable[..., Any]
) -> None:
    write_run(iterations=1, finished=False)
    document = raft_json("show")
    assert (document["status"], document["best"]) == ("interrupted", 0)
    assert "1 of 2" in document["reason"]
    assert "raft resume hand" in document["reason"]


def test_a_run_that_validation_stopped_says_where_to_read_why(
    write_run: Callable[..., Run], raft_json: Callable[..., Any]
) -> None:
    run = write_run(iterations=1, finished=False)
    report = run.folder(1) / "validation_scored.md"
    report.parent.mkdir(parents=True)
    report.write_text("# which rows\n")
    document = raft_json("show")
    assert (document["status"], document["best"]) == ("stopped", 0)
    assert str(report.relative_to(run.path.parents[1])) in document["reason"]


@pytest.mark.parametrize(
    ("error", "told", "status"),
    [
        (StepError("the reward needs a key", got="none", hint="set KEY"), "the reward needs a key", "failed"),
        (ZeroDivisionError("division by zero"), "division by zero", "failed"),
        (GateStop("validation of the scored table stopped the run"), "validation of the scored table", "stopped"),
        (KeyboardInterrupt(), "raft resume hand", "interrupted"),
    ],
)
def test_a_run_shows_why_it_ended(
    write_run: Callable[..., Run],
    raft: Raft,
    raft_json: Callable[..., Any],
    error: BaseException,
    told: str,
    status: str,
) -> None:
    for iterations in (1, -1):  # while an iteration was made, and while the base was
        run = write_run("hand" if iterations == 1 else "early", iterations, False)
        record_event(run, "started")
        with (
            pytest.raises(type(error)),
            _end_recorded(Session(run, run.path.parents[1], SecretStr(""), away={"MLflow"})),
        ):
            raise error
        document = raft_json("show", run.name)
        assert document["status"] == status
        assert told.replace("hand", run.name) in document["reason"]
    if status == "failed":
        assert "raft resume early" in document["reason"]
        assert told[:20] in raft("runs")[1]
    record_event(run, "started")  # and was killed then
    assert raft_json("show", run.name)["status"] == "interrupted"


def test_the_list_of_runs_shows_the_reward_of_the_best(
    write_run: Callable[..., Run], raft_json: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(write_run.__globals__["REWARDS"], 1, 0.2)  # worse than iteration 0
    write_run()
    (entry,) = raft_json("runs")
    assert (entry["best"], entry["reward_base"], entry["reward"]) == (0, 0.07, 0.3)


def test_a_held_run_is_running(write_run: Callable[..., Run], raft_json: Callable[..., Any]) -> None:
    with hold(write_run(iterations=1, finished=False)):
        assert raft_json("show")["status"] == "running"
    assert raft_json("show")["status"] == "interrupted"


def test_a_clone_without_events_knows_how_the_run_ended(
    write_run: Callable[..., Run], raft_json: Callable[..., Any]
) -> None:
    (write_run().path / "events.jsonl").unlink()
    document = raft_json("show")
    assert (document["status"], document["best"]) == ("completed", 1)
    assert [row["seconds"] for row in document["iterations"]] == [0, 0, 0]


def test_an_edited_report_is_an_error(write_run: Callable[..., Run], raft: Raft) -> None:
    report = write_run().folder(1) / "report.json"
    report.write_text(report.read_text().replace("0.68", "0.99"))
    code, out, err = raft("show")
    assert (code, out) == (exits.FAILED_STEP, "")
    assert str(report) in err


def test_runs_lists_whole_and_broken_runs(
    write_run: Callable[..., Run], raft_json: Callable[..., Any], raft: Raft
) -> None:
    write_run("whole")
    (write_run("edited").folder(0) / "commit.json").write_text("{}")
    (listed,) = [entry for entry in raft_json("runs") if entry["name"] == "whole"]
    assert (listed["status"], listed["iterations_done"], listed["iterations_planned"]) == ("completed", 2, 2)
    assert {entry["name"]: entry["status"] for entry in raft_json("runs")} == {"edited": "broken", "whole": "completed"}
    assert "broken" in raft("runs")[1]


def test_the_latest_run_is_the_default(write_run: Callable[..., Run], raft_json: Callable[..., Any]) -> None:
    import os

    for name, touched in (("older", 1_000_000), ("newer", 2_000_000), ("oldest", 500_000)):
        for file in write_run(name).path.iterdir():
            os.utime(file, (touched, touched))
    assert raft_json("show")["name"] == "newer"


def test_lineage_leads_from_the_best_policy_to_the_base(write_run: Callable[..., Run], raft: Raft) -> None:
    write_run()
    code, out, _ = raft("lineage", "show", "hand")
    lines = out.splitlines()
    assert code == exits.DONE
    assert lines[0].startswith("policy id1  iteration 1 of run hand  (best of the run)")
    assert [line.split("  ")[0].strip() for line in lines[2:5]] == ["iteration 1", "iteration 0", "base"]
    assert "[m]\\x1b[2J" in lines[4]
    assert raft("lineage", "show", "hand@0")[1].startswith("policy id0")


def test_lineage_json_is_the_chain(write_run: Callable[..., Run], raft_json: Callable[..., Any]) -> None:
    write_run()
    chain = raft_json("lineage", "show")
    assert [link["iteration"] for link in chain["links"]] == [1, 0, -1]
    assert [link["parent"] for link in chain["links"]] == [link["commit"] for link in chain["links"][1:]] + [None]


@pytest.mark.parametrize("reference", ["nothing", "hand@x", "hand@9"])
def test_a_policy_that_does_not_exist(write_run: Callable[..., Run], raft: Raft, reference: str) -> None:
    write_run()
    code, _, err = raft("lineage", "show", reference)
    assert code == exits.USERS_MISTAKE
    assert all(part in err for part in reference.split("@"))
    assert "\n  try: " in err


def test_merge_refuses_what_cannot_be_merged(write_run: Callable[..., Run], raft: Raft, tmp_path: Path) -> None:
    write_run()
    for arguments, named in ((("hand", str(tmp_path)), str(tmp_path)), (("hand@base", str(tmp_path / "out")), "hand")):
        code, _, err = raft("merge", *arguments)
        assert code == exits.USERS_MISTAKE
        assert named in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../hand", "/etc", "", ".hidden", "a/b", "a\nb", "x" * 101, "-n"])
def test_a_name_that_could_leave_the_folder_is_refused(write_run: Callable[..., Run], raft: Raft, name: str) -> None:
    write_run()
    code, _, err = raft("show", "--", name)
    assert code == exits.USERS_MISTAKE
    assert ascii(name)[1:-1] in err
    assert "\n  expected: " in err


def test_samples_of_a_hostile_model_cannot_steer_the_terminal(write_run: Callable[..., Run], raft: Raft) -> None:
    write_run()
    code, out, _ = raft("samples", "-n", "2")
    assert code == exits.DONE
    assert "[bold red]buy[/]" in out
    assert not set(out) & {"\x1b", "\x07", "\r", "\u202e"}
    assert "iteration -1 says so" in out
    assert "iteration 1 says so" in out


def test_samples_json_is_ascii_and_whole(write_run: Callable[..., Run], raft: Raft) -> None:
    write_run()
    code, out, _ = raft("samples", "-n", "1", "--json")
    assert code == exits.DONE
    assert out.isascii()
    (pair,) = json.loads(out)
    assert pair["after"].startswith("[bold red]buy[/] \x1b[2J")
    assert (pair["reward_before"], pair["reward_after"]) == (0.07, 0.68)


def test_samples_of_an_unfinished_iteration_are_refused(write_run: Callable[..., Run], raft: Raft) -> None:
    write_run()
    code, _, err = raft("samples", "--iteration", "7")
    assert code == exits.USERS_MISTAKE
    assert "iteration 7 of run hand" in err
    assert "raft show hand" in err


@pytest.mark.parametrize(
    "arguments", [["fly"], ["align"], ["show", "--jsno"], ["samples", "-n", "0"], ["show", "none"]]
)
def test_a_wrong_command_line_exits_2(raft: Raft, arguments: list[str]) -> None:
    assert raft(*arguments)[0] == exits.USERS_MISTAKE


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.ConfigError, 2),
        (errors.InputError, 2),
        (errors.RunBusyError, 2),
        (errors.RunMismatchError, 2),
        (errors.GateStop, 3),
        (errors.IntegrityError, 4),
        (errors.ExampleError, 4),
        (errors.RewardError, 4),
        (errors.StepError, 4),
    ],
)
def test_exit_codes(kind: type[errors.RaftError], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def app(arguments: list[str], prog_name: str) -> None:
        raise kind("it broke", got="\x1b[2J", expected="a", hint="b")

    assert exits.run_command(app, ["align"]) == code
    told = capsys.readouterr().err
    assert told == "error: it broke\n  got: \\x1b[2J\n  expected: a\n  try: b\n"


def test_an_unexpected_exception_is_one_line_and_a_traceback_in_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def app(arguments: list[str], prog_name: str) -> None:
        raise ZeroDivisionError("three by nothing")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert exits.run_command(app, ["show"]) == exits.FAILED_STEP
    told = capsys.readouterr().err
    assert told.startswith("error: ZeroDivisionError: three by nothing\n  traceback: ")
    assert "in app" in Path(told.split("traceback: ")[1].strip()).read_text()
    assert "Traceback" not in told
    exits.run_command(app, ["show", "--debug"])
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def interrupted(run: Path | None) -> Callable[..., None]:
    """A command that is interrupted, in the way that typer tells it; ``run``: while it works on one."""

    def app(arguments: list[str], prog_name: str) -> None:
        try:
            with exits.resumable(run) if run else nullcontext():
                raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise SystemExit(130) from error

    return app


def test_ctrl_c_says_how_to_resume(write_run: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert exits.run_command(interrupted(write_run().path), ["align", "a.yaml"]) == exits.INTERRUPTED
    assert "resume with: raft resume hand" in capsys.readouterr().err


def test_ctrl_c_before_there_is_a_run_says_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for app in (interrupted(None), interrupted(tmp_path / "runs" / "none")):
        assert exits.run_command(app, ["align", "my configs/a.yaml", "seed=1"]) == exits.INTERRUPTED
        told = capsys.readouterr().err
        assert "again: raft align 'my configs/a.yaml' seed=1" in told
        assert "resume" not in told


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (errors.StepError("no memory"), exits.FAILED_STEP, True),
        (errors.IntegrityError("bytes"), exits.FAILED_STEP, True),
        (ZeroDivisionError("x"), exits.FAILED_STEP, True),
        (errors.ConfigError("no key"), exits.USERS_MISTAKE, False),
        (errors.GateStop("worse"), exits.STOPPED_BY_GATE, False),
    ],
)
def test_what_can_go_on_says_how(
    error: Exception, code: int, told: bool, write_run: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run()

    def app(arguments: list[str], prog_name: str) -> None:
        with exits.resumable(run.path):
            raise error

    assert exits.run_command(app, ["align"]) == code
    assert ("\n  resume with: raft resume hand" in capsys.readouterr().err) == told


def test_config_show_is_a_configuration_again(raft: Raft, small_config: RaftConfig, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({**small_config.model_dump(mode="json")}))
    code, out, _ = raft("config", "show", str(file), "sampling.samples_per_prompt=16")
    assert code == exits.DONE
    assert yaml.safe_load(out)["sampling"]["samples_per_prompt"] == 16
    again = tmp_path / "again.yaml"
    again.write_text(out)
    assert raft("config", "show", str(again))[:2] == (exits.DONE, out)


def test_config_validate_names_every_fault(raft: Raft, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: x\nsampling: {samples_per_prompt: 0, temprature: 1}\n")
    code, _, err = raft("config", "validate", str(file))
    assert code == exits.USERS_MISTAKE
    assert "sampling.samples_per_prompt" in err
    assert "sampling.temperature?" in err
    assert "policy: " in err


@pytest.mark.parametrize(
    "command", [("align",), ("config", "show"), ("config", "validate"), ("deploy",)], ids=lambda c: " ".join(c)
)
def test_an_override_with_dashes_is_refused_with_the_right_form(raft: Raft, command: tuple[str, ...]) -> None:
    code, _, err = raft(*command, TINY, "--sampling.temperature=0.9")
    assert code == exits.USERS_MISTAKE
    assert "try: " in err
    assert " sampling.temperature=0.9" in err
    code, _, err = raft(*command, "--sampling.temperature=0.9", TINY)
    assert code == exits.USERS_MISTAKE
    assert "expected: CONFIG" in err


def test_an_abbreviated_key_is_taken_and_spelled_out(raft: Raft) -> None:
    code, out, err = raft("config", "show", TINY, "samples_per_prompt=3")
    assert code == exits.DONE
    assert "samples_per_prompt: 3" in out
    assert "sampling.samples_per_prompt=3" in err
    assert len(err.splitlines()) == 1


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands for ``flows.loop.align``, which is tried in the smoke tests: records its call, returns ``result``."""
    from types import SimpleNamespace

    heard: dict[str, Any] = {"result": SimpleNamespace(status="completed", nothing_to_do=False)}
    module = ModuleType("flows.loop.align")

    def align_run(config: RaftConfig, **options: Any) -> Any:
        heard.update(options, config=config)
        return heard["result"]

    module.align_run = align_run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flows.loop.align", module)
    monkeypatch.delattr("flows.loop.align", raising=False)
    return heard


def test_align_hands_over_and_ends_with_the_table_and_three_lines(
    flow: dict[str, Any], write_run: Callable[..., Run], raft: Raft, tmp_path: Path
) -> None:
    run = write_run()
    code, out, err = raft("align", str(run.path / "config.yaml"), "--name", "hand", "--quiet")
    assert (code, err) == (exits.DONE, "")
    assert (flow["name"], flow["workspace"], flow["config"]) == ("hand", tmp_path, run.config)
    assert [line.partition("  # ")[0] for line in out.splitlines()[-3:]] == [
        "raft show hand",
        "raft lineage show hand",
        f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db",
    ]


def test_align_says_when_nothing_had_to_be_done(
    flow: dict[str, Any], write_run: Callable[..., Run], raft: Raft
) -> None:
    flow["result"].nothing_to_do = True
    _, out, _ = raft("align", str(write_run().path / "config.yaml"), "--name", "hand")
    assert "nothing" in out.splitlines()[0]


def test_a_gate_that_stopped_is_3_for_a_person_and_0_for_dvc(
    flow: dict[str, Any], write_run: Callable[..., Run], raft: Raft, tmp_path: Path
) -> None:
    config = str(write_run().path / "config.yaml")
    flow["result"].status = "stopped"
    assert raft("align", config, "--name", "hand")[0] == exits.STOPPED_BY_GATE
    assert raft("align", config, "--name", "hand", "--receipt", str(tmp_path / "r.json"))[0] == exits.DONE
    assert json.loads((tmp_path / "r.json").read_text())["name"] == "hand"


def test_align_refuses_another_configuration_before_it_prepares_anything(
    flow: dict[str, Any], write_run: Callable[..., Run], raft: Raft
) -> None:
    config = str(write_run().path / "config.yaml")
    code, _, err = raft("align", config, "seed=5", "policy.model=example:nowhere/policy", "--name", "hand")
    assert code == exits.USERS_MISTAKE
    assert "seed (0 in the run, 5 now)" in err
    assert "config" not in flow


def test_no_heavy_library_is_imported_with_the_command_line() -> None:
    import subprocess

    heavy = {"torch", "transformers", "prefect", "mlflow", "dvc", "pandas", "pyarrow", "numpy", "great_expectations"}
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import flows.cli.app, raft_core.records.overview, flows.cli.views.table, sys; print(*sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not heavy & set(told.stdout.split())


def test_defaults_of_the_environment_give_way_to_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["raft", "--help"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for key in environment.DEFAULTS.keys() - {"HF_HUB_OFFLINE"}:
        monkeypatch.setenv(key, "before")
        monkeypatch.delenv(key)
    with pytest.raises(SystemExit) as leave:
        command_line.main()
    import os

    assert leave.value.code == exits.DONE
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_the_committed_reference_is_up_to_date() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == reference(), (
        "run: raft config reference > docs/configuration.md"
    )


def test_every_key_of_the_reference_has_a_meaning() -> None:
    assert [line for line in reference().splitlines() if line.startswith("| `") and line.endswith("|  |")] == []
