"""Secrets stay in the process; what only looks like one stays readable."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_core.config.run import RaftConfig
from raft_core.records.run import open_run, read_events, record_event
from raft_core.redaction import REDACTED, holds_secret, is_secret_name, redacted, redacted_text

AWS = "AKIA" + "IOSFODNN7EXAMPLE"
HUB = "hf_" + "abcdefghijklmnopqrstuvwxyz01"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("postgresql://raft:hunter2@db.internal:5432/mlflow", "hunter2"),
        ("cannot reach http://tok3n@host/path", "tok3n"),
        ("postgresql://raft:hun/ter2@db/mlflow", "hun/ter2"),
        ("postgresql://raft:hun@ter2@db/mlflow", "ter2"),
        ("postgresql://raft:hun'ter2@db/mlflow", "ter2"),
        ("postgresql://raft:hun<ter2>@db/mlflow", "ter2"),
        ("postgresql://raft:hun@t/e?r#2@db/mlflow", "2"),
        ("cannot reach http://to@ken@host/path", "ken"),
        ("http://u:p@[::1]:4200/api", "u:p"),
        ("http://host/path?token=tok3n", "tok3n"),
        ("Authorization: Bearer abc123def456ghi789", "abc123def456ghi789"),
        ("Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("sent with bearer abc123def456", "abc123def456"),
        (f"key {AWS} was refused", AWS),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI"),
        ("aws_session_token: FwoGZXIvYXdzEJr", "FwoGZXIvYXdzEJr"),
        ('{"api_key": "abcdef"}', "abcdef"),
        ("--password=hunter2 --user=me", "hunter2"),
        ("client_secret: 'two words'", "two words"),
        (f"login with {HUB}", HUB),
        ("OPENAI_API_KEY=sk-proj-abcdefghijklmnopqrstuv", "abcdefghijklmnopqrstuv"),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "ghp_abc"),
        (f"cookie {JWT}", JWT),
        ("https://bucket/x?X-Amz-Credential=AK&X-Amz-Signature=deadbeef&n=1", "deadbeef"),
        ("a\n-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----\nb", "MIIEow"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEow and cut", "MIIEow"),
    ],
)
def test_a_secret_in_a_text_is_gone(text: str, secret: str) -> None:
    shown = redacted_text(text)
    assert secret in text
    assert secret not in shown
    assert REDACTED in shown


def test_what_stands_around_a_secret_stays() -> None:
    assert (
        redacted_text("postgresql://raft:pw@db:5432/mlflow is away")
        == f"postgresql://{REDACTED}@db:5432/mlflow is away"
    )
    assert redacted_text("--password=a --user=me") == f"--password={REDACTED} --user=me"


@pytest.mark.parametrize(
    "text",
    [
        "max_new_tokens: 24",
        "582 tokens in 3 s: 194 tokens/s",
        "eos_token: </s>",
        "tokenizer: fast",
        "token_entropy: 3.1",
        "sqlite:////tmp/mlflow.db",
        "http://127.0.0.1:4200/api",
        "a basic understanding",
        "bearer of good news",
        "the secret of a good film",
        "iteration 3: perplexity 101.2 is above 99",
        "git@host and me@example.org",
        "sha256 00766af59e6516451875d358a47365eb17fd759a6100cb1735aab959c017fbb6",
        "s3://bucket/key",
        "http://host:8080/pkg@1.0",
        "http://host:8080?mail=me@example.org",
        "http://[::1]:4200/pkg@1.0",
        "sqlite:///C:/Users/me@home/mlflow.db",
        "https://host/pkg@1.0 and b:c@d",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redacted_text(text) == text
    assert not holds_secret(text)


TELLING = "token HF_TOKEN hub-token password db_passwd client_secret aws_secret_access_key api_key apiKey credentials"


@pytest.mark.parametrize("name", [*TELLING.split(), "private_key"])
def test_telling_names(name: str) -> None:
    assert is_secret_name(name)
    assert redacted({name: "anything"}) == {name: REDACTED}
    assert redacted({name: 7}) == {name: 7}


@pytest.mark.parametrize(
    "name",
    [
        "tokens",
        "max_new_tokens",
        "eos_token",
        "pad_token",
        "tokenizer",
        "prompt_token_ids",
        "token_entropy",
        "key",
        "keyword",
        "secretary",
        "monkey",
    ],
)
def test_names_of_language_models(name: str) -> None:
    assert not is_secret_name(name)


def test_a_configuration_deep_down() -> None:
    plain = {"remote": {"url": "s3://b", "options": [{"secret_key": "x"}, ("http://u:p@h", None, True, 1.5)]}}
    assert redacted(plain) == {
        "remote": {"url": "s3://b", "options": [{"secret_key": REDACTED}, (f"http://{REDACTED}@h", None, True, 1.5)]}
    }


@given(st.text() | st.from_regex(r"(password|api_key|https://a:b@)[=: ]{0,3}\w{0,20}@?"))
def test_twice_is_once(text: str) -> None:
    assert redacted_text(redacted_text(text)) == redacted_text(text)


def test_long_texts_take_no_longer_than_they_are() -> None:
    for text in (
        "a" * 200_000,
        "://" * 50_000,
        "token" * 40_000,
        "password=" * 20_000,
        "-----BEGIN PRIVATE KEY" * 9000,
    ):
        assert "hunter2hunter2" not in redacted_text(f"{text} password=hunter2hunter2")


def test_events_hold_no_secret(tmp_path: Path, small: RaftConfig) -> None:
    run = open_run(tmp_path / "runs", "quiet", small)
    record_event(run, "warning", message="no answer from http://me:hunter2@host", hub_token="abc", seconds=1.5)
    (event,) = read_events(run)
    assert event["message"] == f"no answer from http://{REDACTED}@host"
    assert event["hub_token"] == REDACTED
    assert event["seconds"] == 1.5
    assert "hunter2" not in (run.path / "events.jsonl").read_text()
    json.dumps(event)


@pytest.fixture
def small() -> RaftConfig:
    return RaftConfig.model_validate(
        {
            "name": "small",
            "policy": {"model": "m"},
            "prompts": {"train": "p.jsonl"},
            "scoring": {"rewards": [{"type": "lexicon"}]},
        }
    )
