"""The compiled pipeline: what a cluster is told about each step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.pipeline import PIPELINE
from dags._deployment import Deployment, Gpu, Pods, read_deployment
from tests.conftest import ROOT

pytestmark = pytest.mark.medium

FILE = ROOT / "infra/kubeflow/perscen.yaml"
EXAMPLE = ROOT / "infra/kubeflow/deployment.yaml"
ACCELERATED = {step.name for step in PIPELINE.steps if step.accelerated}


def compiled(deployment: Deployment, here: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline of a deployment: its specification, and what is Kubernetes' own, by step."""
    from kfp import compiler

    from dags.perscen_kubeflow import pipeline

    out = here / "compiled.yaml"
    compiler.Compiler().compile(pipeline(deployment), str(out))
    return read(out.read_text())


def read(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    spec, platform = yaml.load_all(text, yaml.CSafeLoader)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return spec, {name.removeprefix("exec-"): told for name, told in executors.items()}


def container(spec: dict[str, Any], step: str) -> dict[str, Any]:
    found: dict[str, Any] = spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]
    return found


def by_step(spec: dict[str, Any], field: str) -> dict[str, Any]:
    return {step.name: container(spec, step.name).get(field) for step in PIPELINE.steps}


@pytest.fixture(scope="module")
def example() -> tuple[dict[str, Any], dict[str, Any]]:
    return read(FILE.read_text())


def test_the_file_is_compiled_from_the_example_deployment(tmp_path):
    from dags.perscen_kubeflow import main

    main(["--deployment", str(EXAMPLE), "--out", str(tmp_path / "perscen.yaml")])
    assert (tmp_path / "perscen.yaml").read_text() == FILE.read_text(), "run `make kfp`"


def test_only_the_day_must_be_given(example):
    parameters = example[0]["root"]["inputDefinitions"]["parameters"]
    assert {name for name, told in parameters.items() if "defaultValue" not in told} == {
        "logical_date"
    }
    assert parameters["raw_log"]["defaultValue"] == read_deployment(EXAMPLE).raw_log
    assert parameters["days_back"]["defaultValue"] == 0


def test_kubeflow_takes_no_result_from_its_cache(example):
    options = [task["cachingOptions"] for task in example[0]["root"]["dag"]["tasks"].values()]
    assert options == [{}] * len(PIPELINE.steps)  # `enableCache: true` where it is on


def test_accelerated_steps_get_a_gpu_its_image_its_nodes_and_another_pod_when_one_is_lost(example):
    spec, kubernetes = example
    pods = read_deployment(EXAMPLE).pods
    tasks = spec["root"]["dag"]["tasks"]
    on_gpu = {name for name, asked in by_step(spec, "resources").items() if "accelerator" in asked}
    assert on_gpu == ACCELERATED
    assert {n for n, image in by_step(spec, "image").items() if image == pods.gpu_image} == on_gpu
    assert {name for name, task in tasks.items() if "retryPolicy" in task} == on_gpu
    assert {name for name, told in kubernetes.items() if "tolerations" in told} == on_gpu
    accelerator = container(spec, "train")["resources"]["accelerator"]
    assert (accelerator["resourceType"], accelerator["resourceCount"]) == ("nvidia.com/gpu", "1")
    assert kubernetes["train"]["nodeSelector"]["labels"] == pods.gpu.node_selector


def test_every_step_gets_its_memory_volume_secret_and_user(example):
    spec, kubernetes = example
    asked = {name: r["resourceMemoryLimit"] for name, r in by_step(spec, "resources").items()}
    assert (asked["train"], asked["gate"]) == ("24Gi", "8Gi")
    for step, told in kubernetes.items():
        assert told["podMetadata"]["labels"]["perscen/step"] == step
        assert told["configMapAsVolume"][0]["mountPath"] == "/etc/perscen"
        assert [mount["mountPath"] for mount in told["pvcMount"]] == ["/perscen"]
        assert [secret["secretName"] for secret in told["secretAsEnv"]] == ["perscen-object-store"]
        assert told["securityContext"]["runAsNonRoot"] is True
    for told in by_step(spec, "env").values():
        places = {entry["name"]: entry["value"] for entry in told}
        assert places["PERSCEN_STATE"] == "/perscen/state"
        assert places["MLFLOW_TRACKING_URI"] == "http://mlflow.mlflow.svc:5000"


def test_without_gpus_every_step_runs_on_the_plain_image(tmp_path):
    spec, kubernetes = compiled(Deployment(pods=Pods(gpu=Gpu(count=0))), tmp_path)
    assert set(by_step(spec, "image").values()) == {"perscen:cpu"}
    assert not any("retryPolicy" in task for task in spec["root"]["dag"]["tasks"].values())
    assert not any("pvcMount" in told or "secretAsEnv" in told for told in kubernetes.values())


def test_with_several_gpus_training_alone_is_shared_among_them(tmp_path):
    spec, kubernetes = compiled(Deployment(pods=Pods(gpu=Gpu(count=4))), tmp_path)
    shared = {n for n, command in by_step(spec, "command").items() if "torchrun" in command[-1]}
    assert shared == {"train"}
    gpus = {
        name: container(spec, name)["resources"]["accelerator"]["resourceCount"]
        for name in ACCELERATED
    }
    assert gpus == {"train": "4", "index": "1"}
    assert kubernetes["train"]["emptyDirMounts"][0]["mountPath"] == "/dev/shm"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pods: {secrets: [store]}", "does not name the entries of the secret 'store'"),
        ("pods: {gpu_imag: x}", "gpu_imag"),
    ],
)
def test_a_deployment_that_cannot_be_is_refused_with_the_reason(tmp_path, capsys, text, said):
    from dags.perscen_kubeflow import main

    (tmp_path / "d.yaml").write_text(text)
    with pytest.raises(SystemExit) as left:
        main(["--deployment", str(tmp_path / "d.yaml"), "--out", str(tmp_path / "out.yaml")])
    assert left.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.yaml").exists()
