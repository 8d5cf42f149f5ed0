"""``raft …``: the application. Its commands lie in ``flows.commands``, one module a subject.

Heavy libraries are imported inside the commands that need them.
"""

import os
import sys
from typing import Annotated

import typer

from flows import exits
from flows.commands import (
    alignment,
    cleaning,
    configuration,
    deployment,
    exports,
    ledger,
    lineage,
    machine,
    promotion,
    runs,
    synchronisation,
)

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set unless the user set them: no library calls home, and none talks over the progress bars."""

app = typer.Typer(
    help="RAFT: sample, score, validate, select, fine-tune, evaluate, repeat.",
    no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, rich_markup_mode="rich",
)  # fmt: skip
app.add_typer(alignment.app)
app.add_typer(runs.app)
app.add_typer(promotion.app)
app.add_typer(ledger.app, name="ledger")
app.add_typer(synchronisation.app)
app.add_typer(lineage.app, name="lineage")
app.add_typer(exports.app, name="export")
app.add_typer(configuration.app, name="config")
app.add_typer(machine.app)
app.add_typer(deployment.app)
app.add_typer(cleaning.app)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """RAFT: sample, score, validate, select, fine-tune, evaluate, repeat."""


def main() -> None:
    """Entry point of the ``raft`` command."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    exits.end_on_sigterm()
    sys.exit(exits.run_command(app, sys.argv[1:]))
