"""Manifests: valid, of one mind with the deployment files, and with no more rights than needed."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
from kubernetes_validate import latest_version

from components.pipeline import PIPELINE
from components.render import places
from dags._deployment import Deployment, read_deployment
from tests.infra.files import INFRA, OVERLAYS, named, read_yaml, rendered

pytestmark = pytest.mark.medium  # each is quick, all together are not

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
TRAINJOB = read_yaml("kubernetes/trainjob.yaml")


def deployment_of(overlay: str) -> Deployment:
    return read_deployment(INFRA / "kubernetes" / "overlays" / overlay / "deployment.yaml")


def amount(quantity: str | int) -> float:
    """A Kubernetes quantity in units, such as bytes or cores."""
    powers = {"m": 1e-3, "Mi": 2**20, "Gi": 2**30}
    for unit, power in powers.items():
        if str(quantity).endswith(unit):
            return float(str(quantity).removesuffix(unit)) * power
    return float(quantity)


@each_overlay
def test_every_manifest_is_what_kubernetes_takes(overlay):
    for manifest in rendered(overlay):
        kubernetes_validate.validate(manifest, latest_version(), strict=True)


@each_overlay
def test_what_the_deployment_names_is_there(overlay):
    pods = deployment_of(overlay).pods
    named(overlay, "Namespace", pods.namespace)
    named(overlay, "ServiceAccount", pods.service_account, namespace=pods.namespace)
    named(overlay, "PersistentVolumeClaim", pods.volume_claim, namespace=pods.namespace)
    settings = named(overlay, "ConfigMap", pods.config_map, namespace=pods.namespace)
    assert f"/etc/perscen/{next(iter(settings['data']))}" == deployment_of(overlay).config


@each_overlay
def test_two_steps_of_the_largest_kind_fit_the_quota(overlay):
    pods = deployment_of(overlay).pods
    quota = named(overlay, "ResourceQuota", "perscen")["spec"]["hard"]
    for unit, limit in (("cpu", "requests.cpu"), ("memory", "limits.memory")):
        most = max(amount(getattr(asked, unit)) for asked in pods.resources.values())
        assert 2 * most <= amount(quota[limit])
    assert 2 * pods.gpu.count <= amount(quota["requests.nvidia.com/gpu"])


@each_overlay
def test_steps_have_neither_rights_nor_a_token(overlay):
    account = named(overlay, "ServiceAccount", deployment_of(overlay).pods.service_account)
    assert account["automountServiceAccountToken"] is False
    for manifest in rendered(overlay):
        assert account["metadata"]["name"] not in str(manifest.get("subjects"))


@each_overlay
def test_airflow_may_deal_with_pods_in_one_namespace_and_with_nothing_else(overlay):
    kinds = [manifest["kind"] for manifest in rendered(overlay)]
    assert not {"ClusterRole", "ClusterRoleBinding"} & set(kinds)
    assert kinds.count("Role") == kinds.count("RoleBinding") == 1
    rules = named(overlay, "Role", "perscen-pods")["rules"]
    assert {r for rule in rules for r in rule["resources"]} == {
        *("pods", "pods/log", "pods/exec", "events")
    }
    assert "*" not in str(rules)
    values = read_yaml("airflow/values.yaml")
    accounts = {values[part]["serviceAccount"]["name"] for part in ("scheduler", "triggerer")}
    subjects = named(overlay, "RoleBinding", "perscen-pods")["subjects"]
    assert {(s["namespace"], s["name"]) for s in subjects} == {("airflow", a) for a in accounts}


@each_overlay
def test_what_no_rule_allows_is_denied(overlay):
    deny = named(overlay, "NetworkPolicy", "deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@each_overlay
def test_registry_and_object_store_can_be_reached(overlay):
    environment = deployment_of(overlay).environment
    addresses = [environment["MLFLOW_TRACKING_URI"]]
    addresses += [environment[n] for n in ("AWS_ENDPOINT_URL",) if n in environment]
    for address in addresses:
        host = urlsplit(address)
        _, namespace, _ = str(host.hostname).split(".")
        assert (namespace, host.port) in allowed_namespaces(overlay)
    assert "AWS_ENDPOINT_URL" in environment or 443 in public_ports(overlay)


def egress(overlay: str) -> list[dict[str, Any]]:
    policies = [m["spec"] for m in rendered(overlay) if m["kind"] == "NetworkPolicy"]
    return [rule for spec in policies for rule in spec.get("egress", []) if not spec["podSelector"]]


def allowed_namespaces(overlay: str) -> set[tuple[str, int]]:
    return {
        (peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], port["port"])
        for rule in egress(overlay)
        for peer in rule["to"]
        if "namespaceSelector" in peer
        for port in rule["ports"]
    }


def public_ports(overlay: str) -> set[int]:
    rules = [rule for rule in egress(overlay) if any("ipBlock" in peer for peer in rule["to"])]
    return {port["port"] for rule in rules for port in rule["ports"]}


def test_the_trainjob_is_what_its_definition_takes():
    """The models are made from the CRD; they drop a field that it does not have."""
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

    assert TrainerV1alpha1TrainJob.from_dict(TRAINJOB).to_dict() == TRAINJOB


def test_the_trainjob_runs_the_argv_that_train_has_everywhere():
    deployment, day = deployment_of("gpu-pool"), TRAINJOB["metadata"]["name"][-10:]
    python, *rest = PIPELINE["train"].argv(
        config=deployment.config,
        logical_date=day,
        places=places(root=f"{deployment.run_root}/{day}", raw_log=deployment.raw_log),
    )
    trainer = TRAINJOB["spec"]["trainer"]
    assert trainer["command"] == [python, "-m", "components.torchrun"]
    assert trainer["args"] == rest


def test_the_trainjob_gets_what_a_pod_of_train_gets():
    pods = deployment_of("gpu-pool").pods
    trainer = TRAINJOB["spec"]["trainer"]
    patch = TRAINJOB["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]
    template = patch["replicatedJobs"][0]["template"]["spec"]["template"]
    pod, labels = template["spec"], template["metadata"]["labels"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert TRAINJOB["metadata"]["namespace"] == pods.namespace
    assert trainer["image"] == pods.gpu_image
    assert trainer["resourcesPerNode"]["requests"]["memory"] == pods.resources["train"].memory
    assert pod["serviceAccountName"] == pods.service_account
    assert pod["securityContext"]["runAsUser"] == pods.user
    assert pod["nodeSelector"] == pods.gpu.node_selector
    assert pod["tolerations"] == [t.model_dump(exclude_none=True) for t in pods.gpu.tolerations]
    assert pod["terminationGracePeriodSeconds"] == pods.termination_grace_s
    assert volumes["perscen"]["persistentVolumeClaim"]["claimName"] == pods.volume_claim
    assert volumes["settings"]["configMap"]["name"] == pods.config_map
    told = {variable["name"]: variable.get("value") for variable in trainer["env"]}
    assert (
        told.items()
        >= {
            n: v
            for n, v in deployment_of("gpu-pool").environment.items()
            if n != "PERSCEN_DVC_REMOTE"
        }.items()
    )
    training = named("gpu-pool", "NetworkPolicy", "training")["spec"]["podSelector"]["matchLabels"]
    assert training.items() <= labels.items()
