"""A CycloneDX 1.6 bill of materials (ML-BOM): the model, what it was made from, and which libraries made it.

Everything is listed with its digest, where the records hold one.
"""

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from flows.exports.dossier import Dossier, label
from flows.exports.form import form
from flows.exports.model_card import shown
from flows.exports.sources import Named, named
from raft_core.audit.lineage import Link
from raft_core.examples.packages import Package
from raft_core.records.run import BASE

SPEC = "1.6"
FOLDER_DIGEST = "sha256 of the sorted lines 'sha256  name' of the folder's files"
CODE_DIGEST = "sha256 of the file, or of the digests of a module and of what it imports from its own package"
LIBRARIES = ("accelerate", "deepspeed", "peft", "tokenizers", "torch", "transformers")
"""Packages in the recorded determinism fingerprint."""


def bom(dossier: Dossier) -> str:
    """The document as JSON; the same records give the same text, the serial number included."""
    components = [*_models(dossier), *_datasets(dossier), *_plugins(dossier), *_libraries(dossier)]
    document = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "version": 1,
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, f'raft:{dossier.link.commit}')}",
        "metadata": {
            **_timestamp(dossier),
            "tools": {"components": [_tool()]},
            "component": _model(dossier),
            "properties": _properties(
                {
                    "raft:run": dossier.run.name,
                    "raft:iteration": dossier.iteration,
                    "raft:commit": dossier.link.commit,
                    "raft:configuration": dossier.link.config,
                    "raft:trust_remote_code": dossier.run.config.policy.trust_remote_code,
                }
            ),
        },
        "components": components,
        "dependencies": [
            {"ref": _ref(dossier.link), "dependsOn": sorted(component["bom-ref"] for component in components)},
            *({"ref": component["bom-ref"]} for component in components),
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=True) + "\n"


def _model(dossier: Dossier) -> dict[str, Any]:
    link = dossier.link
    return {
        "type": "machine-learning-model",
        "bom-ref": _ref(link),
        "name": dossier.model_name,
        "version": f"{dossier.run.name}@{'base' if link.iteration == BASE else link.iteration}",
        "description": _description(dossier),
        "hashes": _hashes(link.policy.digest),
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "reinforcement-learning"},
                "task": "text-generation",
                "datasets": [{"ref": component["bom-ref"]} for component in _datasets(dossier)],
                "inputs": [{"format": "text"}],
                "outputs": [{"format": "text"}],
            },
            "quantitativeAnalysis": {"performanceMetrics": _metrics(dossier)},
            "considerations": {
                "useCases": ["Completions of prompts like those that it was trained on."],
                "technicalLimitations": [
                    "Trained to score high on rewards, which only approximate what people want. Gates limit the KL "
                    "divergence, the perplexity and the loss of diversity; a policy can still exploit a reward."
                ],
            },
        },
        "properties": _properties(
            {"raft:digest": FOLDER_DIGEST, "raft:policy": link.policy.identity, "raft:withdrawn": _withdrawn(dossier)}
        ),
    }


def _description(dossier: Dossier) -> str:
    if dossier.iteration == BASE:
        return f"The initial policy of run {dossier.run.name}, before any training by RAFT: {form(dossier).noun}."
    return f"The policy after {label(dossier.iteration)} of run {dossier.run.name}: {form(dossier).noun}."


def _withdrawn(dossier: Dossier) -> str | None:
    gone = dossier.withdrawal
    return f"entry {gone.entry.number}: {gone.reason}" if gone else None


def _metrics(dossier: Dossier) -> list[dict[str, Any]]:
    metrics = []
    for figure in shown(dossier):
        value, low, high = (dossier.report.get(f"{figure.name}{end}") for end in ("", "_low", "_high"))
        if value is not None:
            bounds = (
                {"confidenceInterval": {"lowerBound": str(low), "upperBound": str(high)}} if low is not None else {}
            )
            metrics.append({"type": figure.title, "value": str(value), "slice": "held-out prompts", **bounds})
    return metrics


