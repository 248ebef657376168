"""What Airflow's image asks of the cluster: pods that its manifests let in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from components.pipeline import PIPELINE
from tests.conftest import ROOT
from tests.infra.files import INFRA, OVERLAYS, named
from tests.infra.test_images import copied

pytestmark = pytest.mark.medium

SCRIPT = """
import json, sys
from pathlib import Path
from types import SimpleNamespace

# In the cluster the library is in the pods alone.
sys.modules.update(dict.fromkeys(("perscen", "torch", "mlflow", "dvc", "kfp")))

from kubernetes.client import ApiClient

import dags.perscen_refresh
from components import pipeline
from dags import perscen_daily
from dags._deployment import read_deployment

assert Path(pipeline.__file__).is_relative_to(Path.cwd()), pipeline.__file__
nothing = lambda: None
no_cluster = SimpleNamespace(
    is_in_cluster=True,
    get_xcom_sidecar_container_image=nothing,
    get_xcom_sidecar_container_resources=nothing,
)
pods = {}
for overlay in sys.argv[2:]:
    for task in perscen_daily.build(read_deployment(Path(overlay))).tasks:
        if task.task_id != "landed":
            vars(task)["hook"] = no_cluster
            pod = ApiClient().sanitize_for_serialization(task.build_pod_request_obj())
            pods.setdefault(Path(overlay).parent.name, {})[task.task_id] = pod
Path(sys.argv[1]).write_text(json.dumps(pods))
"""


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The pods of a day by overlay and step, made by nothing but what is in Airflow's image."""
    image, out = tmp_path_factory.mktemp("image"), tmp_path_factory.mktemp("out") / "pods.json"
    for sources, target in copied(INFRA / "images" / "airflow.Dockerfile"):
        place = image / Path(target).relative_to("/opt/perscen")
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)
    overlays = [INFRA / "kubernetes" / "overlays" / o / "deployment.yaml" for o in OVERLAYS]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, out, *overlays],
        cwd=image,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(image),
            "AIRFLOW_HOME": str(out.parent / "airflow"),
            "PERSCEN_DEPLOYMENT": str(overlays[0]),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, dict[str, Any]] = json.loads(out.read_text())
    return told


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_step_is_a_pod_that_kubernetes_takes(pods, overlay):
    assert set(pods[overlay]) == {step.name for step in PIPELINE.steps}
    for pod in pods[overlay].values():
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_keeps_to_the_security_standard_of_its_namespace(pods, overlay):
    for pod in pods[overlay].values():
        namespace = named(overlay, "Namespace", pod["metadata"]["namespace"])
        level = namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        assert level == "restricted"
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        assert not any("hostPath" in volume for volume in spec["volumes"])
        for container in spec["containers"] + spec.get("initContainers", []):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"]["drop"] == ["ALL"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_of_steps_can_be_told_from_others_and_hold_no_token(pods, overlay):
    for name, pod in pods[overlay].items():
        assert pod["metadata"]["labels"]["perscen/step"] == name
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert len(pod["spec"]["containers"]) == 2  # the step, and what holds its result


def test_accelerated_steps_alone_go_to_the_gpu_pool(pods):
    def gpus(pod: dict[str, Any]) -> int:
        (step,) = [c for c in pod["spec"]["containers"] if c["name"] == "step"]
        return int(step["resources"]["limits"].get("nvidia.com/gpu", 0))

    accelerated = {step.name: int(step.accelerated) for step in PIPELINE.steps}
    assert {name: gpus(pod) for name, pod in pods["gpu-pool"].items()} == accelerated
    assert not any(gpus(pod) for pod in pods["small"].values())
