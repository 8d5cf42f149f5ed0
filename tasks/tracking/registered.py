"""Look a registered model up in MLflow: which commit of which run is it?"""

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow.exceptions import MlflowException

from raft_core.errors import InputError
from tasks.tracking.connection import connected, database
from tasks.tracking.register import ALIAS, WITHDRAWN

UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What MLflow answers for a model, a version and an alias that it does not have."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a model version says of itself. ``commit``: sha256 of the iteration's ``commit.json``."""

    run: str
    iteration: int
    commit: str


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a registered model, and where it says that it comes from."""

    name: str
    version: str
    origin: Origin
    policy: str | None
    """sha256 of the policy's folder."""


def versions(uri: str) -> list[Version]:
    """Every registered version that RAFT made. Reads only; raises StepError if MLflow is away."""
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
                    made = Origin(tags["raft.run"], int(tags["raft.iteration"]), tags["raft.commit"])
                    found.append(Version(row.name, str(row.version), made, tags.get("raft.policy")))
            if not (token := page.token):
                return found


@dataclass(frozen=True, slots=True)
class Numbers:
    """The versions of one registered model, oldest first, which of them are withdrawn, and its aliases → versions."""

    versions: tuple[str, ...]
    withdrawn: tuple[str, ...]
    aliases: Mapping[str, str]


def numbers(name: str, uri: str) -> Numbers | None:
    """What the registry has under ``name``; None: no such model. Reads only; raises StepError if MLflow is away."""
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
    """The origin of ``name`` at a version, or at an alias (neither: ``candidate``); None if there is none.

    Reads only: a sqlite file that does not exist is not created. Raises StepError if MLflow is away,
    InputError for a model that RAFT did not register.
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
            f"{name} version {found.version} does not say where it comes from",
            got=sorted(found.tags),
            expected="a model that raft align registered",
            hint="see its own documentation in MLflow",
        ) from None
