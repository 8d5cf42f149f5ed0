"""What a run's rewards consist of: pinned, compared, and told by the commits."""

import os
from typing import Any

import pytest

from raft_core.errors import ConfigError, IntegrityError
from raft_core.records.pinned import FILE, changes, changes_of, check_pins, pin, read_pins
from raft_core.records.run import BASE, Commit, Run, read_events, write_commit
from raft_core.rewards.load import Rewards
from raft_core.rewards.score import NamedReward
from tasks.loop.prepare import settle_rewards

THEN = {"mine": {"mine.py": "a", "helper": "b", "words.txt": "c"}, "vader": {"vaderSentiment": "d"}}
NOW = {"mine": {"mine.py": "a", "helper": "B", "more": "e"}, "vader": {"vaderSentiment": "d"}}
(TOLD,) = changes(THEN, NOW)


class Loaded:
    """A reward that was loaded from ``sources``."""

    identity = "it"

    def __init__(self, sources: dict[str, str]) -> None:
        self.sources = sources

    def __call__(self, prompts: object, completions: object) -> list[float]:
        return []


def rewards(sources: dict[str, dict[str, str]]) -> Rewards:
    return Rewards(tuple(NamedReward(name, 1.0, Loaded(of)) for name, of in sources.items()), ())


@pytest.fixture
def run(synthetic_run: Run) -> Run:
    return synthetic_run


def fresh(run: Run) -> Run:
    """As it was before its base was committed."""
    (run.folder(BASE) / "commit.json").unlink()
    for folder in run.path.glob("iterations/*/commit.json"):
        folder.unlink()
    return run


def test_every_change_is_named() -> None:
    assert changes(THEN, THEN) == []
    assert TOLD.startswith("reward 'mine': helper changed, more is new, words.txt ")
    assert changes({}, NOW) == []


def test_only_what_was_loaded_is_compared() -> None:
    """Scoring loads no gold reward."""
    assert changes(THEN, {"vader": THEN["vader"]}) == []


def test_a_change_stops_and_says_how_to_go_on(run: Run) -> None:
    pin(run, THEN)
    check_pins(run, THEN)
    with pytest.raises(ConfigError) as told:
        check_pins(run, NOW)
    assert TOLD in str(told.value)
    assert "raft resume made --accept-reward-change" in str(told.value)


def test_a_start_pins(run: Run) -> None:
    assert settle_rewards(fresh(run), rewards(THEN), accept=False) == []
    assert read_pins(run) == THEN


def test_until_the_base_is_committed_a_reward_may_be_corrected(run: Run) -> None:
    pin(fresh(run), THEN)
    assert settle_rewards(run, rewards(NOW), accept=False) == []
    assert read_pins(run) == NOW


def test_later_a_change_is_refused_or_recorded(run: Run) -> None:
    pin(run, THEN)
    with pytest.raises(ConfigError):
        settle_rewards(run, rewards(NOW), accept=False)
    assert read_pins(run) == THEN
    (warning,) = settle_rewards(run, rewards(NOW), accept=True)
    assert TOLD in warning
    assert read_pins(run) == NOW
    assert [event["changes"] for event in read_events(run, "reward_changed")] == [[TOLD]]
    assert settle_rewards(run, rewards(NOW), accept=True) == []


def test_a_run_of_an_older_version_is_pinned_as_it_is_found(run: Run) -> None:
    assert read_pins(run) is None
    check_pins(run, NOW)
    assert settle_rewards(run, rewards(NOW), accept=False) == []
    assert read_pins(run) == NOW


def test_without_the_file_the_last_commit_says_it(run: Run) -> None:
    content: dict[str, Any] = {"config": "", "policy": {}, "sampled_from": None, "outputs": {}, "steps": {}}
    write_commit(run, 3, {**content, "rewards": THEN})
    assert not (run.path / FILE).exists()
    with pytest.raises(ConfigError):
        check_pins(run, NOW)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 2, "rewards": {}}', '{"format": 1, "rewards": [1]}', "[" * 10**5]
)
def test_a_spoilt_file_is_named(run: Run, text: str) -> None:
    (run.path / FILE).write_text(text)
    with pytest.raises(IntegrityError, match=r"rewards\.json"):
        read_pins(run)


def test_the_commits_tell_where_a_reward_changed() -> None:
    def commit(iteration: int, of: dict[str, dict[str, str]] | None) -> Commit:
        return Commit("", {"iteration": iteration, **({"rewards": of} if of else {})})

    chain = [commit(BASE, None), commit(0, THEN), commit(1, THEN), commit(2, NOW), commit(3, NOW)]
    assert changes_of(chain) == [(2, TOLD)]


@pytest.mark.timeout(60)
def test_a_pipe_in_place_of_the_pins_is_not_waited_for(run: Run) -> None:
    (run.path / FILE).unlink(missing_ok=True)
    os.mkfifo(run.path / FILE)
    with pytest.raises(IntegrityError, match=r"rewards\.json"):
        read_pins(run)
