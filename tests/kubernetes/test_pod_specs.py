"""The pods of all steps are what Kubernetes takes, and what the deployment says."""

from __future__ import annotations

import os
import re
from typing import Any

import kubernetes_validate
import pytest
import yaml

from components.pipeline import PIPELINE, Step
from components.render import places
from tests.conftest import ROOT
from tests.kubernetes.conftest import Worker

pytestmark = pytest.mark.medium

GOLDEN = ROOT / "tests" / "golden" / "train_pod.yaml"
VOLUME = {"volume_claim": "perscen", "config_map": "perscen-settings"}
GPU = {
    "node_selector": {"nvidia.com/gpu.present": "true"},
    "tolerations": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
}
DEPLOYMENTS: dict[str, dict[str, Any]] = {
    "cpu on a volume": {
        "run_root": "/perscen/runs",
        "raw_log": "/perscen/raw",
        "pods": {**VOLUME, "gpu": {"count": 0}},
    },
    "gpu on a volume": {
        "run_root": "/perscen/runs",
        "raw_log": "/perscen/raw",
        "pods": {**VOLUME, "gpu": {**GPU, "count": 1}},
    },
    "gpus, object store": {
        "run_root": "s3://perscen/runs",
        "raw_log": "s3://perscen/raw",
        "config": "/etc/perscen/params.yaml",
        "environment": {
            "MLFLOW_TRACKING_URI": "http://mlflow.mlflow.svc:5000",
            "PERSCEN_DVC_REMOTE": "s3://perscen/dvc",
        },
        "pods": {
            **VOLUME,
            "secrets": ["perscen-object-store"],
            "gpu": {**GPU, "count": 4},
            "resources": {"default": {}, "train": {"cpu": "16", "memory": "64Gi"}},
        },
    },
    "object store alone": {
        "run_root": "s3://perscen/runs",
        "raw_log": "s3://perscen/raw",
        "pods": {"secrets": ["perscen-object-store", "perscen-mlflow"]},
    },
}


def pods_of(worker: Worker, deployment: dict[str, Any]) -> dict[str, Any]:
    """Return the pod of every step as it goes over the wire."""
    where = places(root=f"{deployment['run_root']}/{{{{ ds }}}}", raw_log=deployment["raw_log"])
    config = deployment.get("config", "params.yaml")

    def pod_of(step: Step) -> Any:
        argv = step.argv(config=config, logical_date="{{ ds }}", places=where)
        asked = {"dag": "perscen_daily", "step": step.name, "argv": argv, "deployment": deployment}
        return worker.ask("render", **asked)["pod"]

    return {step.name: pod_of(step) for step in PIPELINE.steps}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_pod_is_one_that_kubernetes_takes(worker: Worker, name: str):
    newest = kubernetes_validate.utils.all_versions()[-2:]

    for pod in pods_of(worker, DEPLOYMENTS[name]).values():
        for version in newest:
            kubernetes_validate.validate(pod, version, strict=True)


@pytest.fixture(scope="module")
def pods(worker: Worker) -> dict[str, Any]:
    """The pods of the deployment that has most."""
    return pods_of(worker, DEPLOYMENTS["gpus, object store"])


def test_training_has_all_gpus_and_a_process_for_each(pods: dict[str, Any]):
    step, _ = pods["train"]["spec"]["containers"]

    assert step["resources"]["requests"]["nvidia.com/gpu"] == "4"
    assert step["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert step["args"][:5] == ["python", "-m", "components.torchrun", "--standalone",
                                   "--nproc-per-node"]  # fmt: skip
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory"}} in (
        pods["train"]["spec"]["volumes"]
    )


def test_a_step_that_is_not_shared_has_one_gpu_or_none(pods: dict[str, Any]):
    gpus = {
        name: pod["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
        for name, pod in pods.items()
    }

    assert {name for name, count in gpus.items() if count} == {"train", "index"}
    assert gpus["index"] == "1"
    for name in gpus.keys() - {"train", "index"}:
        assert "nvidia.com/gpu.present" not in pods[name]["spec"].get("nodeSelector", {})


def test_the_day_is_in_the_argv_and_in_the_labels(pods: dict[str, Any]):
    for name, pod in pods.items():
        assert "2022-05-05" in pod["spec"]["containers"][0]["args"]
        assert pod["metadata"]["name"].startswith(f"perscen-{name}-2022-05-05-")
        told = {k: pod["metadata"]["labels"][k] for k in ("perscen/step", "perscen/logical-date")}
        assert told == {"perscen/step": name, "perscen/logical-date": "2022-05-05"}


def test_the_side_car_has_no_more_rights_than_the_step(pods: dict[str, Any]):
    for pod in pods.values():
        step, side_car = pod["spec"]["containers"]
        assert side_car["securityContext"] == step["securityContext"]


def test_the_pod_of_train_is_the_golden_one(pods: dict[str, Any]):
    """``PERSCEN_RENEW=1`` writes the golden file again."""
    text = yaml.safe_dump(pods["train"], sort_keys=False, width=100)
    text = re.sub(r"(name: perscen-train-2022-05-05)-\w{8}", r"\1-SUFFIX", text)
    text = re.sub(r"airflow_version: .*", "airflow_version: VERSION", text)
    if os.environ.get("PERSCEN_RENEW") == "1":
        GOLDEN.write_text(text)

    assert GOLDEN.read_text() == text, "run with PERSCEN_RENEW=1 and look at the difference"
