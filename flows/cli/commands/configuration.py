"""``raft config …``: show and check configurations."""

from typing import TYPE_CHECKING

import typer

from flows.cli.commands.shell import TAKES_OVERRIDES, ConfigFile, Overrides, settled_config
from flows.process.environment import workspace_folder

if TYPE_CHECKING:
    from raft_core.config.run import RaftConfig

app = typer.Typer(help="Show and check configurations.", no_args_is_help=True)


@app.command("show", context_settings=TAKES_OVERRIDES)
def config_show(config: ConfigFile, overrides: Overrides = None) -> None:
    """Print the resolved configuration, every default written out."""
    from raft_core.config.loading import dump_config

    typer.echo(dump_config(settled_config(config, overrides)), nl=False)


@app.command("validate", context_settings=TAKES_OVERRIDES)
def config_validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a configuration and all that it names, as raft align does before it samples; every fault is told at once.

    Nothing is started or written. Exit code 2 where something is wrong.
    """
    from flows.cli.exits import tell
    from raft_core.config.loading import default_run_name
    from tasks.loop.examine import examine

    settled = settled_config(config, overrides)
    found = examine(settled, workspace_folder(), [lambda: _check_execution(settled)])
    for warning in found.warnings:
        tell(f"warning: {warning}")
    for part in found.unprepared:
        tell(f"not checked: {part} (raft align prepares it first; raft prepare does so now)")
    typer.echo(f"{config} is valid; its run is called {default_run_name(settled)}")


def _check_execution(config: "RaftConfig") -> None:
    if config.execution.shards == "ray":
        from flows.loop.fan_out import fan_out

        fan_out(config.execution)


@app.command("reference")
def config_reference() -> None:
    """Print the reference of every key as Markdown (docs/configuration.md)."""
    from flows.cli.reference import reference

    typer.echo(reference(), nl=False)
