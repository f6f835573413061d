"""The work pool for Kubernetes without a cluster: the template renders to a job, and the manifests agree with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.templating import apply_values, find_placeholders

KUBERNETES = Path(__file__).parents[3] / "docker" / "kubernetes"
PROJECT = yaml.safe_load((KUBERNETES.parents[1] / "prefect.yaml").read_text())
COMPOSE = yaml.safe_load((KUBERNETES.parent / "compose.yaml").read_text())
TEMPLATE: dict[str, Any] = json.loads((KUBERNETES / "job-template.json").read_text())
MANIFESTS = {
    (one["kind"], one["metadata"]["name"]): one
    for path in KUBERNETES.glob("*.yaml")
    if path.name != "kustomization.yaml"
    for one in yaml.safe_load_all(path.read_text())
}


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    """The job of a run of one of our deployments, as a worker renders it."""
    properties = TEMPLATE["variables"]["properties"]
    values = {name: one["default"] for name, one in properties.items() if one.get("default") is not None}
    values |= PROJECT["definitions"]["pool"]["job_variables"]
    rendered: dict[str, Any] = apply_values(TEMPLATE["job_configuration"], values)
    return rendered["job_manifest"]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for (kind, name), manifest in MANIFESTS.items():
        if kind in ("Job", "Deployment"):
            yield name, manifest["spec"]["template"]["spec"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def secret_references(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = [one for container in containers(pod) for one in container["env"] if "valueFrom" in one]
    return {one["name"]: one["valueFrom"]["secretKeyRef"] for one in found if "secretKeyRef" in one["valueFrom"]}


def test_every_placeholder_is_a_variable_and_every_variable_is_used() -> None:
    asked = {placeholder.name for placeholder in find_placeholders(TEMPLATE["job_configuration"])}
    assert asked == set(TEMPLATE["variables"]["properties"])


def test_a_run_gets_its_gpu_shared_memory_and_time_to_stop(job: dict[str, Any]) -> None:
    pod = job["spec"]["template"]["spec"]
    assert job["spec"]["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never"
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert (
        pod["terminationGracePeriodSeconds"] == 180 == int(COMPOSE["services"]["worker"]["stop_grace_period"][0]) * 60
    )
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    volumes = {one["name"]: one for one in pod["volumes"]}
    mounts = {one["mountPath"]: volumes[one["name"]] for one in pod["containers"][0]["volumeMounts"]}
    assert mounts["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    claims = {mounts[path]["persistentVolumeClaim"]["claimName"] for path in ("/app/data", "/cache")}
    assert claims == {name for kind, name in MANIFESTS if kind == "PersistentVolumeClaim"}


def test_secrets_are_named_and_stand_nowhere(job: dict[str, Any]) -> None:
    references = secret_references(job["spec"]["template"]["spec"])
    assert set(references) == {"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert not any(kind == "Secret" for kind, _ in MANIFESTS)
    for _, pod in pods():
        assert secret_references(pod)["PREFECT_API_AUTH_STRING"]["name"] == "unicoder-vl-prefect-auth"


def test_the_worker_gives_runs_the_password_by_its_name() -> None:
    """Or Prefect writes the password into every job."""
    pod = MANIFESTS["Deployment", "unicoder-vl-worker"]["spec"]["template"]["spec"]
    own = secret_references(pod)["PREFECT_API_AUTH_STRING"]
    values = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
    prefix = "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET"
    assert (values[f"{prefix}_NAME"], values[f"{prefix}_KEY"]) == (own["name"], own["key"])


def test_nothing_runs_as_root_or_writes_outside_its_volumes(job: dict[str, Any]) -> None:
    """As the `restricted` standard that the namespace enforces wants it."""
    for _, pod in [*pods(), ("run", job["spec"]["template"]["spec"])]:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_pool_deployments_and_worker_have_one_name() -> None:
    (pool,) = {one["work_pool"]["name"] for one in PROJECT["deployments"]}
    setup = MANIFESTS["Job", "unicoder-vl-setup"]["spec"]["template"]["spec"]
    worker = MANIFESTS["Deployment", "unicoder-vl-worker"]["spec"]["template"]["spec"]
    made, registered, served = (container["args"] for container in [*containers(setup), *containers(worker)])
    assert made[:4] == ["prefect", "work-pool", "create", pool]
    assert "--type=kubernetes" in made
    assert registered == ["unicoder-vl", "setup", "--pool", pool]
    assert served[:5] == ["prefect", "worker", "start", "--pool", pool]


def test_kustomization_lists_the_files_and_makes_what_they_mount() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    assert set(kustomization["resources"]) == {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    made = {one["name"] for one in kustomization["configMapGenerator"]}
    text = "".join((KUBERNETES / name).read_text() for name in kustomization["resources"])
    assert set(re.findall(r"(?:configMap|configMapKeyRef): \{name: ([\w-]+)", text)) == made
    tag = kustomization["images"][0]["newTag"]
    assert TEMPLATE["variables"]["properties"]["image"]["default"] == f"unicoder-vl:{tag}"
    assert COMPOSE["services"]["worker"]["image"] == f"unicoder-vl:{tag}"
    assert TEMPLATE["variables"]["properties"]["namespace"]["default"] == kustomization["namespace"]
