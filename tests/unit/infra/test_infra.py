"""What can be checked of the infrastructure without a container: published schemas, and our own rules."""

import copy
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

INFRA = Path(__file__).parents[3] / "infra"
KUBERNETES = "1.34"
SECRETS = ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "PREFECT_ENCRYPTION_KEY")


# -- compose ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
    return found


def test_compose_follows_the_published_schema(compose: dict[str, Any]) -> None:
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(compose)
    broken = copy.deepcopy(compose)
    broken["services"]["worker"]["comand"] = []
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(broken)


def test_every_service_says_whether_it_is_well(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services.keys() == {"postgres", "s3", "buckets", "prefect", "mlflow", "worker"}
    assert [name for name, service in services.items() if "healthcheck" not in service] == ["buckets"]
    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            ends = "service_completed_successfully" if needed == "buckets" else "service_healthy"
            assert how == {"condition": ends}


def test_no_password_has_a_default(compose: dict[str, Any]) -> None:
    text = (INFRA / "compose.yaml").read_text()
    for name in SECRETS:
        uses = re.findall(r"\$\{" + name + r"([^}]*)\}", text)
        assert uses
        assert all(use.startswith(":?") for use in uses), name
    given = dict(
        line.split("=", 1) for line in (INFRA / ".env.example").read_text().splitlines() if re.match(r"\w", line)
    )
    assert given == dict.fromkeys(SECRETS, "")


def test_ports_are_bound_to_the_loopback_interface(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("${BIND:-127.0.0.1}:") for port in ports)


def test_what_is_kept_lies_in_named_volumes(compose: dict[str, Any]) -> None:
    mounts = [mount.split(":") for s in compose["services"].values() for mount in s.get("volumes", [])]
    named = {source for source, *_ in mounts if not source.startswith((".", "/"))}
    assert named == compose["volumes"].keys()
    assert all(options == ["ro"] for source, _, *options in mounts if source.startswith((".", "/")))
    for source, *_ in mounts:
        assert not source.startswith(".") or (INFRA / source).exists()


def test_images_are_pinned_and_ours_run_with_little(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if "build" in service:
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert (INFRA / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        else:
            assert re.search(r":v?\d+\.\d+", service["image"]), name


def test_mlflow_names_the_hosts_that_may_ask(compose: dict[str, Any]) -> None:
    (allowed,) = [word for word in compose["services"]["mlflow"]["command"] if word.startswith("--allowed-hosts=")]
    worker = compose["services"]["worker"]["environment"]["MLFLOW_TRACKING_URI"]
    assert worker.removeprefix("http://") in allowed.removeprefix("--allowed-hosts=").split(",")


# -- the image --------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (INFRA / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word]


def test_the_image_is_built_in_stages_and_is_nobody_special() -> None:
    said = instructions()
    stages = [rest.split(" AS ")[1] for word, rest in said if word == "FROM"]
    assert stages == ["build", "runtime", "cpu", "cuda", "final"]
    users = [rest for word, rest in said if word == "USER"]
    assert users == ["10001:10001"]
    last = said.index(("USER", users[0]))
    assert not [rest for word, rest in said[last:] if word in ("RUN", "COPY", "ADD")]


def test_the_image_starts_from_a_pinned_base_and_fetches_nothing_by_hand() -> None:
    said = instructions()
    (python,) = [rest for word, rest in said if rest.startswith("PYTHON=")]
    assert re.fullmatch(r"PYTHON=3\.\d+\.\d+-slim-\w+", python)
    assert not [rest for word, rest in said if word == "ADD"]
    assert not [rest for word, rest in said if re.search(r"\b(curl|wget)\b|https?://", rest)]
    assert all("-c constraints.txt" in rest for word, rest in said if word == "RUN" and "pip install" in rest)


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    root = INFRA.parent
    allowed = {line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source for word, rest in instructions() if word == "COPY" and "--from" not in rest
        for source in shlex.split(rest)[:-1]
    }  # fmt: skip
    assert copied == allowed
    assert all((root / source).exists() for source in copied)


# -- Kubernetes -------------------------------------------------------------------------------------


def documents(path: Path) -> Iterator[dict[str, Any]]:
    yield from (document for document in yaml.safe_load_all(path.read_text()) if document)


def built(folder: Path) -> list[dict[str, Any]]:
    """What ``kubectl kustomize`` makes of the few fields that we use."""
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert plan.keys() <= {"apiVersion", "kind", "namespace", "resources", "images", "patches", "labels"}
    found: list[dict[str, Any]] = []
    for name in plan["resources"]:
        path = folder / name
        found += built(path) if path.is_dir() else documents(path)
    for patch in plan.get("patches", []):
        (change,) = documents(folder / patch["path"])
        (target,) = [
            d for d in found
            if (d["kind"], d["metadata"]["name"]) == (change["kind"], change["metadata"]["name"])
        ]  # fmt: skip
        found[found.index(target)] = merged(target, change)
    return found


def merged(old: Any, new: Any) -> Any:
    """A strategic merge: mappings by key, lists of named things by name (mounts by path), other lists replaced."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return {
            key: merged(old[key], new[key]) if key in old and key in new else {**new, **old}[key]
            for key in {**old, **new}
        }
    if isinstance(old, list) and isinstance(new, list) and all(isinstance(item, Mapping) for item in new):
        key = "mountPath" if new and "mountPath" in new[0] else "name"
        by_name = {item[key]: item for item in old}
        for item in new:
            by_name[item[key]] = merged(by_name[item[key]], item) if item[key] in by_name else item
        return list(by_name.values())
    return new


OVERLAYS = ["base", "overlays/gpu", "overlays/deepspeed", "overlays/ray"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_follow_the_published_schema(overlay: str) -> None:
    found = built(INFRA / "kubernetes" / overlay)
    for document in found:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    broken = copy.deepcopy(next(d for d in found if d["kind"] == "Deployment"))
    broken["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def pods(overlay: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for document in built(INFRA / "kubernetes" / overlay):
        if document["kind"] in ("Deployment", "Job"):
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_as_locked_as_their_namespace_demands(overlay: str) -> None:
    for name, pod in pods(overlay):
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            locked = container["securityContext"]
            assert (locked["allowPrivilegeEscalation"], locked["readOnlyRootFilesystem"]) == (False, True), name
            assert locked["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name
            assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def test_gpu_pods_ask_for_a_gpu_and_for_its_nodes() -> None:
    asking = {
        name: pod for overlay in OVERLAYS for name, pod in pods(overlay)
        if "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]
    }  # fmt: skip
    assert asking.keys() == {"worker", "train", "ray-worker"}
    for pod in asking.values():
        assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
        assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_the_ranks_meet_where_the_service_points() -> None:
    found = {(d["kind"], d["metadata"]["name"]): d for d in built(INFRA / "kubernetes" / "overlays/deepspeed")}
    job, service = found["Job", "train"]["spec"], found["Service", "train"]["spec"]
    arguments = job["template"]["spec"]["containers"][0]["args"]
    assert f"--nnodes={job['parallelism']}" in arguments
    assert job["completions"] == job["parallelism"]
    assert f"--rdzv-endpoint=train-0.train:{service['ports'][0]['port']}" in arguments
    assert job["template"]["spec"]["subdomain"] == "train"
    assert service["clusterIP"] == "None"


def test_no_secret_lies_in_a_manifest() -> None:
    for path in (INFRA / "kubernetes").rglob("*.yaml"):
        assert not any(document.get("kind") == "Secret" for document in documents(path)), path
