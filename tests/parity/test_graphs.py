"""DVC, Airflow and Kubeflow run the same command lines in the same order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dags._deployment import HOME, read_deployment
from tests.conftest import ROOT
from tests.parity.graphs import TELL_AIRFLOW, declared, of_airflow, of_dvc, of_kubeflow

KUBEFLOW = ROOT / "infra/kubeflow/perscen.yaml"


def test_dvc_has_the_declared_graph():
    assert of_dvc((ROOT / "dvc.yaml").read_text()) == declared()


def test_kubeflow_has_the_declared_graph():
    assert of_kubeflow(KUBEFLOW.read_text()) == declared()


def test_a_step_changed_in_kubeflow_alone_is_seen():
    text = KUBEFLOW.read_text()
    assert of_kubeflow(text.replace("'gate', '--config'", "'gate', '--settings'")) != declared()
    assert of_kubeflow(text.replace("splits.path", "model.path")) != declared()


@pytest.mark.medium
def test_airflow_has_the_declared_graph_in_processes_and_in_pods(tmp_path: Path):
    settings = yaml.safe_load((ROOT / "infra/deployment.yaml").read_text())
    files = [tmp_path / "local.yaml", tmp_path / "kubernetes.yaml"]
    for file in files:
        file.write_text(yaml.safe_dump({**settings, "runs_in": file.stem}))
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "PERSCEN_DEPLOYMENT": str(files[0])}
    argv = [sys.executable, "-c", TELL_AIRFLOW, *files]
    asked = subprocess.run(argv, cwd=HOME, env=environment, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    for file in files:
        told = json.loads(file.with_suffix(".json").read_text())
        assert of_airflow(told, read_deployment(file)) == declared(), file.stem
