"""``raft doctor``: is everything there?"""

import os

import typer

from flows import exits
from flows.commands.shell import AsJson, print_json, standard_output
from flows.environment import tracking_uri, workspace_folder

app = typer.Typer()


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this machine: versions, compiler, cores, memory, disk, parts, addresses."""
    from flows.doctor import diagnose, show_findings

    workspace = workspace_folder()
    findings = diagnose(workspace, tracking_uri(workspace), os.environ.get("CXX"))
    if as_json:
        print_json([finding.as_json() for finding in findings])
    else:
        standard_output().print(show_findings(findings))
    if any(finding.level == "missing" for finding in findings):
        raise typer.Exit(exits.FAILED_STEP)
