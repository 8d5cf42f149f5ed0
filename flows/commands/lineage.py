"""``raft lineage …``: where a model comes from."""

from typing import Annotated

import typer

from flows.commands.shell import AsJson, print_json, standard_output, tracking_uri, workspace_folder

app = typer.Typer(help="Where a model comes from.", no_args_is_help=True)


@app.command("show")
def lineage_show(
    run: Annotated[str | None, typer.Argument(metavar="[RUN[@N]|MODEL]", help="None: the latest run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the chain from a policy, or a registered model, back to its first prompts."""
    from dataclasses import asdict

    from flows.models import find_policy
    from flows.views.lineage import show_lineage
    from raft_core.records.lineage import lineage

    workspace = workspace_folder()
    chain = lineage(*find_policy(workspace, run, tracking_uri(workspace)))
    if as_json:
        print_json(asdict(chain))
    else:
        standard_output().print(show_lineage(chain))
