"""``raft deploy``: alignments, audits, gc and promotion checks on the schedule of a Prefect server."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.commands.shell import OPERATE, TAKES_OVERRIDES, ConfigFile, Overrides, examples, flag
from flows.process.environment import DEFAULTS, workspace_folder

app = typer.Typer()

SCHEDULES, RUNS, NOTIFICATIONS, WORKERS = "Schedules", "Runs", "Notifications", "Where the work is done"
"""Sections of ``raft deploy --help``."""


def _option(metavar: str, panel: str, help: str, **more: Any) -> Any:
    return typer.Option(metavar=metavar, rich_help_panel=panel, help=help, **more)


def _schedule(what: str) -> Any:
    help = f"Schedule of {what}, as a cron expression."
    return _option("CRON", SCHEDULES, help, show_default="no such deployment")


CronOption = Annotated[
    str | None,
    _option(
        "CRON",
        SCHEDULES,
        'Schedule of the alignment, as a cron expression; "0 3 * * *" is every night at three.',
        show_default="no schedule: runs are started by hand",
    ),
]
EveryOption = Annotated[
    float | None, _option("SECONDS", SCHEDULES, "Interval of the alignment in seconds, instead of --cron.", min=10)
]
TimezoneOption = Annotated[str, _option("ZONE", SCHEDULES, "Time zone of all schedules, such as Europe/Berlin.")]
AuditCron = Annotated[str | None, _schedule("an audit, which checks the digests of recorded files")]
AuditShare = Annotated[
    float,
    _option(
        "SHARE",
        SCHEDULES,
        "Share of all commits whose files one audit hashes again, above 0 and up to 1; the others have their turn in "
        "later audits.",
    ),
]
GcCron = Annotated[str | None, _schedule("raft gc --yes, which deletes weights that nothing needs")]
PromotionCron = Annotated[
    str | None, _schedule("a promotion check, which compares the newest candidate with the champion")
]
OverlapOption = Annotated[
    str,
    _option(
        "queue|refuse",
        RUNS,
        "What a run does while another run aligns the same model: queue waits for it, refuse ends at once.",
    ),
]
RunNameTemplate = Annotated[
    str | None,
    _option(
        "TEMPLATE",
        RUNS,
        "Name of each run; {config}, {date} and {time} (UTC, as scheduled) are filled in.",
        show_default="{config}-{date}-{time}",
    ),
]
NewSeed = Annotated[
    bool,
    flag(
        "--new-seed",
        panel=RUNS,
        help="Draw other prompts and samples in each run. Without it, a run of an unchanged configuration repeats the "
        "one before.",
    ),
]
Webhook = Annotated[
    str | None,
    _option(
        "URL",
        NOTIFICATIONS,
        "Address that is called (JSON, POST) on failures, stops and promotions. It serves all deployments of the "
        "Prefect server.",
        show_default="the present one stays",
    ),
]
NoWebhook = Annotated[bool, flag("--no-webhook", panel=NOTIFICATIONS, help="Remove the notification webhook.")]
Pool = Annotated[str | None, _option("POOL", WORKERS, "Prefect work pool whose workers do the work.")]
Image = Annotated[
    str | None,
    _option("IMAGE", WORKERS, "Container image of the jobs; only with a --pool of type docker or kubernetes."),
]
Serve = Annotated[
    bool, flag("--serve", panel=WORKERS, help="Do the scheduled work in this process, until it is interrupted.")
]


@app.command(
    context_settings=TAKES_OVERRIDES,
    rich_help_panel=OPERATE,
    epilog=examples(
        ('raft deploy configs/reviews.yaml --cron "0 3 * * *" --serve', "every night at three, on this machine"),
        ('raft deploy configs/reviews.yaml --cron "0 3 * * *" --pool gpu', "the same, done by workers of a work pool"),
        ("raft deploy configs/reviews.yaml", "without a schedule: started by hand in Prefect's page"),
    ),
)
def deploy(
    config: ConfigFile,
    overrides: Overrides = None,
    cron: CronOption = None,
    every: EveryOption = None,
    timezone: TimezoneOption = "UTC",
    overlap: OverlapOption = "queue",
    run_name: RunNameTemplate = None,
    new_seed: NewSeed = False,
    audit_cron: AuditCron = None,
    audit_share: AuditShare = 0.1,
    gc_cron: GcCron = None,
    promotion_cron: PromotionCron = None,
    webhook: Webhook = None,
    no_webhook: NoWebhook = False,
    pool: Pool = None,
    image: Image = None,
    serve: Serve = False,
) -> None:
    """Put an alignment on the schedule of a Prefect server.

    Audits, gc and promotion checks can be scheduled with it. Each becomes a
    deployment, named after the configuration: raft-align/NAME,
    raft-audit/NAME, raft-gc/NAME, raft-promotion/NAME. Deploying again
    replaces them and removes those that are no longer asked for.

    A Prefect server must be running: start one with `prefect server start`,
    and set the environment variable PREFECT_API_URL to its address.

    The work itself is done by this process with --serve, or by the workers of
    a work pool with --pool.
    """
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
    typer.echo(f"to start a worker: prefect worker start --pool {pool}" if pool else "to do the work here: add --serve")


def _below(config: Path, workspace: Path) -> Path:
    """``config`` relative to the workspace if it is inside, so that a worker with the workspace elsewhere finds it."""
    whole = config.absolute()
    return whole.relative_to(workspace) if whole.is_relative_to(workspace) else whole
