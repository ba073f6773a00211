"""The kustomize bases in examples/kubernetes, as kubectl builds them, and the schemas of Kubernetes."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

KUBERNETES = Path(__file__).parents[2] / "examples" / "kubernetes"
Json = dict[str, Any]


def documents(path: Path) -> list[Json]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one is not None]


BASES = ("gateway", "sharded", "sidecar")


def resources(base: str) -> list[Json]:
    """Return all resources of a kustomize base, as they are in its files."""
    [kustomization] = documents(KUBERNETES / base / "kustomization.yaml")
    return [one for name in kustomization["resources"] for one in documents(KUBERNETES / base / name)]


def kustomized(directory: Path) -> list[Json]:
    """Return what kustomize makes of a directory."""
    command = [f"{sysconfig.get_path('scripts')}/kubectl", "kustomize", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def pods_of(document: Json) -> Json:
    """Return the pod template of a Deployment or StatefulSet."""
    template: Json = document["spec"]["template"]
    return template


def selected(document: Json) -> dict[str, str] | None:
    """Return the labels by which a resource selects pods, None if it selects none."""
    spec = document.get("spec", {})
    selector = spec.get("selector") or spec.get("podSelector")
    if selector is None:
        return None
    labels: dict[str, str] = selector.get("matchLabels", selector)
    return labels


def _named_ports(value: Any) -> Iterator[str]:
    """Yield each port name that a Service, NetworkPolicy or PodMonitor refers to."""
    if isinstance(value, dict):
        for key, one in value.items():
            if key in ("port", "targetPort") and isinstance(one, str):
                yield one
            yield from _named_ports(one)
    elif isinstance(value, list):
        for one in value:
            yield from _named_ports(one)


@pytest.mark.parametrize("base", BASES)
def test_each_resource_of_a_base_selects_its_pods_and_names_their_ports(base: str) -> None:
    found = resources(base)
    [workload] = [one for one in found if one["kind"] in ("Deployment", "StatefulSet")]
    pod = pods_of(workload)
    containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    ports = {port["name"] for one in containers for port in one.get("ports", [])}
    for document in found:
        labels = selected(document)
        assert labels is None or labels == pod["metadata"]["labels"], document["kind"]
        if document["kind"] != workload["kind"]:
            assert set(_named_ports(document.get("spec"))) <= ports, document["kind"]
    config = {one["metadata"]["name"] for one in found if one["kind"] == "ConfigMap"}
    assert {one["configMap"]["name"] for one in pod["spec"]["volumes"] if "configMap" in one} == config


@pytest.mark.parametrize("base", BASES)
def test_the_files_of_a_base_are_all_in_use(base: str) -> None:
    [kustomization] = documents(KUBERNETES / base / "kustomization.yaml")
    files = {path.name for path in (KUBERNETES / base).iterdir()}
    assert files == {"kustomization.yaml", *kustomization["resources"]}


@pytest.mark.parametrize("base", BASES)
def test_kustomize_builds_the_base(base: str) -> None:
    def names(found: list[Json]) -> list[tuple[str, str]]:
        return sorted((one["kind"], one["metadata"]["name"]) for one in found)

    assert names(kustomized(KUBERNETES / base)) == names(resources(base))


def shard_of(found: list[Json]) -> tuple[int, str]:
    """Return the number of replicas of the StatefulSet, and its TUNNELS_SHARD."""
    [workload] = [one for one in found if one["kind"] == "StatefulSet"]
    [tunnels] = pods_of(workload)["spec"]["containers"]
    environ = {one["name"]: one.get("value") for one in tunnels["env"]}
    return workload["spec"]["replicas"], environ["TUNNELS_SHARD"]


def test_the_number_of_shards_is_the_number_of_replicas() -> None:
    [kustomization] = documents(KUBERNETES / "sharded" / "kustomization.yaml")
    [replicas] = kustomization["replicas"]
    count, shard = shard_of(resources("sharded"))
    assert shard == f"$(POD_NAME)/{count}"
    assert replicas["count"] == count


def test_kustomize_sets_replicas_and_shards_from_one_number(tmp_path: Path) -> None:
    base = tmp_path / "sharded"
    shutil.copytree(KUBERNETES / "sharded", base)
    kustomization = base / "kustomization.yaml"
    kustomization.write_text(kustomization.read_text().replace("count: 3", "count: 12"))
    assert shard_of(kustomized(base)) == (12, "$(POD_NAME)/12")


def test_an_external_secret_replaces_the_secret_of_the_sidecar() -> None:
    found = kustomized(KUBERNETES / "external-secrets")
    [secret] = [one for one in resources("sidecar") if one["kind"] == "Secret"]
    assert not [one for one in found if one["kind"] == "Secret"]
    [external] = [one for one in found if one["kind"] == "ExternalSecret"]
    assert external["spec"]["target"]["name"] == secret["metadata"]["name"]
    assert {one["secretKey"] for one in external["spec"]["data"]} == set(secret["stringData"])


def _pods() -> Iterator[tuple[str, Json, Json]]:
    """Yield each pod that runs tunnels, and its container that does."""
    for name in BASES:
        for document in resources(name):
            if document["kind"] in ("Deployment", "StatefulSet"):
                pod = document["spec"]["template"]["spec"]
                own = [*pod.get("initContainers", []), *pod["containers"]]
                yield name, pod, next(one for one in own if one["name"] == "tunnels")


PODS = list(_pods())


@pytest.mark.parametrize(("name", "pod", "tunnels"), PODS, ids=[name for name, _, _ in PODS])
def test_the_kubelet_can_ask_and_the_application_is_not_taken_out_with_the_bastion(
    name: str, pod: Json, tunnels: Json
) -> None:
    assert tunnels["args"] == ["run", "--listen", "0.0.0.0:9722", "/etc/tunnels"]
    # A shard has many targets: one that is down does not stop the update of all pods.
    assert tunnels["startupProbe"]["httpGet"]["path"] == ("/livez" if name == "sharded" else "/readyz")
    assert tunnels["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert "readinessProbe" not in tunnels
    ports = {port["name"]: port["containerPort"] for port in tunnels["ports"]}
    assert ports[tunnels["livenessProbe"]["httpGet"]["port"]] == 9722
    assert (tunnels in pod.get("initContainers", [])) == (tunnels.get("restartPolicy") == "Always"), name


@pytest.mark.parametrize(("name", "pod", "tunnels"), PODS, ids=[name for name, _, _ in PODS])
def test_the_pods_are_hardened_and_their_configuration_is_a_folder(name: str, pod: Json, tunnels: Json) -> None:
    context = {**pod["securityContext"], **tunnels["securityContext"]}
    assert context["runAsNonRoot"], name
    assert context["runAsUser"] == context["fsGroup"] == 65532
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not any("subPath" in mount for mount in tunnels["volumeMounts"])
    assert {mount["name"] for mount in tunnels["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}
    assert pod["terminationGracePeriodSeconds"] > 30  # drainTimeout


# --- the schemas ------------------------------------------------------------------------------------------------------

DIRECTORIES = (*BASES, "external-secrets")
OWN_SCHEMAS: Json = yaml.safe_load((Path(__file__).parent / "custom-resources.yaml").read_text())
# The oldest version with native sidecars, and the newest with a schema.
VERSIONS = ("1.29", kubernetes_validate.latest_version())


def check(document: Json, version: str) -> None:
    """Raise an error if the resource is invalid, or has a field that this version of Kubernetes does not know."""
    own = OWN_SCHEMAS.get(f"{document['apiVersion']} {document['kind']}")
    if own is None:
        kubernetes_validate.validate(document, version, strict=True)
    else:
        assert document.keys() == {"apiVersion", "kind", "metadata", "spec"}
        jsonschema.Draft202012Validator(own).validate(document["spec"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("directory", DIRECTORIES)
def test_kubernetes_accepts_what_kustomize_builds(directory: str, version: str) -> None:
    for document in kustomized(KUBERNETES / directory):
        check(document, version)


@pytest.mark.parametrize(
    ("directory", "kind", "path"),
    [
        ("sidecar", "Deployment", "spec.template.spec.initContainers.0.restartPolicies"),
        ("gateway", "NetworkPolicy", "spec.ingress.0.port"),
        ("sharded", "PodMonitor", "spec.podMetricsEndpoints.0.intervall"),
        ("external-secrets", "ExternalSecret", "spec.data.0.remoteRef.field"),
    ],
)
def test_a_field_that_does_not_exist_is_found(directory: str, kind: str, path: str) -> None:
    [document] = [one for one in kustomized(KUBERNETES / directory) if one["kind"] == kind]
    *parents, name = path.split(".")
    owner: Any = document
    for parent in parents:
        owner = owner[int(parent) if parent.isdigit() else parent]
    owner[name] = "x"
    with pytest.raises(jsonschema.ValidationError, match=name):
        check(document, VERSIONS[-1])


def test_each_base_has_a_monitor_a_disruption_budget_and_a_network_policy() -> None:
    for base in BASES:
        kinds = {one["kind"] for one in resources(base)}
        assert {"PodMonitor", "PodDisruptionBudget", "NetworkPolicy"} <= kinds, base
