"""``raft config …``: show and check configurations."""

import typer

from flows.commands.shell import TAKES_OVERRIDES, ConfigFile, Overrides, settled_config

app = typer.Typer(help="Show and check configurations.", no_args_is_help=True)


@app.command("show", context_settings=TAKES_OVERRIDES)
def config_show(config: ConfigFile, overrides: Overrides = None) -> None:
    """Print the resolved configuration, every default written out."""
    from raft_core.loading import dump_config

    typer.echo(dump_config(settled_config(config, overrides)), nl=False)


@app.command("validate", context_settings=TAKES_OVERRIDES)
def config_validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a configuration; every fault is told at once."""
    from raft_core.loading import default_run_name

    typer.echo(f"{config} is valid; its run is called {default_run_name(settled_config(config, overrides))}")


@app.command("reference")
def config_reference() -> None:
    """Print the reference of every key as Markdown (docs/configuration.md)."""
    from flows.reference import reference

    typer.echo(reference(), nl=False)
