"""``raft config …``: show, check and document configurations."""

from typing import TYPE_CHECKING

import typer

from flows.cli.commands.shell import TAKES_OVERRIDES, ConfigFile, Overrides, examples, settled_config
from flows.process.environment import workspace_folder

if TYPE_CHECKING:
    from raft_core.config.run import RaftConfig

app = typer.Typer(
    help="Show and check configurations, and list all keys.",
    no_args_is_help=True,
    epilog=examples(
        ("raft config validate configs/tiny.yaml", "before an alignment"),
        ("raft config reference", "every key, with default and meaning"),
    ),
)


@app.command(
    "show",
    context_settings=TAKES_OVERRIDES,
    epilog=examples(
        ("raft config show configs/tiny.yaml", "what raft align would use"),
        ("raft config show configs/tiny.yaml seed=1 > mine.yaml", "write a file to edit"),
    ),
)
def config_show(config: ConfigFile, overrides: Overrides = None) -> None:
    """Print the complete configuration as YAML, with every default written out.

    Files named by `extends` are merged, and the overrides are applied. The
    output is itself a valid configuration.
    """
    from raft_core.config.loading import dump_config

    typer.echo(dump_config(settled_config(config, overrides)), nl=False)


@app.command(
    "validate",
    context_settings=TAKES_OVERRIDES,
    epilog=examples(
        ("raft config validate mine.yaml", "check the file and all it names"),
        ("raft config validate mine.yaml sampling.top_p=0.9", "the same, with another value"),
    ),
)
def config_validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a configuration and everything it names: models, prompts, rewards.

    These are the checks that raft align makes before it samples. All faults
    are reported at once. Nothing is written and no weights are loaded, but
    reward functions of your own are imported. Parts of an example that are not
    prepared yet are listed as not checked.

    Exit code 0: valid; the name that the run would get is printed.
    Exit code 2: something is wrong.
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


@app.command("reference", epilog=examples(("raft config reference | less", "read it in the terminal")))
def config_reference() -> None:
    """Print every configuration key with type, default, bounds and meaning.

    The output is Markdown; the repository keeps it as docs/configuration.md.
    """
    from flows.cli.reference import reference

    typer.echo(reference(), nl=False)
