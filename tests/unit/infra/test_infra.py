"""What can be checked of the infrastructure without a container: published schemas, and our own rules."""

import copy
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from configparser import ConfigParser
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

INFRA = Path(__file__).parents[3] / "infra"
KUBERNETES = "1.34"
SECRETS = ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "PREFECT_ENCRYPTION_KEY")

ENDING = {"buckets", "remote"}
"""Services that prepare something and are done."""


# -- compose ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
    return found


def test_compose_follows_the_published_schema(compose: dict[str, Any]) -> None:
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(compose)
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load((INFRA / "compose.cuda.yaml").read_text()))
    broken = copy.deepcopy(compose)
    broken["services"]["worker"]["comand"] = []
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(broken)


def test_every_service_says_whether_it_is_well(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {name for name, service in services.items() if "healthcheck" not in service} == ENDING
    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            ends = "service_completed_successfully" if needed in ENDING else "service_healthy"
            assert how == {"condition": ends}
    worker = services["worker"]
    assert "--with-healthcheck" in worker["command"]
    assert "http://127.0.0.1:8080/health" in worker["healthcheck"]["test"][-1], "of itself, not of Prefect's server"


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
    assert ports
    assert all(port.startswith("${BIND:-127.0.0.1}:") for port in ports)


def test_what_is_kept_lies_in_named_volumes(compose: dict[str, Any]) -> None:
    mounts = [mount.split(":") for s in compose["services"].values() for mount in s.get("volumes", [])]
    named = {source for source, *_ in mounts if not source.startswith((".", "/"))}
    assert named == compose["volumes"].keys()
    assert all(options == ["ro"] for source, _, *options in mounts if source.startswith((".", "/")))
    for source, *_ in mounts:
        assert not source.startswith(".") or (INFRA / source).exists()


def test_the_user_of_the_image_may_write_where_volumes_are_mounted(compose: dict[str, Any]) -> None:
    (made,) = [rest for word, rest in instructions() if word == "RUN" and "install -d" in rest]
    folders = shlex.split(made.partition("install -d -o raft -g raft ")[2])
    ours = [service for service in compose["services"].values() if "build" in service]
    mounted = {mount.split(":")[1] for service in ours for mount in service.get("volumes", [])}
    assert mounted == set(folders)
    for service in ours:
        assert writable(image_environment()["DVC_SITE_CACHE_DIR"], service["tmpfs"])


def test_the_tag_of_the_image_says_for_which_device_it_is_built(compose: dict[str, Any]) -> None:
    taken = {rest.partition("=")[0] for word, rest in instructions() if word == "ARG"}
    for name, service in compose["services"].items():
        if "build" in service:
            device = service["build"]["args"]["DEVICE"]
            assert service["image"].endswith(f":{device}"), name
            assert service["build"]["args"].keys() <= taken
    cuda = yaml.safe_load((INFRA / "compose.cuda.yaml").read_text())["services"]
    (reserved,) = cuda["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert reserved["capabilities"] == ["gpu"]


@pytest.mark.full
def test_dvc_pushes_to_the_store(compose: dict[str, Any], tmp_path: Path) -> None:
    script, url = compose["services"]["remote"]["command"]
    bucket = url.removeprefix("s3://").split("/")[0]
    assert f'"{bucket}"' in compose["services"]["buckets"]["command"][-1]
    here = INFRA.parent / Path(script).relative_to("/opt/raft")
    store = {"AWS_ENDPOINT_URL": compose["services"]["remote"]["environment"]["AWS_ENDPOINT_URL"]}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    places = {"RAFT_WORKSPACE": str(tmp_path / "work"), "DVC_SITE_CACHE_DIR": str(tmp_path / "dvc-site")}
    environment = {**os.environ, **places, **store, "PATH": path, "PYTHONPATH": str(INFRA.parent)}
    config = tmp_path / "work/.dvc/config"
    subprocess.run([here, url], env=environment, check=True)
    found = ConfigParser()
    found.read(config)
    assert found["core"]["remote"].strip() == "store"
    named = {key: value.strip() for key, value in found["'remote \"store\"'"].items()}
    assert named == {"url": url, "endpointurl": store["AWS_ENDPOINT_URL"], "verify": "true"}
    subprocess.run([here, "s3://another/one"], env=environment, check=True)
    assert "another" not in config.read_text(), "what is chosen stays"


def test_prefect_knows_the_names_that_are_set_for_it(compose: dict[str, Any]) -> None:
    from prefect.server.utilities import encryption
    from prefect.settings import Settings
    from prefect.settings.legacy import _get_settings_fields

    names = set(image_environment()) | set(next(documents(INFRA / "kubernetes/base/settings.yaml"))["data"])
    names |= {name for service in compose["services"].values() for name in service.get("environment", {})}
    asked = {name for name in names if name.startswith("PREFECT_")}
    assert "PREFECT_SERVER_ENCRYPTION_KEY" in asked
    read = inspect.getsource(encryption)
    assert not [name for name in asked if name not in _get_settings_fields(Settings) and f'"{name}"' not in read]


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


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for word, rest in instructions() if word == "ENV" for pair in shlex.split(rest))


def writable(path: str, mounts: Iterable[str]) -> bool:
    return any(Path(path).is_relative_to(mount) for mount in mounts)


def test_the_image_is_built_in_stages_and_is_nobody_special() -> None:
    said = instructions()
    bases = {stage: base for base, _, stage in (rest.partition(" AS ") for word, rest in said if word == "FROM")}
    device = dict(rest.partition("=")[::2] for word, rest in said if word == "ARG")["DEVICE"]
    above = [bases["final"].replace("${DEVICE}", device)]
    while above[-1] in bases:
        above.append(bases[above[-1]])
    assert "build" not in above, "what is built with is left behind"
    assert len(above) > 1
    (user,) = [rest for word, rest in said if word == "USER"]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user), "a number, so that Kubernetes sees that it is not root"
    last = said.index(("USER", user))
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
        source
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in shlex.split(rest)[:-1]
    }
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
            d for d in found if (d["kind"], d["metadata"]["name"]) == (change["kind"], change["metadata"]["name"])
        ]
        found[found.index(target)] = merged(target, change)
    for document in found:
        if document["kind"] not in ("Namespace", "Kustomization"):
            document["metadata"]["namespace"] = plan["namespace"]
        for labels in plan.get("labels", []):
            assert labels["includeTemplates"] is True
            for labelled in (document, *templates(document)):
                labelled.setdefault("metadata", {}).setdefault("labels", {}).update(labels["pairs"])
        for container in containers(pod_template(document)):
            for image in plan.get("images", []):
                if container["image"].rpartition(":")[0] == image["name"]:
                    container["image"] = f"{image['name']}:{image['newTag']}"
    return found


