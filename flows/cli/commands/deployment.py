"""``raft deploy``: schedules on a Prefect server."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.commands.shell import TAKES_OVERRIDES, ConfigFile, Overrides
from flows.process.environment import DEFAULTS, workspace_folder

app = typer.Typer()

Schedule = Annotated[str | None, typer.Option(metavar="CRON", help="None: no such deployment.")]


@app.command(context_settings=TAKES_OVERRIDES)
def deploy(
    config: ConfigFile,
    overrides: Overrides = None,
    cron: Annotated[
        str | None, typer.Option(metavar="CRON", help='"0 3 * * *" is every night at three; none: by hand.')
    ] = None,
    every: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=10, help="Start so often, instead of --cron.")
    ] = None,
    timezone: Annotated[str, typer.Option(help="Time zone of the schedules, such as Europe/Berlin.")] = "UTC",
    overlap: Annotated[str, typer.Option(metavar="queue|refuse", help="While the model is being aligned.")] = "queue",
    run_name: Annotated[str | None, typer.Option(help="Template: {config}, {date}, {time} are filled in.")] = None,
    new_seed: Annotated[bool, typer.Option("--new-seed", help="Other prompts and samples each time.")] = False,
    audit_cron: Schedule = None,
    audit_share: Annotated[float, typer.Option(help="Of the commits, re-hashed in one sweep.")] = 0.1,
    gc_cron: Schedule = None,
    promotion_cron: Schedule = None,
    webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="Told of failures, stops, promotions of all deployments.")
    ] = None,
    no_webhook: Annotated[bool, typer.Option("--no-webhook", help="Remove the webhook of all deployments.")] = False,
    pool: Annotated[str | None, typer.Option(help="A work pool; its workers do the work.")] = None,
    image: Annotated[str | None, typer.Option(help="For a pool of Docker or Kubernetes.")] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Do the work here, until interrupted.")] = False,
) -> None:
    """Put an alignment on a Prefect server's schedule, with audits and retention beside it."""
    from flows.orchestration import deployments as deploying
    from flows.orchestration.scheduled import RUN_NAME

    asked: dict[str, Any] = {
        "config": str(_below(config, workspace_folder())),
        "workspace": workspace_folder(),
        "overrides": overrides or (),
        "cron": cron,
        "every_s": every,
        "timezone": timezone,
        "overlap": overlap,
        "run_name": run_name or RUN_NAME,
        "new_seed": new_seed,
        "audit_cron": audit_cron,
        "audit_share": audit_share,
        "gc_cron": gc_cron,
        "promotion_cron": promotion_cron,
        "webhook": webhook,
        "no_webhook": no_webhook,
        "pool": pool,
        "image": image,
    }
    checked = deploying.plan(**asked)
    if serve:
        deploying.serve(checked, DEFAULTS, typer.echo)
        return
    deploying.apply(checked, DEFAULTS, typer.echo)
    typer.echo(
        f"work it off: prefect worker start --pool {pool}" if pool else "work it off: the same command with --serve"
    )


def _below(config: Path, workspace: Path) -> Path:
    """Relative to the workspace where it lies in there, so that a worker with another path finds it."""
    whole = config.absolute()
    return whole.relative_to(workspace) if whole.is_relative_to(workspace) else whole
