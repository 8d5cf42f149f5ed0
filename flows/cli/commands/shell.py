"""What the commands share: arguments, and how they print."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.cli.document import print_json as print_json
from flows.process.environment import ledger_uri, tracking_uri, workspace_folder
from raft_core.errors import ConfigError, RaftError

if TYPE_CHECKING:
    from raft_core.config.run import RaftConfig
    from raft_core.records.run import Run


def _not_an_option(path: Path) -> Path:
    """With TAKES_OVERRIDES an unknown option in front of the configuration would be taken for it."""
    if str(path).startswith("-"):
        raise ConfigError(
            f"{path} is not an option of this command",
            expected="CONFIG [KEY=VALUE]...",
            hint="write the configuration first, then overrides without dashes; --help lists the options",
        )
    return path


ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="A YAML file, such as configs/tiny.yaml.", callback=_not_an_option)
]


def override_keys(incomplete: str) -> list[str]:
    """The keys of a configuration that begin, or whose last part begins, with what was typed."""
    from raft_core.config.overrides import key_paths
    from raft_core.config.run import RaftConfig

    starts = (incomplete, f".{incomplete}")
    return [f"{path}=" for path in key_paths(RaftConfig) if path.startswith(starts[0]) or starts[1] in path]


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="sampling.top_p=0.9, or top_p=0.9 where one key alone is called so.",
        autocompletion=override_keys,
    ),
]
TAKES_OVERRIDES = {"ignore_unknown_options": True}
"""Context settings: ``--sampling.top_p=0.9`` then arrives as an override, and is told how it is written."""


def settled_config(path: Path, overrides: list[str] | None) -> "RaftConfig":
    """The configuration in ``path`` with ``overrides``; a key that was found by its end is told on standard error."""
    from flows.cli.exits import tell
    from raft_core.config.loading import load_config

    return load_config(path, overrides or (), say=tell)


def run_names(incomplete: str) -> list[str]:
    """The runs of this workspace, for the shell's completion."""
    from raft_core.records.overview import run_paths

    return [path.name for path in run_paths(workspace_folder()) if path.name.startswith(incomplete)]


RunName = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="Its name; none: the latest.", autocompletion=run_names)
]
AsJson = Annotated[bool, typer.Option("--json", help="For scripts: one JSON document on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
By = Annotated[str | None, typer.Option(help="Who acts; none: RAFT_USER, else the login name.")]


def standard_output() -> Console:
    """Standard output: as wide as the terminal; 120 characters in a log."""
    console = Console(highlight=False)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(highlight=False, width=120)


def confirm_seen(run: "Run", iteration: int | None, workspace: Path) -> None:
    """Refuse a policy (None: any of the run's) that registry, ledger or pointers know otherwise; say who was not asked.

    Raises IntegrityError.
    """
    from flows.cli import exits
    from raft_core.records.policy_ref import policy_ref
    from raft_core.records.run import read_chain
    from tasks.audit.witnesses import ask
    from tasks.promotion.ledger import open_ledger

    upto = len(read_chain(run)) - 2 if iteration is None else iteration
    uri, ledger = tracking_uri(workspace), open_ledger(ledger_uri(workspace))
    for unseen in ask(policy_ref(run, upto), workspace, uri, ledger, must_answer=False):
        exits.tell(f"warning: not seen: {unseen}")


def _withdrawn(workspace: Path, name: str, best: int | None) -> str | None:
    """In words: that the model of a run was withdrawn; None: it was not, or no ledger says anything."""
    from raft_core.audit.withdrawn import find_withdrawal
    from raft_core.records.overview import find_run
    from raft_core.records.policy_ref import policy_ref
    from tasks.promotion.ledger import open_ledger

    if best is None:
        return None
    try:
        ref = policy_ref(find_run(workspace, name), best)
        found = find_withdrawal(open_ledger(ledger_uri(workspace)).entries(), ref)
    except (RaftError, OSError):  # of no account for a run: whoever promotes is told
        return None
    return found[1] if found else None


def show_end(workspace: Path, name: str, *, nothing_to_do: bool, as_json: bool) -> None:
    from flows.cli.views.table import print_run, what_next
    from raft_core.records.overview import find_run, view_run

    view, console = view_run(find_run(workspace, name)), standard_output()
    if as_json:
        return print_json(view.as_json())
    if nothing_to_do:
        console.print(f"nothing had to be done: run {name} is complete and every byte of it verifies", markup=False)
    if (gone := _withdrawn(workspace, name, view.best)) is not None:
        told = f"{gone}: raft align CONFIG --name NEW aligns without what was forgotten"
        console.print(told, markup=False, soft_wrap=True, style="yellow")
    print_run(console, view)
    console.print(what_next(name, tracking_uri(workspace)), markup=False, soft_wrap=True)