def templates(document: dict[str, Any]) -> list[dict[str, Any]]:
    """What a document makes other objects of, from the outside in; the last is of pods."""
    inside = {"Deployment": ["template"], "CronJob": ["jobTemplate", "template"]}.get(document["kind"], [])
    return list(accumulate(inside, lambda outer, key: outer["spec"][key], initial=document))[1:]


def pod_template(document: dict[str, Any]) -> dict[str, Any] | None:
    return templates(document)[-1] if templates(document) else None


def containers(template: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]] if template else []


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


def by_name(value: Any) -> Any:
    """With lists of mappings as sets: a patch may put what it adds first or last."""
    if isinstance(value, Mapping):
        return {key: by_name(item) for key, item in value.items()}
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return sorted((by_name(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubectl_builds_what_is_tested_here(overlay: str) -> None:
    folder = INFRA / "kubernetes" / overlay
    told = subprocess.run(["kubectl", "kustomize", folder], check=True, capture_output=True, text=True).stdout
    assert by_name(list(yaml.safe_load_all(told))) == by_name(built(folder))


def pods(overlay: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for document in built(INFRA / "kubernetes" / overlay):
        if template := pod_template(document):
            yield document["metadata"]["name"], template["spec"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nobody_outside_may_connect_to_a_pod(overlay: str) -> None:
    found = built(INFRA / "kubernetes" / overlay)
    (policy,) = [d["spec"] for d in found if d["kind"] == "NetworkPolicy"]
    selected = policy["podSelector"]["matchLabels"].items()
    for document in found:
        if template := pod_template(document):
            assert selected <= template["metadata"]["labels"].items(), document["metadata"]["name"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_as_locked_as_their_namespace_demands(overlay: str) -> None:
    for name, pod in pods(overlay):
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        launches = any(item["name"] == "RAFT_LAUNCHER" for item in pod["containers"][0].get("env", []))
        assert pod["automountServiceAccountToken"] is launches, name
        for container in containers({"spec": pod}):
            locked = container["securityContext"]
            assert (locked["allowPrivilegeEscalation"], locked["readOnlyRootFilesystem"]) == (False, True), name
            assert locked["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name
            mounts = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
            assert writable(image_environment()["DVC_SITE_CACHE_DIR"], mounts), name
        used = {mount["name"] for container in containers({"spec": pod}) for mount in container["volumeMounts"]}
        assert used == {volume["name"] for volume in pod["volumes"]}


def test_the_worker_of_a_cluster_pushes_to_the_store_too(compose: dict[str, Any]) -> None:
    ((_, worker),) = pods("base")
    (remote,) = worker["initContainers"]
    assert remote["args"] == [compose["services"]["remote"]["command"][0], "$(RAFT_REMOTE)"]
    assert "RAFT_REMOTE" in next(documents(INFRA / "kubernetes/base/settings.yaml"))["data"]


def test_gpu_pods_ask_for_a_gpu_and_for_its_nodes() -> None:
    asking = {
        name: pod
        for overlay in OVERLAYS
        for name, pod in pods(overlay)
        if "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]
    }
    assert asking.keys() == {"worker", "train", "ray-worker"}
    for pod in asking.values():
        assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
        assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_the_ranks_meet_where_the_service_points() -> None:
    found = {(d["kind"], d["metadata"]["name"]): d for d in built(INFRA / "kubernetes" / "overlays/deepspeed")}
    job, service = found["CronJob", "train"]["spec"]["jobTemplate"]["spec"], found["Service", "train"]["spec"]
    assert found["CronJob", "train"]["spec"]["suspend"] is True
    arguments = job["template"]["spec"]["containers"][0]["args"]
    assert f"--nnodes={job['parallelism']}" in arguments
    assert job["completions"] == job["parallelism"]
    assert f"--rdzv-endpoint=$(JOB_NAME)-0.train:{service['ports'][0]['port']}" in arguments
    assert job["template"]["spec"]["subdomain"] == "train"
    assert service["clusterIP"] == "None"


def test_no_secret_lies_in_a_manifest() -> None:
    for path in (INFRA / "kubernetes").rglob("*.yaml"):
        assert not any(document.get("kind") == "Secret" for document in documents(path)), path
