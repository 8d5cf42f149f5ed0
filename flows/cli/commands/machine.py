"""``raft doctor``: is everything there?"""

import os

import typer

from flows.cli import exits
from flows.cli.commands.shell import AsJson, print_json, standard_output
from flows.process.environment import tracking_uri, workspace_folder

app = typer.Typer()


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this machine: versions, compiler, cores, memory, disk, parts, addresses."""
    from flows.cli.doctor import diagnose, show_findings

    workspace = workspace_folder()
    findings = diagnose(workspace, tracking_uri(workspace), os.environ.get("CXX"))
    if as_json:
        print_json([finding.as_json() for finding in findings])
    else:
        standard_output().print(show_findings(findings))
    if any(finding.level == "missing" for finding in findings):
        raise typer.Exit(exits.FAILED_STEP)
