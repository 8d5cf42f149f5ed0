"""Log alignments to MLflow: one MLflow run per run directory, with everything that is committed, nothing twice.

Each call writes what MLflow lacks, so calls that were missed, interrupted or repeated lead to the same records.
Metrics are read before they are written, since MLflow keeps every point that it is sent.
"""

import getpass
import json
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.data.dataset_source_registry import get_dataset_source_from_json
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag

from raft_core.files.plain_json import MAX_LOG_BYTES, read_json
from raft_core.records.run import BASE, Commit, Run, early_end, read_chain, read_events
from raft_core.records.tables import EVALUATION, VALIDATION, read_table
from raft_core.redaction import redacted
from raft_core.types import content_id
from tasks.loop.decide import decide, read_report
from tasks.loop.decide import label as title
from tasks.tracking.connection import connected, experiment_id, find_run, label, shown
from tasks.versioning.listing import pointer_md5
from tasks.versioning.pointers import PAYLOADS

MAX_DIGEST_CHARS = 36
MAX_PARAM_CHARS = 500
MAX_NAME_CHARS = 250
BATCH_METRICS, BATCH_ITEMS = 1000, 100
"""Limits of MLflow: a dataset's digest, a parameter's value (of older servers), a name, items of a request."""

NESTED = {"slices": "slices", "rewards": "rewards", "gold_rewards": "gold_rewards"}
"""Tables in the scorecard → prefix of their metrics."""
TRAINING = {"loss": "train/loss", "learning_rate": "train/learning_rate", "grad_norm": "train/grad_norm"}
"""Columns of the fine-tuning log → metrics. Their step counts optimiser steps over all iterations."""

NOTE = "mlflow.note.content"
TABLES = "mlflow.loggedArtifacts"
"""Tag in which MLflow's page looks for the tables that it can show."""
SAMPLES = "samples.json"
SAMPLES_SHOWN = 20
"""Held-out completions per iteration in MLflow; the tables of the run hold all of them."""

_REPORT = re.compile(r"/validation_[^/]*\.md$")


def track(run: Run, uri: str, *, look: bool = False) -> str | None:
    """Log everything that is committed; returns the id of the MLflow run, None while nothing is committed.

    ``look``: write files and datasets again even if a tag says that they are there.
    Raises StepError if MLflow cannot be reached or rejects the records.
    """
    chain = read_chain(run)
    if not chain:
        return None
    with connected(uri) as client:
        experiment = experiment_id(client, run, uri)
        found = find_run(client, experiment, run, chain) or client.create_run(
            experiment, run_name=run.name, tags={"raft.run": run.name, "raft.run_digest": chain[0].digest}
        )
        run_id = str(found.info.run_id)
        known: Mapping[str, str] = found.data.tags
        _log_params(client, found, run)
        _log_points(client, found, points(run, chain))
        for commit in chain:
            if look or known.get(f"raft.commit.{label(commit.iteration)}") != commit.digest:
                _log_files(client, run_id, run, commit)
                _log_inputs(client, run_id, run, commit)
        wanted = {**_tags(run, chain), **_page(run, chain, known)}
        missing = [RunTag(key, value) for key, value in wanted.items() if known.get(key) != value]
        for batch in _batches(missing, BATCH_ITEMS):
            client.log_batch(run_id, tags=batch)
        _set_status(client, found, wanted["raft.status"])
    return run_id


def run_link(run: Run, uri: str) -> str | None:
    """The address of the run's page in MLflow; None if MLflow is not an http(s) server, or does not have the run.

    Raises StepError if MLflow cannot be reached.
    """
    events = [event for event in read_events(run, "projected") if event.get("mlflow_run")]
    if not events or not uri.startswith(("http://", "https://")):
        return None
    run_id = str(events[-1]["mlflow_run"])
    with connected(uri) as client:
        experiment = client.get_run(run_id).info.experiment_id
    return f"{shown(uri).rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"


def erase_reports(run: Run, iterations: Collection[int], uri: str) -> None:
    """After rows were erased: replace the files of ``iterations`` in MLflow, and empty their validation reports.

    Raises StepError if MLflow cannot be reached or rejects the records.
    """
    chain = read_chain(run)
    with connected(uri) as client:
        experiment = client.get_experiment_by_name(run.config.tracking.experiment)
        found = find_run(client, experiment.experiment_id, run, chain) if experiment and chain else None
        if found is None:
            return
        run_id = str(found.info.run_id)
        for commit in chain:
            if commit.iteration in iterations:
                for file in client.list_artifacts(run_id, _place(commit)):
                    if _REPORT.search(file.path):
                        client.log_text(run_id, "rows of this iteration were erased\n", file.path)
                _log_files(client, run_id, run, commit)


