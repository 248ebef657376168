"""Chart values and all other YAML: linted, and naming what the rest of the repository has."""

from __future__ import annotations

import re

import pytest
from yamllint.config import YamlLintConfig
from yamllint.linter import run

from dags._deployment import read_deployment
from tests.conftest import ROOT
from tests.infra.files import INFRA, OVERLAYS, named, read_yaml

FILES = sorted([*INFRA.rglob("*.yaml"), *INFRA.rglob(".*.yaml")])
AIRFLOW = read_yaml("airflow/values.yaml")
MLFLOW = read_yaml("mlflow/values.yaml")
HOW_TO = ROOT / "docs" / "how-to" / "deploy-on-kubernetes.md"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(INFRA)))
def test_yaml_passes_its_linter(path):
    config = YamlLintConfig(file=str(INFRA / ".yamllint.yaml"))
    assert [str(problem) for problem in run(path.read_text(), config, str(path))] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_airflow_reads_the_deployment_file_of_the_overlay(overlay):
    (volume,), (mount,) = AIRFLOW["volumes"], AIRFLOW["volumeMounts"]
    source = named(overlay, "ConfigMap", volume["configMap"]["name"], namespace="airflow")
    environment = {variable["name"]: variable["value"] for variable in AIRFLOW["env"]}
    assert mount["name"] == volume["name"]
    assert environment["PERSCEN_DEPLOYMENT"] in {
        f"{mount['mountPath']}/{f}" for f in source["data"]
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_mlflow_answers_where_steps_look_for_it(overlay):
    deployment = read_deployment(INFRA / "kubernetes/overlays" / overlay / "deployment.yaml")
    host = f"{MLFLOW['fullnameOverride']}.mlflow.svc:{MLFLOW['service']['port']}"
    assert deployment.environment["MLFLOW_TRACKING_URI"] == f"http://{host}"
    assert host in MLFLOW["extraEnvVars"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")


def test_the_how_to_makes_every_secret_and_every_image():
    text = HOW_TO.read_text()
    pods = read_deployment(INFRA / "kubernetes/overlays/gpu-pool/deployment.yaml").pods
    made = set(re.findall(r"-n (\w+) create secret generic ([\w-]+)", text))
    assert made >= {("perscen", name) for name in pods.secrets}
    assert made >= {("airflow", n) for n in re.findall(r"name: ([\w-]+)", AIRFLOW["extraEnvFrom"])}
    assert made >= {("airflow", n) for key, n in AIRFLOW.items() if key.endswith("SecretName")}
    assert ("airflow", AIRFLOW["data"]["metadataSecretName"]) in made
    assert ("mlflow", MLFLOW["backendStore"]["existingDatabaseSecret"]["name"]) in made
    assert ("mlflow", MLFLOW["artifactRoot"]["s3"]["existingSecret"]["name"]) in made
    images = [pods.image, pods.gpu_image]
    images += [
        "{repository}:{tag}".format(**i) for i in (AIRFLOW["images"]["airflow"], MLFLOW["image"])
    ]
    built = set(re.findall(r"-t (\S+)", text))
    assert {image.replace("registry.example.com", "$REGISTRY") for image in images} <= built


def test_the_versions_of_the_charts_are_said_once_each():
    for name in ("airflow", "mlflow"):
        text = (INFRA / name / "values.yaml").read_text()
        (version,) = re.findall(r"--version ([\d.]+)", text)
        assert f"--version {version}" in HOW_TO.read_text()
