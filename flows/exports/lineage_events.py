"""OpenLineage events of every step from the base to a policy: which datasets each step read and wrote.

Two events per step, START and COMPLETE. A dataset's name is its sha256, in the namespace ``sha256``, so the same bytes
are the same dataset in every run. Its symlinks facet has its path, its schema facet the columns. Run identifiers are
derived from the commits, so sending the events twice changes nothing.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from flows.exports.dossier import Dossier
from raft_core.audit.lineage import Link, StepFacts
from raft_core.errors import ConfigError
from raft_core.records.run import BASE
from raft_core.records.tables import SCHEMAS

if TYPE_CHECKING:
    from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent, RunState

NAMESPACE, DATASETS = "raft", "sha256"
PRODUCER = "urn:raft-mlops"
"""URI of the program that wrote an event; the specification requires one."""
UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC).isoformat()
"""Time of a step whose event log is not on this machine; the specification requires one."""


def events(dossier: Dossier) -> str:
    """The events as JSON lines, base first. Raises ConfigError if openlineage-python is not installed."""
    try:
        from openlineage.client.serde import Serde
    except ModuleNotFoundError as error:
        raise ConfigError(
            "raft export openlineage needs the package openlineage-python",
            got=error,
            hint="pip install 'raft-mlops[exports]'",
        ) from None
    return "".join(f"{Serde.to_json(event)}\n" for event in _events(dossier))


def _events(dossier: Dossier) -> "Iterator[RunEvent]":
    from openlineage.client.event_v2 import RunState

    policies = _policies(dossier)
    for link in reversed(dossier.lineage.links):
        times = _times(dossier, link)
        for name in sorted(link.steps, key=lambda step: (times.get(step, (UNKNOWN_TIME,) * 2), step)):
            for state, time in zip(
                (RunState.START, RunState.COMPLETE), times.get(name, (UNKNOWN_TIME,) * 2), strict=True
            ):
                yield _event(dossier, link, name, (state, time), policies)


def _times(dossier: Dossier, link: Link) -> dict[str, tuple[str, str]]:
    """Step → when it began and ended, from the event log."""
    times = {}
    for event in dossier.events("step"):
        if event.get("iteration") == link.iteration:
            ended = datetime.fromisoformat(event["time"])
            began = ended - timedelta(seconds=float(event.get("seconds") or 0.0))
            times[str(event["step"])] = (began.isoformat(), ended.isoformat())
    return times


def _policies(dossier: Dossier) -> dict[str, str]:
    """Identity of a policy → digest of its folder."""
    return {link.policy.identity: link.policy.digest for link in dossier.lineage.links}


def _event(
    dossier: Dossier, link: Link, step: str, moment: "tuple[RunState, str]", policies: Mapping[str, str]
) -> "RunEvent":
    from openlineage.client.event_v2 import Job, Run, RunEvent
    from openlineage.client.facet_v2 import job_type_job, parent_run, processing_engine_run

    facts = link.steps[step]
    run = Run(
        str(uuid5(NAMESPACE_URL, f"raft:{link.commit}:{step}")),
        {
            "parent": parent_run.ParentRunFacet(
                run=parent_run.Run(str(uuid5(NAMESPACE_URL, f"raft:{dossier.base.commit}"))),
                job=parent_run.Job(NAMESPACE, dossier.run.name),
                producer=PRODUCER,
            ),
            "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
                version=_engine(dossier, link), name="torch", producer=PRODUCER
            ),
        },
    )
    kind = job_type_job.JobTypeJobFacet(processingType="BATCH", integration="RAFT", jobType="STEP", producer=PRODUCER)
    return RunEvent(
        eventType=moment[0],
        eventTime=moment[1],
        producer=PRODUCER,
        run=run,
        job=Job(NAMESPACE, f"{dossier.run.name}.{step}", {"jobType": kind}),
        inputs=list(_inputs(dossier, link, facts, policies)),
        outputs=list(_outputs(dossier, link, step, facts)),
    )


def _engine(dossier: Dossier, link: Link) -> str:
    numerics: Mapping[str, Any] = dossier.chain[link.iteration + 1].content.get("numerics", {})
    return str(numerics.get("torch", "unknown"))


def _inputs(dossier: Dossier, link: Link, facts: StepFacts, policies: Mapping[str, str]) -> "Iterator[InputDataset]":
    from openlineage.client.event_v2 import InputDataset

    read = {policies.get(d, d): name for name, d in sorted(facts.inputs.items(), reverse=True) if d is not None}
    for digest, name in sorted(read.items(), key=lambda item: item[1]):
        yield InputDataset(DATASETS, digest, facets=_facets(dossier, link, name, digest))


def _outputs(dossier: Dossier, link: Link, step: str, facts: StepFacts) -> "Iterator[OutputDataset]":
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    counts = {"samples": link.counts.samples, "scored": link.counts.samples}
    for name, digest in sorted(facts.outputs.items()):
        rows = counts.get(name)
        known: dict[str, Any] = (
            {}
            if rows is None
            else {"outputStatistics": statistics.OutputStatisticsOutputDatasetFacet(rowCount=rows, producer=PRODUCER)}
        )
        yield OutputDataset(DATASETS, digest, known, facets=_facets(dossier, link, name, digest))


def _facets(dossier: Dossier, link: Link, name: str, digest: str) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_version_dataset, schema_dataset, symlinks_dataset

    facets: dict[str, Any] = {
        "version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=digest, producer=PRODUCER)
    }
    kind = "TABLE" if name in SCHEMAS else "MODEL" if name.startswith(("policy", "base", "reward")) else "FILE"
    place = _place(dossier, link, name, digest)
    identifier = symlinks_dataset.Identifier(namespace="file", name=place, type=kind)
    facets["symlinks"] = symlinks_dataset.SymlinksDatasetFacet(identifiers=[identifier], producer=PRODUCER)
    if name in SCHEMAS:
        fields = [schema_dataset.SchemaDatasetFacetFields(name=f.name, type=str(f.type)) for f in SCHEMAS[name]]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(fields=fields, producer=PRODUCER)
    return facets


def _place(dossier: Dossier, link: Link, name: str, digest: str) -> str:
    """Path in the workspace; the name itself if no commit of the chain holds the bytes."""
    for holder in (link, *dossier.lineage.links):
        for path, found in holder.outputs.items():
            if found == digest:
                folder = "base" if holder.iteration == BASE else f"iterations/{holder.iteration:03d}"
                return f"runs/{dossier.run.name}/{folder}/{path}"
    return (dossier.base.policy.source or name) if digest == dossier.base.policy.digest else name
