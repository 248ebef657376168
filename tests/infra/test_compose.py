"""The compose file: valid, on loopback alone, and of one mind with its deployment file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
import yaml

from dags._deployment import HOME, read_deployment
from tests.conftest import ROOT
from tests.infra.files import BIN, INFRA, read_yaml

FILE = INFRA / "compose.yaml"
SERVICES = read_yaml("compose.yaml")["services"]


def test_the_compose_file_keeps_to_its_specification():
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", FILE]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_port_is_on_loopback():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_service_that_stays_up_says_how_it_is():
    for name, service in SERVICES.items():
        if service["restart"] == "unless-stopped":
            # MLflow's is in its image.
            assert "healthcheck" in service or name == "mlflow", name


def test_the_example_names_every_secret_and_holds_none():
    example = dict(re.findall(r"^(\w+)=(\S*)", (INFRA / "compose.env.example").read_text(), re.M))
    used = dict(re.findall(r"\$\{(\w+)(:[-?])?", FILE.read_text()))
    assert set(example) == set(used) - {"PERSCEN_REVISION"}
    assert all(
        not value for name, value in example.items() if re.search("PASSWORD|KEY|SECRET", name)
    )
    assert "/infra/compose.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_files_that_are_mounted_exist():
    mounts = [m for s in SERVICES.values() for m in s.get("volumes", []) if m.startswith(".")]
    assert mounts
    for mount in mounts:
        assert (INFRA / mount.split(":")[0]).exists(), mount


def test_the_deployment_file_speaks_of_these_services():
    deployment = read_deployment(INFRA / "compose.deployment.yaml")
    registry = urlsplit(deployment.environment["MLFLOW_TRACKING_URI"])
    allowed = SERVICES["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert registry.hostname in SERVICES
    assert registry.netloc in allowed
    mounts = SERVICES["airflow-scheduler"]["volumes"]
    mounted = [re.search(r":(/[^:]+)(:ro)?$", mount)[1] for mount in mounts]
    inside = str(HOME), "/opt/perscen"
    assert deployment.absolute(deployment.raw_log).replace(*inside) in mounted
    assert deployment.absolute(deployment.config).replace(*inside) in mounted
    for place in (deployment.environment["PERSCEN_STATE"], deployment.serving_root):
        assert any(place.startswith(f"{mount}/") for mount in mounted)


@pytest.mark.medium
def test_the_bucket_is_made_once_and_found_from_then_on(s3_address):
    python, *arguments = yaml.safe_load(FILE.read_text())["services"]["buckets"]["command"]
    assert python == "python"
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, *arguments],
            env={
                "PATH": os.environ["PATH"],
                "AWS_ENDPOINT_URL": s3_address,
                "AWS_ACCESS_KEY_ID": "k",
                "AWS_SECRET_ACCESS_KEY": "s",
                "AWS_DEFAULT_REGION": "us-east-1",
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    deployment = read_deployment(INFRA / "compose.deployment.yaml")
    places = deployment.run_root, deployment.environment["PERSCEN_DVC_REMOTE"]
    assert {urlsplit(place).netloc for place in places} == {"perscen"}


@pytest.fixture
def s3_address():
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()