def _models(dossier: Dossier) -> Iterator[dict[str, Any]]:
    """The initial policy, unless this is it, and the rewards."""
    for part in named(dossier):
        if part.kind == "model" and not (part.role == "initial policy" and dossier.iteration == BASE):
            yield _component("machine-learning-model", part)


def _plugins(dossier: Dossier) -> Iterator[dict[str, Any]]:
    """Code of rewards and selectors that a package other than RAFT brought."""
    for part in named(dossier):
        if part.kind == "code":
            yield {**_component("library", part), "properties": _properties({"raft:digest": CODE_DIGEST})}


def _datasets(dossier: Dossier) -> list[dict[str, Any]]:
    """Prompts and texts that the configuration names, and what each iteration was trained on."""
    rows = [_component("data", part) for part in named(dossier) if part.kind == "data"]
    for row in rows:
        row["data"] = [{"type": "dataset", "name": row["name"]}]
    for link in reversed(dossier.lineage.links):
        digest = link.outputs.get("tables/selected.parquet")
        if digest is not None:
            name = f"selected set of {label(link.iteration)}"
            rows.append(
                {
                    "type": "data",
                    "bom-ref": f"data:{digest}",
                    "name": name,
                    "hashes": _hashes(digest),
                    "data": [{"type": "dataset", "name": name}],
                    "properties": _properties(
                        {
                            "raft:rows": link.counts.selected,
                            "raft:sampled_from": link.sampled_from,
                            "raft:samples": link.counts.samples,
                            "raft:rows_erased": link.counts.erased.get("selected"),
                            "raft:samples_erased": link.counts.erased.get("samples"),
                        }
                    ),
                }
            )
    return rows


def _component(kind: str, part: Named) -> dict[str, Any]:
    return {
        "type": kind,
        "bom-ref": f"{kind}:{part.role}:{part.reference}",
        "name": part.reference,
        "description": part.role,
        **({"hashes": _hashes(part.digest)} if part.digest and len(part.digest) == 64 else {}),
        **({"licenses": [*map(_licence, part.packages)]} if part.packages else {}),
        **({"pedigree": {"ancestors": [*map(_ancestor, part.packages)]}} if part.packages else {}),
    }


def _ancestor(package: Package) -> dict[str, Any]:
    return {
        "type": "file",
        "name": package.file,
        "version": package.version,
        "purl": f"pkg:pypi/{package.name.lower()}@{package.version}",
        "hashes": _hashes(package.sha256),
        "licenses": [_licence(package)],
    }


def _licence(package: Package) -> dict[str, Any]:
    known = (
        {"id": package.licence}
        if package.licence in ("Apache-2.0", "MIT")
        else {"name": f"{package.name}: {package.licence}"}
    )
    return {"license": known}


def _libraries(dossier: Dossier) -> Iterator[dict[str, Any]]:
    numerics: Mapping[str, Any] = dossier.commit.content.get("numerics", {})
    for name in LIBRARIES:
        if name in numerics:
            purl = f"pkg:pypi/{name}@{str(numerics[name]).replace('+', '%2B')}"
            yield {"type": "library", "bom-ref": purl, "name": name, "version": str(numerics[name]), "purl": purl}


def _tool() -> dict[str, str]:
    return {"type": "application", "name": "raft-mlops", "version": version("raft-mlops")}


def _timestamp(dossier: Dossier) -> dict[str, str]:
    """When the iteration was committed; empty if the event log is not on this machine."""
    times = [
        event["time"]
        for event in dossier.events("step")
        if event.get("step") == "commit" and event.get("iteration") == dossier.iteration
    ]
    return {"timestamp": times[-1]} if times else {}


def _ref(link: Link) -> str:
    return f"policy:{link.policy.identity}"


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest}]


def _properties(values: Mapping[str, object]) -> list[dict[str, str]]:
    return [
        {"name": name, "value": str(value).lower() if isinstance(value, bool) else str(value)}
        for name, value in values.items()
        if value is not None
    ]
