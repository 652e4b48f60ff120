"""The manifests: built by kustomize, compared with schemas, checkov, one another, and the code.

Needs no cluster. CRDs (KEDA, Prometheus operator) have no schema here: their fields are compared with their
documentation.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from redis import Redis
from rq import Queue
from rq.registry import StartedJobRegistry

from dermnote_notegen.queue.rq_queue import QUEUE_NAME
from dermnote_notegen.settings import Settings as NotegenSettings
from dermnote_retrieval.runtime.shutdown import CLOSING_S
from dermnote_retrieval.settings import Settings as RetrievalSettings
from tests.e2e.conftest import ROOT

BIN = Path(sys.executable).parent
K8S = ROOT / "k8s"
OVERLAYS = ("dev", "prod", "gpu")
# Names and files of the secrets described in k8s/README.md.
SECRETS = {"dermnote-redis": "password", "dermnote-keys": "keys.txt", "dermnote-client": "key"}
CHECKOV = "checkov==3.3.30"
CRDS = ("keda.sh/", "monitoring.coreos.com/")
WORKLOADS = ("Deployment", "StatefulSet", "Job", "CronJob")
# https://keda.sh/docs/latest/reference/scaledobject-spec/
SCALED_OBJECT = {
    "scaleTargetRef",
    "pollingInterval",
    "cooldownPeriod",
    "initialCooldownPeriod",
    "idleReplicaCount",
    "minReplicaCount",
    "maxReplicaCount",
    "fallback",
    "advanced",
    "triggers",
}
ADVANCED = {"restoreToOriginalReplicaCount", "horizontalPodAutoscalerConfig", "scalingModifiers"}
SCALING_MODIFIERS = {"formula", "target", "activationTarget", "metricType"}
# https://keda.sh/docs/latest/scalers/redis-lists/
REDIS_TRIGGER = {"address", "listName", "listLength", "activationListLength", "databaseIndex", "enableTLS"}
# https://prometheus-operator.dev/docs/api-reference/api/#monitoring.coreos.com/v1.Endpoint
ENDPOINT = {"port", "path", "interval", "scheme", "authorization", "tlsConfig"}

Document = dict[str, Any]
Documents = list[Document]


def kustomized(folder: Path) -> str:
    done = subprocess.run(
        [BIN / "kubectl", "kustomize", folder], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip(), done.stderr
    return done.stdout


def documents(text: str) -> Documents:
    return [document for document in yaml.safe_load_all(text) if document]


@pytest.fixture(scope="module")
def built() -> Callable[[str], Documents]:
    """Builds an overlay's documents, once per overlay."""
    kept: dict[str, Documents] = {}

    def build(overlay: str) -> Documents:
        if overlay not in kept:
            kept[overlay] = documents(kustomized(K8S / "overlays" / overlay))
        return kept[overlay]

    return build


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest, built: Callable[[str], Documents]) -> Documents:
    return built(request.param)


def with_components(folder: Path, *components: str, overlay: str = "prod") -> Documents:
    """An overlay with additional components, as in the comments of prod; kustomize needs relative paths."""
    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "resources": [os.path.relpath(K8S / "overlays" / overlay, folder)],
                "components": [os.path.relpath(K8S / "components" / name, folder) for name in components],
            }
        )
    )
    return documents(kustomized(folder))


def validate(document: Document) -> None:
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def of_kind(found: Documents, *kinds: str) -> Documents:
    return [document for document in found if document["kind"] in kinds]


def named(found: Documents, kind: str, name: str) -> Document:
    (document,) = [one for one in of_kind(found, kind) if one["metadata"]["name"] == name]
    return document


def template(workload: Document) -> Document:
    spec = workload["spec"]
    pod: Document = (spec["jobTemplate"]["spec"] if workload["kind"] == "CronJob" else spec)["template"]
    return pod


def containers(found: Documents) -> Iterator[tuple[str, Document]]:
    """(name of the workload, container) for all containers, including init containers."""
    for workload in of_kind(found, *WORKLOADS):
        pod = template(workload)["spec"]
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            yield workload["metadata"]["name"], container


def pod_labels(found: Documents) -> list[Mapping[str, str]]:
    return [template(workload)["metadata"]["labels"] for workload in of_kind(found, *WORKLOADS)]


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    required = dict(selector.get("matchLabels", {}))
    for one in selector.get("matchExpressions", []):
        assert one["operator"] == "In"
        if labels.get(one["key"]) not in one["values"]:
            return False
    return required.items() <= labels.items()


