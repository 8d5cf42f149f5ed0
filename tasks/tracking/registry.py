"""MLflow's model registry: register the best iteration as ``candidate``, and look registered models up.

Weights are not copied: a version points to an external model whose artifacts are small: the commit, the scorecard and
the DVC pointers that bring the weights back.
"""

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from raft_core.errors import InputError
from raft_core.records.names import registered_name
from raft_core.records.run import BASE, Commit, Run, read_chain
from tasks.loop.decide import ended_at
from tasks.tracking.connection import connected, database, experiment_id, label
from tasks.tracking.runs import track
from tasks.versioning.listing import pointer_md5

ALIAS = "candidate"
FILES = ("commit.json", "report.json", "policy.dvc", "tables.dvc")
"""Artifacts of a version. Pointers are renamed, since DVC would take a .dvc file in the workspace for a stage."""
ENDED = "raft.ended"
"""Tag of a version: when its run ended, as of the last registration."""
WITHDRAWN = "raft.withdrawn"
"""Tag of a version: why it was withdrawn; once the ledger was read, the digest of the ledger entry."""
EXTERNAL = "mlflow.model.isExternal"
"""MLflow's own tag of models whose weights are stored elsewhere."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A registered version. ``alias``: None if ``candidate`` stays with the version of a run that ended later."""

    name: str
    version: str
    alias: str | None


def register(run: Run, iteration: int, uri: str, *, run_id: str | None = None) -> Registered | None:
    """Register a committed iteration and set the alias ``candidate`` to it. Returns None for the base.

    The alias stays if the current candidate's run ended later. Idempotent: the same commit is the same version.
    ``run_id``: the MLflow run (default: it is brought up to date first).
    Raises StepError if MLflow cannot be reached or rejects the records.
    """
    if iteration == BASE:
        return None
    version = register_version(run, iteration, uri, run_id=run_id)
    name = model_name(run)
    with connected(uri) as client:
        leads = _take_alias(client, name, version, ended_at(run))
    return Registered(name, version, ALIAS if leads else None)


def register_version(run: Run, iteration: int, uri: str, *, run_id: str | None = None) -> str:
    """The version of a committed iteration, created if missing; aliases do not change."""
    commit = read_chain(run)[iteration + 1]
    source = run_id or track(run, uri)
    name, tags = model_name(run), _tags(run, commit)
    with connected(uri) as client:
        found = find_version(client, name, commit.digest)
        return found or _create_version(client, run, commit, name, tags, source, uri)


def model_name(run: Run) -> str:
    """The name of a run's registered model."""
    return registered_name(run.config)


def find_version(client: MlflowClient, name: str, commit: str) -> str | None:
    """The version of a model that was registered from ``commit`` (sha256 of ``commit.json``)."""
    found = client.search_model_versions(f"name = '{name}' and tags.`raft.commit` = '{commit}'")
    return min((str(version.version) for version in found), key=int, default=None)


