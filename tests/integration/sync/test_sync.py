"""``raft sync`` on several runs of one model, MLflow (sqlite) for real."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows.loop.sync import sync
from flows.process.progress import Reporter
from raft_core.config.run import RaftConfig
from raft_core.records.run import BASE, Run, open_run, record_event
from tasks.loop import sync as sync_run
from tasks.loop.decide import decide


class Kept(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    warn = say


@pytest.fixture
def nights(
    workspace: Path, make_config: Callable[..., RaftConfig], add_iteration: Callable[[Run, int], None]
) -> list[Run]:
    """Monday's run and Tuesday's of one model, both over, of which MLflow knows nothing yet."""
    config = make_config(versioning={"enabled": False}).model_copy(update={"iterations": 1})
    runs = [open_run(workspace / "runs", name, config) for name in ("z-monday", "a-tuesday")]
    for run in runs:
        for iteration in (BASE, 0):
            record_event(run, "step", iteration=iteration, step="evaluate", seconds=1.0, tokens=0, unit="tokens")
            add_iteration(run, iteration)
    return runs


def candidate(client: MlflowClient) -> str:
    return str(client.get_model_version_by_alias("raft-small", "candidate").tags["raft.run"])


def close(run: Run, uri: str) -> None:
    decision = decide(run)
    assert decision is not None
    assert not decision.go_on
    sync_run.to_mlflow(run, [BASE, 0], uri)
    sync_run.close(run, decision, uri)


@pytest.mark.parametrize(("names", "look"), [([], False), (["z-monday"], False), (["z-monday"], True), ([], True)])
def test_a_night_that_is_filled_in_later_leaves_the_candidate_of_the_next(
    workspace: Path, uri: str, client: MlflowClient, nights: list[Run], names: list[str], look: bool
) -> None:
    close(nights[1], uri)
    reporter = Kept()
    assert sync(workspace, names, uri, look=look, reporter=reporter), reporter.said
    assert candidate(client) == "a-tuesday"
    assert len(client.search_model_versions("name = 'raft-small'")) == 2
    (told,) = [line for line in reporter.said if line.startswith("z-monday")]
    assert "raft-small version 2 " in told


def test_both_nights_are_filled_in_by_the_order_in_which_they_ended(
    workspace: Path, uri: str, client: MlflowClient, nights: list[Run]
) -> None:
    reporter = Kept()
    assert sync(workspace, [], uri, look=False, reporter=reporter), reporter.said
    assert [line.partition(":")[0] for line in reporter.said] == ["z-monday", "a-tuesday"]
    assert candidate(client) == "a-tuesday"
    assert sync(workspace, ["z-monday"], uri, look=True, reporter=reporter), reporter.said
    assert candidate(client) == "a-tuesday"