# --- external checks


def test_every_document_matches_the_schema_of_the_newest_kubernetes(overlay: Documents) -> None:
    known = [document for document in overlay if not document["apiVersion"].startswith(CRDS)]
    assert len(known) > 20

    for document in known:
        validate(document)


@pytest.fixture(scope="session")
def checkov() -> Path:
    """checkov in its own environment: its dependencies conflict with ours."""
    home = ROOT / ".dermnote" / "tools" / "checkov"
    program = home / "bin" / "checkov"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", home], check=True, timeout=120)
        install = [home / "bin" / "python", "-m", "pip", "install", "--quiet", CHECKOV]
        done = subprocess.run(install, capture_output=True, text=True, timeout=900, check=False)
        if done.returncode:
            pytest.skip(f"{CHECKOV} can't be installed here: {done.stderr.strip().splitlines()[-1][:200]}")
    return program


@pytest.mark.slow
@pytest.mark.parametrize("name", OVERLAYS)
def test_checkov_finds_only_explained_exceptions(checkov: Path, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(kustomized(K8S / "overlays" / name))

    done = subprocess.run(
        [checkov, "-f", path, "--framework", "kubernetes", "--config-file", K8S / "checkov.yaml", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    summary = json.loads(done.stdout)["summary"]
    assert summary["failed"] == 0
    assert summary["passed"] > 400
    lines = (K8S / "checkov.yaml").read_text().splitlines()
    skips = [place for place, line in enumerate(lines) if line.strip().startswith("- CKV")]
    assert all(lines[place - 1].strip().startswith("#") for place in skips)


# --- errors that would otherwise appear only in a cluster


def test_every_container_has_minimal_privileges(overlay: Documents) -> None:
    for workload in of_kind(overlay, *WORKLOADS):
        pod = template(workload)["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 10000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert named(overlay, "ServiceAccount", pod["serviceAccountName"])["automountServiceAccountToken"] is False
    for name, container in containers(overlay):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), name


def test_every_image_has_a_version(overlay: Documents) -> None:
    for name, container in containers(overlay):
        tag = container["image"].partition(":")[2]
        assert re.search(r"\d", tag), f"{name}: {container['image']}"


def test_mounts_probes_and_selectors_refer_to_existing_objects(overlay: Documents) -> None:
    made = {one["metadata"]["name"] for one in of_kind(overlay, "ConfigMap")}
    for workload in of_kind(overlay, *WORKLOADS):
        pod = template(workload)["spec"]
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        for volume in pod.get("volumes", []):
            assert volume.get("configMap", {}).get("name") in {None, *made}
            assert volume.get("secret", {}).get("secretName") in {None, *SECRETS}
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert container.get(probe, {}).get("httpGet", {}).get("port") in {None, *ports}
    for service in of_kind(overlay, "Service"):
        pods = [
            template(one)
            for one in of_kind(overlay, *WORKLOADS)
            if service["spec"]["selector"].items() <= template(one)["metadata"]["labels"].items()
        ]
        assert len(pods) == 1, service["metadata"]["name"]
        ports = {port["name"] for container in pods[0]["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for budget in of_kind(overlay, "PodDisruptionBudget"):
        assert any(matches(budget["spec"]["selector"], labels) for labels in pod_labels(overlay))
        assert budget["spec"]["maxUnavailable"] > 0  # otherwise a node could not be drained


def test_traffic_is_denied_by_default(overlay: Documents) -> None:
    policies = of_kind(overlay, "NetworkPolicy")
    deny = named(overlay, "NetworkPolicy", "default-deny")["spec"]

    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert {one["metadata"]["namespace"] for one in policies} == {"dermnote"}
    for policy in policies:
        if policy["spec"]["podSelector"]:
            assert any(matches(policy["spec"]["podSelector"], labels) for labels in pod_labels(overlay))
    worker = named(overlay, "NetworkPolicy", "notegen-worker")["spec"]["egress"]
    assert [one["to"][0]["podSelector"]["matchLabels"] for one in worker] == [{"app.kubernetes.io/name": "redis"}]


def ports_of(found: Documents, selector: Mapping[str, Any]) -> set[int]:
    """The ports of the pods that a selector matches."""
    pods = [template(one) for one in of_kind(found, *WORKLOADS)]
    return {
        port["containerPort"]
        for pod in pods
        if matches(selector, pod["metadata"]["labels"])
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
    }


def test_policies_open_existing_ports(overlay: Documents) -> None:
    for policy in of_kind(overlay, "NetworkPolicy"):
        spec = policy["spec"]
        for rule in spec.get("ingress", []):
            opened = {port["port"] for port in rule.get("ports", [])}
            assert opened <= ports_of(overlay, spec["podSelector"]), policy["metadata"]["name"]
        for rule in spec.get("egress", []):
            opened = {port["port"] for port in rule.get("ports", [])}
            for peer in rule["to"]:
                if "podSelector" in peer:
                    assert opened <= ports_of(overlay, peer["podSelector"]), policy["metadata"]["name"]


def allows(policy: Document, direction: str, pod: Mapping[str, str], peer: Mapping[str, str], port: int) -> bool:
    """Whether a policy allows a pod to connect to another pod of the namespace."""
    side = {"ingress": "from", "egress": "to"}[direction]
    return matches(policy["spec"]["podSelector"], pod) and any(
        port in [one["port"] for one in rule.get("ports", [{"port": port}])]
        and any(matches(one["podSelector"], peer) for one in rule[side] if "podSelector" in one)
        for rule in policy["spec"].get(direction, [])
    )


def reaches(found: Documents, pod: Mapping[str, str], service: str, port: int) -> bool:
    """Whether the policies allow a pod's egress to a service's pods, and the ingress there."""
    policies = of_kind(found, "NetworkPolicy")
    target = named(found, "Service", service)["spec"]["selector"]
    return any(allows(policy, "egress", pod, target, port) for policy in policies) and any(
        allows(policy, "ingress", target, pod, port) for policy in policies
    )


def test_a_pod_reaches_exactly_its_configured_services(overlay: Documents) -> None:
    every = {
        (one["metadata"]["name"], port["port"]) for one in of_kind(overlay, "Service") for port in one["spec"]["ports"]
    }
    for workload in of_kind(overlay, *WORKLOADS):
        pod = template(workload)
        values = [one["value"] for container in pod["spec"]["containers"] for one in container.get("env", [])]
        declared = {(name, int(port)) for value in values for name, port in re.findall(r"//([\w-]+):(\d+)", value)}
        itself = {(pod["spec"].get("subdomain"), 29500)}

        reached = {one for one in every if reaches(overlay, pod["metadata"]["labels"], *one)}

        assert reached - itself == declared, workload["metadata"]["name"]


def test_each_workload_has_one_scaler(overlay: Documents) -> None:
    scalers = of_kind(overlay, "HorizontalPodAutoscaler", "ScaledObject")
    targets = [one["spec"]["scaleTargetRef"]["name"] for one in scalers]

    assert len(set(targets)) == len(targets)
    for target in targets:
        assert "replicas" not in named(overlay, "Deployment", target)["spec"]  # otherwise each apply would reset them


# --- consistency of manifests and code


def documented_settings() -> set[str]:
    return set(re.findall(r"^\| `([A-Z_]+)`", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE))


def test_every_variable_is_a_setting(overlay: Documents) -> None:
    for name, container in containers(overlay):
        variables = {one["name"] for one in container.get("env", [])}
        if name == "snapshots":
            script = (K8S / "base" / "snapshot.py").read_text()
            assert all(f'"{variable}"' in script for variable in variables)
        else:
            assert variables <= documented_settings(), name


def test_paths_of_settings_are_in_mounted_secrets(overlay: Documents) -> None:
    readme = (K8S / "README.md").read_text()
    for workload in of_kind(overlay, *WORKLOADS):
        pod = template(workload)["spec"]
        secrets = {one["name"]: one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one}
        for container in pod["containers"]:
            there = {
                f"{mount['mountPath']}/{SECRETS[secrets[mount['name']]]}"
                for mount in container["volumeMounts"]
                if mount["name"] in secrets
            }
            named_files = {one["value"] for one in container.get("env", []) if one["name"].endswith("_FILE")}
            assert named_files == there or container["name"] == "redis"  # its command reads the file
    for secret, file in SECRETS.items():
        assert f"create secret generic {secret} --from-file={file}\n" in readme


def test_workers_are_probed_at_the_engines_metrics_port(overlay: Documents) -> None:
    (container,) = template(named(overlay, "Deployment", "notegen-worker"))["spec"]["containers"]
    (port,) = container["ports"]

    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/metrics", "port": port["name"]}
    dockerfile = (ROOT / "services" / "notegen" / "Dockerfile").read_text()
    assert re.search(rf"NOTEGEN_ENGINE_METRICS_PORT={port['containerPort']}\b", dockerfile)


@pytest.mark.parametrize("service", ["notegen-api", "retrieval"])
def test_probes_use_paths_of_the_service(overlay: Documents, service: str) -> None:
    document = json.loads((ROOT / "docs" / "openapi" / f"{service.removesuffix('-api')}.json").read_text())
    (container,) = [one for name, one in containers(overlay) if name == service and one["name"] == service]

    probed = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert probed == {"/health/live", "/health/ready"}
    assert probed <= document["paths"].keys()
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"


def test_grace_periods_exceed_the_shutdown_times(overlay: Documents) -> None:
    def grace_s(kind: str, name: str) -> float:
        return float(template(named(overlay, kind, name))["spec"]["terminationGracePeriodSeconds"])

    assert grace_s("Deployment", "notegen-worker") > NotegenSettings().job_timeout_s
    (server,) = template(named(overlay, "StatefulSet", "retrieval"))["spec"]["containers"]
    stopping_s = server["lifecycle"]["preStop"]["sleep"]["seconds"] + RetrievalSettings().drain_s + CLOSING_S
    assert grace_s("StatefulSet", "retrieval") > stopping_s


def test_every_service_requires_keys(overlay: Documents) -> None:
    environments = {
        name: {one["name"]: one["value"] for one in container["env"]}
        for name, container in containers(overlay)
        if container["name"] in ("notegen-api", "retrieval")
    }

    for name, variable in (("notegen-api", "NOTEGEN_KEYS_FILE"), ("retrieval", "RETRIEVAL_KEYS_FILE")):
        assert environments[name][variable] == "/run/secrets/dermnote-keys/keys.txt"


@pytest.mark.parametrize("name", ["prod", "gpu"])
def test_workers_scale_with_waiting_and_running_notes(built: Callable[[str], Documents], name: str) -> None:
    found = built(name)
    scaled = named(found, "ScaledObject", "notegen-worker")["spec"]
    triggers = {trigger["name"]: trigger for trigger in scaled["triggers"]}
    queue = Queue(QUEUE_NAME, connection=Redis(), serializer="json")

    advanced = scaled["advanced"]
    assert scaled.keys() <= SCALED_OBJECT
    assert advanced.keys() <= ADVANCED
    assert advanced["scalingModifiers"].keys() <= SCALING_MODIFIERS
    # KEDA creates an autoscaler with this behaviour.
    target = {"apiVersion": "apps/v1", "kind": "Deployment", **scaled["scaleTargetRef"]}
    made = {
        "scaleTargetRef": target,
        "maxReplicas": scaled["maxReplicaCount"],
        **advanced["horizontalPodAutoscalerConfig"],
    }
    validate({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {}, "spec": made})
    assert triggers["waiting"]["metadata"]["listName"] == queue.key
    assert triggers["running"]["metadata"]["listName"] == StartedJobRegistry(queue=queue).key
    assert scaled["advanced"]["scalingModifiers"]["formula"] == "waiting + running"
    assert scaled["minReplicaCount"] >= 1
    (way_in,) = named(found, "NetworkPolicy", "redis-from-keda")["spec"]["ingress"]
    assert way_in["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}]
    for trigger in triggers.values():
        assert trigger["type"] == "redis"
        assert trigger["metadata"].keys() <= REDIS_TRIGGER
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
        service, namespace = trigger["metadata"]["address"].split(".")[:2]
        assert named(found, "Service", service)["metadata"]["namespace"] == namespace
        secret = named(found, "TriggerAuthentication", trigger["authenticationRef"]["name"])["spec"]["secretTargetRef"]
        assert secret == [{"parameter": "password", "name": "dermnote-redis", "key": "password"}]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_image_gets_its_tag_from_the_images_component(built: Callable[[str], Documents], name: str) -> None:
    # A layer that sets `newName` hides the image from the layers above it, which then silently lose their tags.
    tagged = yaml.safe_load((K8S / "components/images/kustomization.yaml").read_text())["images"]
    overlay = yaml.safe_load((K8S / "overlays" / name / "kustomization.yaml").read_text())
    used = {container["image"].partition(":")[0] for _, container in containers(built(name))}

    assert overlay["components"][-1] == "../../components/images"
    assert {image for image in used if image.startswith("dermnote/")} <= {one["name"] for one in tagged}
    assert {one["name"] for one in overlay.get("images", [])} <= {one["name"] for one in tagged}
    below = [path for folder in ("base", "components") for path in (K8S / folder).rglob("*.yaml")]
    assert not any("newName" in path.read_text() for path in below)


def test_training_pods_can_reach_each_other(built: Callable[[str], Documents]) -> None:
    found = built("gpu")
    job = named(found, "Job", "train")["spec"]
    (container,) = job["template"]["spec"]["containers"]
    (command,) = container["args"]
    service = named(found, "Service", job["template"]["spec"]["subdomain"])

    assert job["suspend"] is True
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == int(re.search(r"--nnodes=(\d+)", command)[1])  # type: ignore[index]
    assert f"--master-addr=train-0.{service['metadata']['name']}" in command
    assert f"--master-port={service['spec']['ports'][0]['port']}" in command
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


# --- components that are not in any overlay


def test_monitors_select_their_services(tmp_path: Path) -> None:
    found = with_components(tmp_path, "monitoring")
    monitors = of_kind(found, "ServiceMonitor")

    assert {one["metadata"]["name"] for one in monitors} == {"notegen-api", "notegen-worker", "retrieval"}
    for monitor in monitors:
        services = [
            service
            for service in of_kind(found, "Service")
            if matches(monitor["spec"]["selector"], service["metadata"].get("labels", {}))
        ]
        assert len(services) == 1
        ports = {port["name"] for port in services[0]["spec"]["ports"]}
        for endpoint in monitor["spec"]["endpoints"]:
            assert endpoint.keys() <= ENDPOINT
            assert endpoint["port"] in ports
            # A service with keys requires one from Prometheus too.
            key = None if monitor["metadata"]["name"] == "notegen-worker" else ("dermnote-client", "key")
            credentials = endpoint.get("authorization", {}).get("credentials")
            assert (credentials and (credentials["name"], credentials["key"])) == key


@pytest.mark.parametrize("name", ["dev", "prod"])
def test_a_remote_engine_removes_the_probes(tmp_path: Path, name: str) -> None:
    found = with_components(tmp_path, "remote-engine", overlay=name)
    worker = named(found, "Deployment", "notegen-worker")
    (container,) = template(worker)["spec"]["containers"]

    validate(worker)
    assert {"NOTEGEN_ENGINE_URL", "NOTEGEN_MODEL"} <= {one["name"] for one in container["env"]} & documented_settings()
    assert not {"startupProbe", "readinessProbe", "livenessProbe"} & container.keys()
    assert "ipBlock" in named(found, "NetworkPolicy", "notegen-worker")["spec"]["egress"][-1]["to"][0]


def test_the_loader_mounts_the_training_volume(built: Callable[[str], Documents]) -> None:
    (loader,) = documents((K8S / "components" / "training" / "loader.yaml").read_text())
    job = template(named(built("gpu"), "Job", "train"))

    validate(loader)
    assert loader["metadata"]["labels"] == job["metadata"]["labels"]  # selected by the policies
    (here,) = [one for one in loader["spec"]["volumes"] if one["name"] == "home"]
    assert here in job["spec"]["volumes"]
    (container,), (trainer,) = loader["spec"]["containers"], job["spec"]["containers"]
    assert container["image"] == trainer["image"]
    assert container["securityContext"] == trainer["securityContext"]


@pytest.mark.parametrize("name", ["dev", "prod"])
def test_a_managed_redis_replaces_ours(tmp_path: Path, name: str) -> None:
    found = with_components(tmp_path, "managed-redis", overlay=name)

    of_redis = [one for one in found if one["metadata"]["name"].startswith("redis")]
    assert {one["kind"] for one in of_redis} <= {"TriggerAuthentication"}
    assert not re.search(r"redis\.dermnote\.svc|//redis:", json.dumps(found))
    for scaled in of_kind(found, "ScaledObject"):
        assert all(one["metadata"]["enableTLS"] == "true" for one in scaled["spec"]["triggers"])
    for service in ("notegen-api", "notegen-worker"):
        (container,) = template(named(found, "Deployment", service))["spec"]["containers"]
        assert {one["name"]: one["value"] for one in container["env"]}["REDIS_URL"].startswith("rediss://")
        (way_out,) = named(found, "NetworkPolicy", service)["spec"]["egress"]
        assert "ipBlock" in way_out["to"][0]
    for document in found:
        if not document["apiVersion"].startswith(CRDS):
            validate(document)