def points(run: Run, chain: Sequence[Commit]) -> list[Metric]:
    """All metrics of the committed iterations. Step: the iteration, −1 for the base."""
    spent = _spent(run)
    times = _commit_times(run)
    before = 0
    every: list[Metric] = []
    for commit in chain:
        iteration, when = commit.iteration, times.get(commit.iteration, int(time.time() * 1000))
        values = {**_flat(read_report(run, iteration)), **spent.get(iteration, {})}
        every += [Metric(name, float(value), when, iteration) for name, value in values.items()]
        log = _training_log(run, iteration)
        for row in log:
            step = before + int(row["step"])
            every += [
                Metric(name, float(row[column]), when, step)
                for column, name in TRAINING.items()
                if row.get(column) is not None
            ]
        before += max((int(row["step"]) for row in log), default=0)
    return every


def flat_params(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A configuration as dotted names and values. Values that are too long are cut; config.yaml is complete."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flat_params(value, f"{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            flat |= flat_params({str(i): item for i, item in enumerate(value)}, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            flat[name[:MAX_NAME_CHARS]] = text if len(text) <= MAX_PARAM_CHARS else f"{text[: MAX_PARAM_CHARS - 1]}…"
    return flat


def metric_name(name: str) -> str:
    """A name that MLflow accepts; a changed name ends with a digest, so that different names stay different."""
    clean = re.sub(r"[^A-Za-z0-9_\-. /]", "_", name)[:MAX_NAME_CHARS]
    return clean if clean == name else f"{clean[: MAX_NAME_CHARS - 7]}-{content_id(name)[:6]}"


def _flat(report: Mapping[str, Any]) -> dict[str, float]:
    flat = {name: value for name, value in report.items() if isinstance(value, int | float) and name != "iteration"}
    for table, prefix in NESTED.items():
        for name, value in (report.get(table) or {}).items():
            if value is not None:
                flat[metric_name(f"{prefix}/{name}")] = value
    return flat


def _spent(run: Run) -> dict[int, dict[str, float]]:
    """Iteration → seconds, tokens and peak memory of each step. Repeated steps are added up (peak memory: maximum)."""
    spent: dict[int, dict[str, float]] = {}
    for event in read_events(run, "step"):
        row = spent.setdefault(int(event["iteration"]), {})
        amounts = {"seconds": event.get("seconds"), "peak_rss_mb": event.get("peak_rss_mb")}
        if event.get("unit", "tokens") == "tokens":
            amounts["tokens"] = event.get("tokens") or None
        for kind, amount in amounts.items():
            name = f"{kind}_{event['step']}"
            if amount is not None:
                row[name] = max(row.get(name, 0), amount) if kind == "peak_rss_mb" else row.get(name, 0) + amount
    return spent


def _commit_times(run: Run) -> dict[int, int]:
    """Iteration → milliseconds since the epoch when it was committed."""
    commits = (event for event in read_events(run, "step") if event["step"] == "commit")
    return {e["iteration"]: int(datetime.fromisoformat(e["time"]).timestamp() * 1000) for e in commits}


def _training_log(run: Run, iteration: int) -> list[dict[str, Any]]:
    log: list[dict[str, Any]] = _finetuned(run, iteration).get("log", [])
    return log


def _finetuned(run: Run, iteration: int) -> dict[str, Any]:
    path = run.folder(iteration) / "finetune.json"
    result: dict[str, Any] = read_json(path, MAX_LOG_BYTES) if path.exists() else {}
    return result


def _log_params(client: MlflowClient, found: Any, run: Run) -> None:
    """Parameters cannot change in MLflow, so settings that do not affect results (tracking, …) are left out."""
    plain = redacted(run.config.model_dump(mode="json", exclude={"name", "tracking", "versioning", "execution"}))
    if trained := _finetuned(run, 0).get("trained"):
        plain = {**plain, "trained": {**trained, "untouched": sorted(trained["untouched"])}}
    wanted = flat_params(plain)
    missing = [Param(key, value) for key, value in wanted.items() if key not in found.data.params]
    for batch in _batches(missing, BATCH_ITEMS):
        client.log_batch(found.info.run_id, params=batch)


def _log_points(client: MlflowClient, found: Any, wanted: Sequence[Metric]) -> None:
    run_id = found.info.run_id
    there = {
        (name, point.step)
        for name in {metric.key for metric in wanted} & found.data.metrics.keys()
        for point in client.get_metric_history(run_id, name)
    }
    missing = [metric for metric in wanted if (metric.key, metric.step) not in there]
    for batch in _batches(missing, BATCH_METRICS):
        client.log_batch(run_id, metrics=batch)


def _log_files(client: MlflowClient, run_id: str, run: Run, commit: Commit) -> None:
    """Log scorecard, commit and validation of an iteration; logging a file again replaces it."""
    folder, place = run.folder(commit.iteration), _place(commit)
    if commit.iteration == BASE:
        client.log_artifact(run_id, str(run.path / "config.yaml"))
    for name in ("report.json", "commit.json"):
        client.log_artifact(run_id, str(folder / name), place)
    for report in sorted(folder.glob("validation_*.md")):
        client.log_artifact(run_id, str(report), place)
    if (table := run.table(commit.iteration, "validation")).exists():
        client.log_dict(run_id, {"checks": read_table(table, VALIDATION).to_pylist()}, f"{place}/validation.json")
    if (table := run.table(commit.iteration, "evaluation")).exists():
        names = ["prompt", "completion", "reward", "gold_reward"]
        rows = read_table(table, EVALUATION, names).slice(0, SAMPLES_SHOWN).to_pylist()
        data = [[title(commit.iteration), *(row[name] for name in names)] for row in rows]
        client.log_dict(run_id, {"columns": ["iteration", *names], "data": data}, f"{place}/{SAMPLES}")


def _place(commit: Commit) -> str:
    return f"iterations/{label(commit.iteration)}"


def _log_inputs(client: MlflowClient, run_id: str, run: Run, commit: Commit) -> None:
    """Log the prompts and the selected set of an iteration as datasets, with their digests."""
    inputs = []
    for name in ("prompts", "selected"):
        digest = commit.outputs.get(f"tables/{name}.parquet")
        if commit.iteration == BASE or digest is None:
            continue
        path = run.table(commit.iteration, name).resolve()
        source = get_dataset_source_from_json(json.dumps({"uri": str(path)}), "local")
        named = f"{run.name}/{label(commit.iteration)}/{name}"
        dataset = MetaDataset(source, name=named, digest=digest[:MAX_DIGEST_CHARS])
        tags = {"mlflow.data.context": "training", "raft.iteration": str(commit.iteration), "raft.sha256": digest}
        entity = dataset._to_mlflow_entity()
        inputs.append(DatasetInput(entity, [InputTag(key, value) for key, value in tags.items()]))
    if inputs:
        client.log_inputs(run_id, datasets=inputs)


def _tags(run: Run, chain: Sequence[Commit]) -> dict[str, str]:
    """Tags: digests of commits, DVC's hashes, the git commit, and the state of the run."""
    tags = {f"raft.commit.{label(commit.iteration)}": commit.digest for commit in chain}
    for commit in chain:
        for name in PAYLOADS:
            if (pointer := run.folder(commit.iteration) / f"{name}.dvc").exists():
                tags[f"dvc.{label(commit.iteration)}.{name}"] = pointer_md5(pointer)
    started = [event["git_commit"] for event in read_events(run, "started") if event.get("git_commit")]
    if started:
        tags["mlflow.source.git.commit"] = started[-1]
    decision = decide(run)
    over = decision is not None and not decision.go_on
    tags["raft.status"] = decision.kind if decision and over else "running"
    if decision:
        tags |= {"raft.reason": decision.reason, "raft.best": label(decision.best)}
    if not over and (end := early_end(run)) is not None:
        tags["raft.status"] = end[0]
        tags["raft.reason"] = f"see raft show {run.name}"  # the message may quote a prompt, and tags are not erased
    return tags


def _page(run: Run, chain: Sequence[Commit], known: Mapping[str, str]) -> dict[str, str]:
    """Tags that MLflow's own pages show: description, user, source, and the tables of sample completions."""
    tables = [f"{_place(commit)}/{SAMPLES}" for commit in chain if run.table(commit.iteration, "evaluation").exists()]
    tags = {
        "mlflow.source.name": f"raft align ({run.name})",
        "mlflow.source.type": "LOCAL",
        TABLES: json.dumps([{"path": path, "type": "table"} for path in tables]),
    }
    heading, text = _heading(run), _description(run)
    if known.get(NOTE, heading).startswith(heading):  # a description that a person wrote stays
        tags[NOTE] = text
    if "mlflow.user" not in known:
        with suppress(KeyError, OSError):  # a process may have no login name
            tags["mlflow.user"] = getpass.getuser()
    return tags


def _heading(run: Run) -> str:
    return f"**RAFT run `{run.name}`**"


def _description(run: Run) -> str:
    """Markdown: how the run stands and why, its best iteration, where the records are, and how to look at them."""
    decision, end = decide(run), early_end(run)
    state, reason, best = "running", "", ""
    if decision is not None:
        state = "running" if decision.go_on else decision.kind
        reason, best = decision.reason, f"- Best so far: {title(decision.best)}\n"
        if not decision.go_on:
            best = f"- Best: {title(decision.best)}\n"
    if end is not None and (decision is None or decision.go_on):
        state, reason = end[0], f"see `raft show {run.name}`"
    return (
        f"{_heading(run)}: {state}{f' ({reason})' if reason else ''}\n\n{best}"
        f"- Scorecards: `raft show {run.name}`\n"
        f"- Origin of every file: `raft lineage show {run.name}`\n"
        f"- Page for auditors: `raft export html {run.name}`\n"
        f"- Records: `runs/{run.name}` in the workspace; the artifacts here are copies of the small ones\n"
        f"- Held-out completions: artifacts `iterations/*/{SAMPLES}`\n"
    )


STATUS = {"running": "RUNNING", "failed": "FAILED", "interrupted": "KILLED"}
"""State of a run → MLflow's status; all other ends are FINISHED."""


def _set_status(client: MlflowClient, found: Any, status: str) -> None:
    wanted = STATUS.get(status, "FINISHED")
    if found.info.status == wanted:
        return
    if wanted == "RUNNING":
        client.update_run(found.info.run_id, status=wanted)
    else:
        client.set_terminated(found.info.run_id, wanted)


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
