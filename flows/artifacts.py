"""What Prefect's pages show of a run: how far it is, the scorecard, and where its records lie."""

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, create_table_artifact

from raft_core.gates import Decision
from raft_core.records.run import Run, read_chain
from tasks.decide import label, read_report

SHOWN = ("reward", "reward_low", "reward_high", "gold_reward", "perplexity", "distinct_2", "kl", "headroom")


def publish(run: Run, decision: Decision) -> None:
    """Publish the run's progress, scorecard and records, under keys that stay the same."""
    reports = [read_report(run, commit.iteration) for commit in read_chain(run)]
    key = "".join(c if c.isalnum() else "-" for c in run.name.lower())
    progress = 100.0 if not decision.go_on else 100.0 * (len(reports) - 1) / run.config.iterations
    create_progress_artifact(progress, key=f"{key}-progress", description=decision.reason)
    rows = [{"iteration": label(r["iteration"]), **{name: r.get(name) for name in SHOWN}} for r in reports]
    create_table_artifact(rows, key=f"{key}-scorecard", description=decision.reason)
    create_markdown_artifact(
        f"# {run.name}\n\n{decision.reason}\n\n- records: `{run.path}`\n- table: `raft show {run.name}`\n"
        f"- lineage: `raft lineage show {run.name}`\n",
        key=f"{key}-records",
    )
