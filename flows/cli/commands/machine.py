"""``raft doctor``: check that this machine has what RAFT needs."""

import os

import typer

from flows.cli import exits
from flows.cli.commands.shell import OPERATE, AsJson, examples, print_json, standard_output
from flows.process.environment import tracking_uri, workspace_folder

app = typer.Typer()


@app.command(
    rich_help_panel=OPERATE,
    epilog=examples(("raft doctor", "after the installation"), ("raft doctor --json", "for a script")),
)
def doctor(as_json: AsJson = False) -> None:
    """Check that this machine has what RAFT needs.

    Looks at Python, packages, compiler, processor cores, memory, disk, GPU,
    prepared examples, DVC and MLflow. One line each: a check mark is fine, an
    exclamation mark is a warning, a cross is missing; an arrow shows what to
    do. Nothing is changed.

    Exit code 4: something that an alignment needs is missing.
    """
    from flows.cli.doctor import diagnose, show_findings

    workspace = workspace_folder()
    findings = diagnose(workspace, tracking_uri(workspace), os.environ.get("CXX"))
    if as_json:
        print_json([finding.as_json() for finding in findings])
    else:
        standard_output().print(show_findings(findings))
    if any(finding.level == "missing" for finding in findings):
        raise typer.Exit(exits.FAILED_STEP)
