"""What the README shows exists: its configuration, commands, files, folders and variables."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
import yaml

from flows.cli.app import app
from raft_core.config.loading import check_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def fenced(language: str) -> list[str]:
    """The README's code blocks of one language."""
    blocks = TEXT.split("```")[1::2]
    return [code for first, _, code in (block.partition("\n") for block in blocks) if first == language]


def tree() -> str:
    """The README's list of folders."""
    (found,) = [block for block in fenced("") if block.startswith("flows/")]
    return found


def test_its_configuration_and_its_reward_work() -> None:
    (configuration,), (reward,) = fenced("yaml"), fenced("python")
    config = check_config(yaml.safe_load(configuration), where="README.md")
    (function,) = config.scoring.rewards
    assert function.reference == "my_reward.py:score"
    names: dict[str, Callable[[list[str], list[str]], list[float]]] = {}
    exec(reward, names)
    assert names["score"](["a", "b"], ["Thank you", "no"]) == [1.0, 0.0]


def test_every_command_exists() -> None:
    raft = typer.main.get_command(app)
    spans = [*re.findall(r"`(raft [^`]*)`", TEXT), *re.findall(r"^(raft .*)$", "\n".join(fenced("")), re.MULTILINE)]
    assert len(spans) > 15
    for span in spans:
        command, words = raft, span.split()[1:]
        while words and hasattr(command, "commands") and re.fullmatch(r"[a-z-]+", words[0]):
            assert words[0] in command.commands, span
            command = command.commands[words.pop(0)]
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("-")} <= options, span


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'src="([^"]+)"', text)]
    for link in links:
        if not re.match(r"https?:|#", link):
            assert (page.parent / link.split("#")[0]).exists(), link


def test_every_folder_of_the_tree_exists() -> None:
    folders = {path.name for path in ROOT.rglob("*") if path.is_dir() and ".venv" not in path.parts}
    named = re.findall(r"(?:^|\s)(\w+)/(?=\s)", tree())
    assert len(named) > 30
    assert [name for name in named if name not in folders] == []


def test_every_package_of_the_code_is_in_the_tree() -> None:
    for floor in ("flows", "tasks", "raft_core"):
        for folder in (ROOT / floor).iterdir():
            if folder.is_dir() and [file for file in folder.glob("*.py") if file.name != "__init__.py"]:
                assert f"{folder.name}/" in tree(), folder


def test_every_variable_is_one_that_the_code_reads() -> None:
    names = re.findall(r"^\| `([A-Z_]+)` \|", TEXT, re.MULTILINE)
    assert "RAFT_WORKSPACE" in names
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "flows").rglob("*.py"))
    code += "".join(path.read_text(encoding="utf-8") for path in (ROOT / "raft_core").rglob("*.py"))
    assert [name for name in names if name not in code] == []


def test_the_picture_is_small() -> None:
    from PIL import Image

    picture = ROOT / "docs" / "audit-page.png"
    assert picture.stat().st_size <= 250_000
    with Image.open(picture) as image:
        assert image.width <= 1400
