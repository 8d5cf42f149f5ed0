"""Help pages: every command says what it does, explains every argument and option, and shows examples that parse."""

import re
import shlex
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
import typer

from flows.cli import exits
from flows.cli.app import app
from flows.cli.commands.shell import HELP_WIDTH
from raft_core.examples.presets import EXAMPLES
from raft_core.records.retention import Retention

Raft = Callable[..., tuple[int, str, str]]

FORBIDDEN = (
    r"none:",
    r"\btold\b",
    r"\bmend",
    r"\bspoilt\b",
    r"\bforth\b",
    r"\banew\b",
    r"\baway\b",
    r"\bat hand\b",
    r"\bgo(es)? on\b",
    r"\bl(ie|ies|ay) (in|here|there)\b",
    r"\bbring about\b",
    r"\b(held|holds?) against\b",
    r"\bany more\b",
    r"\bor so often\b",
    r"\bis no\b",
    r"\ban? \w+ an? (row|iteration|run|step|prompt|line)\b",
    r"\bof the schedules\b",
    r"\btitles?\b",
    r"\b(contender|goner|projection|collection|aftermath|numerics class|worlds?)\b",
    r"\b(promotion|retention) polic(y|ies)\b",
)
"""Phrases of the left column of the style guide's table, and the faults that readers met most often."""


def commands(command: Any, path: tuple[str, ...] = ("raft",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A command and all below it, each with the words that call it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


PAGES = dict(commands(typer.main.get_command(app)))


def faults(path: tuple[str, ...], command: Any) -> list[str]:
    """What a help page lacks."""
    name = " ".join(path)
    found = [] if (command.help or "").strip() else [f"{name}: no help"]
    for param in command.params:
        if not (getattr(param, "help", None) or "").strip():
            found.append(f"{name}: no help for {param.name}")
    texts = [command.help or "", command.epilog or ""]
    found += [f"{name}: {phrase}" for phrase in FORBIDDEN for text in texts if _holds(phrase, text)]
    found += [f"{name} {p.name}: {w}" for p in command.params for w in FORBIDDEN if _holds(w, getattr(p, "help", ""))]
    if not any(line.startswith(name) for line in example_lines(command)):
        found.append(f"{name}: no example")
    lines = [*(command.epilog or "").splitlines(), *(command.help or "").splitlines()[1:]]
    return found + [f"{name}: too wide: {line}" for line in lines if len(line) > HELP_WIDTH]


def _holds(phrase: str, text: str | None) -> bool:
    return re.search(phrase, " ".join((text or "").split()), re.IGNORECASE) is not None


def example_lines(command: Any) -> list[str]:
    """The command lines in the examples of a help page."""
    lines = (command.epilog or "").replace("\\[", "[").splitlines()
    return [line.strip() for line in lines if line.startswith("raft ")]


@pytest.mark.parametrize("path", PAGES, ids=" ".join)
def test_a_help_page_is_complete(path: tuple[str, ...]) -> None:
    assert faults(path, PAGES[path]) == []


def test_an_incomplete_page_is_noticed() -> None:
    bare = typer.Typer()

    @bare.command()
    def one(name: str, where: Annotated[str, typer.Option(help="A folder; none: what lies here.")] = "") -> None:
        pass

    found = faults(("raft",), typer.main.get_command(bare))
    assert [fault for fault in found if "no help for" in fault] == ["raft: no help for name"]
    assert "raft: no help" in found
    assert "raft: no example" in found
    assert any(fault.startswith("raft where: ") for fault in found)


@pytest.mark.parametrize("path", PAGES, ids=" ".join)
def test_a_help_page_fits_a_terminal_of_80_columns(
    path: tuple[str, ...], raft: Raft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = raft(*path[1:], "--help")
    assert (code, err) == (exits.DONE, "")
    assert max(map(len, out.splitlines())) <= 80
    shown = re.sub(r"\s+", " ", out.replace("│", " "))
    written = f"{PAGES[path].help} {PAGES[path].epilog}".replace("\\[", "[")
    assert [word for word in written.split() if word not in shown] == [], "taken for markup: escape it"
    for param in PAGES[path].params:
        metavar = param.metavar or ""
        assert getattr(param, "hidden", False) or metavar in shown, f"{param.name} is not shown"


@pytest.mark.parametrize("path", PAGES, ids=" ".join)
def test_the_examples_of_a_page_parse(path: tuple[str, ...]) -> None:
    for line in example_lines(PAGES[path]):
        words = shlex.split(line, comments=True)
        words = words[: next((i for i, word in enumerate(words) if word in ("|", ">")), len(words))]
        if "COMMAND" in words:
            continue
        called, command = words[:1], PAGES["raft",]
        while words[len(called) :] and words[len(called)] in getattr(command, "commands", {}):
            called.append(words[len(called)])
            command = command.commands[called[-1]]
        command.make_context(" ".join(called), words[len(called) :])  # raises for an unknown option or a missing value


def test_the_commands_are_grouped_and_the_exit_codes_stated(raft: Raft) -> None:
    code, out, _ = raft("--help")
    assert code == exits.DONE
    panels = {command.rich_help_panel for path, command in PAGES.items() if len(path) == 2 and not command.hidden}
    assert len(panels) == 5
    assert all(isinstance(panel, str) and panel in out for panel in panels)
    stated = {int(line.split()[0]) for line in out.splitlines() if re.match(r" \d+ +\w", line)}
    assert stated == {exits.DONE, exits.USERS_MISTAKE, exits.STOPPED_BY_GATE, exits.FAILED_STEP, exits.INTERRUPTED}


def test_prepare_names_every_example_and_stage() -> None:
    helps = " ".join(str(param.help) for param in PAGES["raft", "prepare"].params)
    for name, example in EXAMPLES.items():
        assert name in helps
        assert f"{name}: {', '.join(example.stages)}" in helps


@pytest.mark.parametrize("command", [("promote", "one"), ("approve", "1"), ("rollback", "--reason", "x"), ("gc",)])
def test_the_former_name_of_rules_is_a_mistake_that_names_the_new_one(raft: Raft, command: tuple[str, ...]) -> None:
    code, out, err = raft(*command, "--policy", "mine.yaml")
    assert (code, out) == (exits.USERS_MISTAKE, "")
    assert "--rules mine.yaml" in err
    code, out, _ = raft(command[0], "--help")
    assert "--rules" in out
    assert "--policy" not in out


def test_gc_states_its_rules_with_their_defaults() -> None:
    params = {param.name: param for param in PAGES["raft", "gc"].params}
    for name, field in Retention.model_fields.items():
        default = str(field.default).lower() if isinstance(field.default, bool) else f"{field.default:g}"
        assert f"{name}={default}" in params["rules"].show_default
        assert name in params["overrides"].help