def _create_version(
    client: MlflowClient, run: Run, commit: Commit, name: str, tags: Mapping[str, str], run_id: str | None, uri: str
) -> str:
    model_id = _external_model(client, run, commit, tags, run_id, uri)
    try:
        client.create_registered_model(
            name,
            description="Policies aligned by RAFT. The weights are not stored in MLflow: "
            f"`raft pull {name}@{ALIAS} --to FOLDER` writes a plain, verified model folder.",
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = client.create_model_version(
        name,
        f"models:/{model_id}",
        run_id,
        tags=dict(tags),
        model_id=model_id,
        description=f"Iteration {commit.iteration} of run {run.name}. "
        f"To get a plain model folder: `raft pull {run.name}@{commit.iteration} --to FOLDER`",
    )
    return str(created.version)


def _external_model(
    client: MlflowClient, run: Run, commit: Commit, tags: Mapping[str, str], run_id: str | None, uri: str
) -> str:
    """A model without weights; one that a killed process left behind is reused."""
    experiment = experiment_id(client, run, uri)
    found = client.search_logged_models([experiment], f"tags.`raft.commit` = '{commit.digest}'")
    model: Any = (
        found[0]
        if found
        else client.create_logged_model(
            experiment,
            name=re.sub(r"[^A-Za-z0-9_-]", "-", f"{run.name}-{label(commit.iteration)}"),
            source_run_id=run_id,
            tags={**tags, EXTERNAL: "true"},
            model_type="raft-policy",
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        Model(run_id=run_id, model_id=model.model_id, metadata={EXTERNAL: True}).save(str(Path(folder) / "MLmodel"))
        for name in FILES:
            if (path := run.folder(commit.iteration) / name).exists():
                shutil.copy(path, Path(folder) / name.replace(".dvc", "-dvc.yaml"))
        client.log_model_artifacts(model.model_id, folder)
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def _take_alias(client: MlflowClient, name: str, version: str, ended: str) -> bool:
    """Set ``candidate`` to ``version``, unless it is on one whose run ended later; returns whether it was set."""
    if ended:
        client.set_model_version_tag(name, version, ENDED, ended)
    holder = _alias_of(client, name)
    if holder == version:
        return True
    if WITHDRAWN in client.get_model_version(name, version).tags:
        return False
    if holder is not None and client.get_model_version(name, holder).tags.get(ENDED, "") > ended:
        return False
    client.set_registered_model_alias(name, ALIAS, version)
    return True


def _alias_of(client: MlflowClient, name: str) -> str | None:
    aliases: Mapping[str, Any] = client.get_registered_model(name).aliases
    return str(aliases[ALIAS]) if ALIAS in aliases else None


def _tags(run: Run, commit: Commit) -> dict[str, str]:
    folder, policy = run.folder(commit.iteration), commit.content.get("policy") or {}
    tags = {
        "raft.commit": commit.digest,
        "raft.run": run.name,
        "raft.iteration": str(commit.iteration),
        "raft.policy": commit.outputs.get("policy"),
        "raft.policy_identity": policy.get("identity"),
        "raft.policy_base": policy.get("base"),
    }
    if (pointer := folder / "policy.dvc").exists():
        where = pointer.relative_to(run.path.parent.parent).as_posix()
        tags |= {"dvc.policy": pointer_md5(pointer), "dvc.pointer": where}
    return {key: value for key, value in tags.items() if value is not None}


# -- look-ups -----------------------------------------------------------------------------------

UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's error codes for an unknown model, version or alias."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The iteration that a version was registered from. ``commit``: sha256 of its ``commit.json``."""

    run: str
    iteration: int
    commit: str


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a registered model, and the iteration that it was registered from."""

    name: str
    version: str
    origin: Origin
    policy: str | None
    """sha256 of the policy's folder."""


def versions(uri: str) -> list[Version]:
    """All versions that RAFT registered. Reads only; raises StepError if MLflow cannot be reached."""
    if (path := database(uri)) is not None and not path.exists():
        return []
    found: list[Version] = []
    with connected(uri) as client:
        token = None
        while True:
            page = client.search_model_versions(max_results=1000, page_token=token)
            for row in page:
                tags = row.tags
                if tags.get("raft.commit") and tags.get("raft.run") and tags.get("raft.iteration", "").isdecimal():
                    source = Origin(tags["raft.run"], int(tags["raft.iteration"]), tags["raft.commit"])
                    found.append(Version(row.name, str(row.version), source, tags.get("raft.policy")))
            if not (token := page.token):
                return found


@dataclass(frozen=True, slots=True)
class Numbers:
    """The versions of one registered model, oldest first, the withdrawn ones among them, and alias → version."""

    versions: tuple[str, ...]
    withdrawn: tuple[str, ...]
    aliases: Mapping[str, str]


def numbers(name: str, uri: str) -> Numbers | None:
    """The versions of the model ``name``; None if unknown. Reads only; raises StepError if MLflow cannot be reached."""
    if (path := database(uri)) is not None and not path.exists():
        return None
    with connected(uri) as client:
        try:
            model = client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code in UNKNOWN:
                return None
            raise
        withdrawn: dict[int, bool] = {}
        token = None
        while True:
            page = client.search_model_versions(f"name = '{name}'", max_results=1000, page_token=token)
            withdrawn |= {int(row.version): WITHDRAWN in row.tags for row in page}
            if not (token := page.token):
                break
    ordered = sorted(withdrawn)
    return Numbers(
        tuple(map(str, ordered)),
        tuple(str(number) for number in ordered if withdrawn[number]),
        {alias: str(number) for alias, number in model.aliases.items()},
    )


def origin(name: str, version: str | None, alias: str | None, uri: str) -> Origin | None:
    """The iteration behind a version of ``name``, or behind an alias (default ``candidate``); None if there is none.

    Reads only: a missing sqlite file is not created. Raises StepError if MLflow cannot be reached, InputError for a
    model that RAFT did not register.
    """
    if (path := database(uri)) is not None and not path.exists():
        return None
    with connected(uri) as client:
        try:
            if version is not None:
                found = client.get_model_version(name, version)
            else:
                found = client.get_model_version_by_alias(name, alias or ALIAS)
        except MlflowException as error:
            if error.error_code in UNKNOWN:
                return None
            raise
    try:
        return Origin(found.tags["raft.run"], int(found.tags["raft.iteration"]), found.tags["raft.commit"])
    except (KeyError, ValueError):
        raise InputError(
            f"version {found.version} of the registered model {name} was not registered by RAFT",
            got=f"tags {', '.join(sorted(found.tags)) or '(none)'}",
            expected="the tags raft.run, raft.iteration and raft.commit",
            hint="name a model that raft align registered",
        ) from None
