"""Withdraw registered versions: tag them with the reason and remove their aliases. Nothing is deleted."""

from collections.abc import Collection
from dataclasses import dataclass

from tasks.tracking.connection import connected
from tasks.tracking.registry import WITHDRAWN, Version, versions


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A withdrawn version and the aliases that were removed from it."""

    version: Version
    aliases: tuple[str, ...]


def registered_from(commits: Collection[str], uri: str) -> list[Version]:
    """The versions that were registered from one of ``commits``. Raises StepError if MLflow cannot be reached."""
    return [version for version in versions(uri) if version.origin.commit in commits]


def withdraw(wanted: Collection[Version], because: str, uri: str) -> list[Withdrawn]:
    """Tag ``wanted`` and remove their aliases. Idempotent. Raises StepError if MLflow cannot be reached."""
    if not wanted:
        return []
    done = []
    with connected(uri) as client:
        for version in wanted:
            model = client.get_registered_model(version.name)
            aliases = sorted(name for name, number in model.aliases.items() if str(number) == version.version)
            client.set_model_version_tag(version.name, version.version, WITHDRAWN, because)
            for alias in aliases:
                client.delete_registered_model_alias(version.name, alias)
            done.append(Withdrawn(version, tuple(aliases)))
    return done
