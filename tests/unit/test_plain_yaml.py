"""YAML of others: each trap ends in one clear error, at once."""

from pathlib import Path

import pytest
import yaml

from raft_core.config.loading import MAX_INTERPOLATIONS, load_config
from raft_core.errors import ConfigError
from raft_core.files.plain_yaml import read_yaml

LAUGHS = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
HOSTILE = {
    "a billion laughs": LAUGHS,
    "an alias in itself": "a: &a [*a]\n",
    "a Python object": "a: !!python/object/apply:os.system ['true']\n",
    "a Python name": "a: !!python/name:os.system\n",
    "endless nesting": "a: " + "[" * 100_000,
    "endless nesting, closed": "a: " + "[" * 2000 + "]" * 2000,
    "endless indentation": "\n".join(" " * i + "a:" for i in range(3000)),
    "endless dashes": "- " * 3000 + "a",
    "too long": "# " + "x" * (1 << 20),
    "two documents": "a: 1\n---\nb: 2\n",
    "a tab": "a:\n\t- 1\n",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_trap_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(text)
    with pytest.raises(yaml.YAMLError):
        read_yaml(path)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_configuration_that_is_a_trap_ends_in_one_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in caught.value.what
    assert caught.value.got, "it says what is wrong"


def test_aliases_that_stay_small_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text("\ufeffa: &a {x: [1, 2]}\nb: *a\nc: é\n", encoding="utf-8")
    assert read_yaml(path) == {"a": {"x": [1, 2]}, "b": {"x": [1, 2]}, "c": "é"}


def test_interpolations_that_double_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "doubling.yaml"
    path.write_text("a0: x\n" + "".join(f"a{i}: ${{a{i - 1}}}${{a{i - 1}}}\n" for i in range(1, 40)))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert (str(path) in caught.value.what, caught.value.got) == (True, 78)
    assert str(MAX_INTERPOLATIONS) in str(caught.value.expected)


def test_a_configuration_cannot_read_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "environment.yaml"
    path.write_text("name: ${oc.env:HOME}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.got == "${oc.env:HOME}"
    assert "environment" in str(caught.value.expected)


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:HOME}",
        "${oc\\x2eenv:HOME}",
        "$\\x7boc.env:HOME}",
        "\\u0024{oc.env:HOME}",
        "${${seed}:HOME}",
        "${oc.${seed}:HOME}",
        "a ${oc.decode:1} b",
        "${oc.create:{a: 1}}",
        "${ oc.env:HOME}",
        "\\\\${oc.env:HOME}",
    ],
)
@pytest.mark.parametrize("where", ["value", "key", "list", "override", "extends"])
def test_no_escape_of_yaml_hides_a_resolver(
    value: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In double quotes YAML writes characters by their code: what OmegaConf resolves is what comes out of that."""
    from omegaconf import OmegaConf

    def called(*_: object, **__: object) -> None:
        raise AssertionError("a resolver ran")

    for name in ("oc.env", "oc.decode", "oc.create"):
        OmegaConf.register_new_resolver(name, called, replace=True)
    try:
        path = tmp_path / "hidden.yaml"
        text = {"value": f'name: "{value}"', "key": f'"{value}": 1', "list": f'a: [b, "{value}"]'}
        extending = f'extends: "{value}"'
        path.write_text("seed: 3\n" + text.get(where, extending if where == "extends" else "") + "\n")
        with pytest.raises(ConfigError, match="environment variables and functions"):
            load_config(path, [f'name="{value}"'] if where == "override" else [])
    finally:
        OmegaConf.clear_resolvers()


def test_a_plain_reference_is_resolved(tmp_path: Path) -> None:
    path = tmp_path / "references.yaml"
    path.write_text(
        'name: "a-${sampling.top_k}"\npolicy: {model: m}\nprompts: {train: p.txt}\nsampling: {top_k: 3}\n'
        'scoring: {rewards: [{type: lexicon, name: r1}, {type: lexicon, name: "${scoring.rewards[0].name}-b"}]}\n'
    )
    config = load_config(path)
    assert (config.name, config.scoring.rewards[1].name) == ("a-3", "r1-b")


def test_a_secret_in_a_configuration_is_refused_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "secret.yaml"
    path.write_text(
        "name: a\npolicy: {model: m}\nprompts: {train: 'https://me:hunter2@host/p.jsonl'}\n"
        "scoring: {rewards: [{type: lexicon}]}\n"
    )
    with pytest.raises(ConfigError, match=r"prompts\.train in .*secret\.yaml") as caught:
        load_config(path)
    assert "hunter2" not in str(caught.value)
