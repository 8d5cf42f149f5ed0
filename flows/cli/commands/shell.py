"""What the commands share: arguments, options, the parts of a help page, and how results are printed."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from flows.cli.document import print_json as print_json
from flows.process.environment import ledger_uri, tracking_uri, workspace_folder
from raft_core.errors import ConfigError, RaftError

if TYPE_CHECKING:
    from raft_core.config.run import RaftConfig
    from raft_core.records.run import Run


ALIGN, RESULTS, PROMOTE, AUDIT, OPERATE = (
    "Run an alignment",
    "Look at results",
    "Promote a model",
    "Trace, audit and publish a model",
    "Operate",
)
"""Sections of ``raft --help``, by what a person wants to do."""

HELP_WIDTH = 78
"""Characters of a help page on a terminal of 80 columns."""


def examples(*lines: tuple[str, str]) -> str:
    """The end of a help page: command lines that can be copied, each with a comment that says what it does."""
    width = max(len(command) for command, _ in lines)
    shown = [f"{command:<{width}}  # {meaning}" for command, meaning in lines]
    if max(map(len, shown)) > HELP_WIDTH:
        shown = [f"# {meaning}\n{command}\n" for command, meaning in lines]
    return escape("Examples:\n\n" + "\n".join(shown).rstrip())


def flag(*names: str, help: str, panel: str | None = None) -> Any:
    """An option that takes no value, in the section ``panel`` of the help page; typer would show "<bool>" beside it."""
    return typer.Option(*names, metavar="", help=help, rich_help_panel=panel)


def _not_an_option(path: Path) -> Path:
    """With TAKES_OVERRIDES an unknown option before CONFIG would be taken for the configuration itself."""
    if str(path).startswith("-"):
        raise ConfigError(
            f"{path} is not an option of this command",
            expected="CONFIG [KEY=VALUE]...",
            hint="write the configuration first, then overrides without dashes; --help lists the options",
        )
    return path


ConfigFile = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG", help="Configuration file (YAML), such as configs/tiny.yaml.", callback=_not_an_option
    ),
]


def override_keys(incomplete: str) -> list[str]:
    """For the shell's completion: keys of a configuration that begin, or whose last part begins, with the input."""
    from raft_core.config.overrides import key_paths
    from raft_core.config.run import RaftConfig

    starts = (incomplete, f".{incomplete}")
    return [f"{path}=" for path in key_paths(RaftConfig) if path.startswith(starts[0]) or starts[1] in path]


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Values that replace those of CONFIG, such as sampling.temperature=0.9. The last part of a key is enough "
        "where it is unique: temperature=0.9. `raft config reference` lists all keys.",
        autocompletion=override_keys,
    ),
]
TAKES_OVERRIDES = {"ignore_unknown_options": True}
"""Context settings: ``--sampling.top_p=0.9`` is parsed as an override; its error then says to drop the dashes."""


def settled_config(path: Path, overrides: list[str] | None) -> "RaftConfig":
    """The configuration in ``path`` with ``overrides``; standard error says which key an abbreviation stands for."""
    from flows.cli.exits import tell
    from raft_core.config.loading import load_config

    return load_config(path, overrides or (), say=tell)


def run_names(incomplete: str) -> list[str]:
    """For the shell's completion: names of runs in this workspace."""
    from raft_core.records.overview import run_paths

    return [path.name for path in run_paths(workspace_folder()) if path.name.startswith(incomplete)]


RunName = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="Name of the run; `raft runs` lists them.",
        show_default="the run that was last worked on",
        autocompletion=run_names,
    ),
]
AsJson = Annotated[
    bool, flag("--json", help="For scripts: print the result, or the error, as one JSON document on standard output.")
]
Quiet = Annotated[bool, flag("--quiet", "-q", help="Do not show progress.")]
By = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Your name, for the ledger.",
        show_default="the environment variable RAFT_USER, else your login name",
    ),
]


def _renamed(value: str | None) -> None:
    if value is not None:
        raise ConfigError(
            "the option --policy is now called --rules",
            got=f"--policy {value}",
            expected="--rules FILE",
            hint=f"write --rules {value}",
        )


OldPolicyOption = Annotated[
    str | None, typer.Option("--policy", metavar="FILE", hidden=True, callback=_renamed, help="Former name of --rules.")
]
"""Scripts that still say --policy end with exit code 2 and the new name."""


def standard_output() -> Console:
    """A console on standard output: as wide as the terminal, or 120 characters where there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(highlight=False, width=120)


def confirm_seen(run: "Run", iteration: int | None, workspace: Path) -> None:
    """Check an iteration (None: every iteration) of ``run`` against what registry, ledger and DVC pointers recorded.

    Each of them that could not be read is named in a warning. Raises IntegrityError where one disagrees.
    """
    from flows.cli import exits
    from raft_core.records.policy_ref import policy_ref
    from raft_core.records.run import read_chain
    from tasks.audit.witnesses import ask
    from tasks.promotion.ledger import open_ledger

    upto = len(read_chain(run)) - 2 if iteration is None else iteration
    uri, ledger = tracking_uri(workspace), open_ledger(ledger_uri(workspace))
    for unseen in ask(policy_ref(run, upto), workspace, uri, ledger, must_answer=False):
        exits.tell(f"warning: not checked: {unseen}")


def _withdrawn(workspace: Path, name: str, best: int | None) -> str | None:
    """What to say if the best model of a run was withdrawn; None if it was not, or if there is no ledger."""
    from raft_core.audit.withdrawn import find_withdrawal
    from raft_core.records.overview import find_run
    from raft_core.records.policy_ref import policy_ref
    from tasks.promotion.ledger import open_ledger

    if best is None:
        return None
    try:
        ref = policy_ref(find_run(workspace, name), best)
        found = find_withdrawal(open_ledger(ledger_uri(workspace)).entries(), ref)
    except (RaftError, OSError):  # only a notice here: raft promote reports the error
        return None
    return found[1] if found else None


def show_end(workspace: Path, name: str, *, nothing_to_do: bool, as_json: bool) -> None:
    """Print the table of a run that has ended, and the commands to look at it further."""
    from flows.cli.views.table import print_run, what_next
    from raft_core.records.overview import find_run, view_run

    view, console = view_run(find_run(workspace, name)), standard_output()
    if as_json:
        return print_json(view.as_json())
    if nothing_to_do:
        console.print(
            f"nothing had to be done: run {name} is complete and all its files match their digests", markup=False
        )
    if (withdrawn := _withdrawn(workspace, name, view.best)) is not None:
        advice = f"{withdrawn}: raft align CONFIG --name NEW aligns without what was forgotten"
        console.print(advice, markup=False, soft_wrap=True, style="yellow")
    print_run(console, view)
    console.print(what_next(name, tracking_uri(workspace)), markup=False, soft_wrap=True)
