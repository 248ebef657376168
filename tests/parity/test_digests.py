"""The same day by DVC, by Airflow and by Kubeflow: every artifact has the same digest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from components.pipeline import PIPELINE
from tests.e2e.project import Project, checkout
from tests.kubeflow import local

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FIRST, SECOND = "2022-05-04", "2022-05-05"
RECIPE: Final[dict[str, Any]] = {
    "model": {"item_bias": "popularity"},
    "train": {"max_epochs": 2, "optim": {"lr": 3e-3}},
    # Two epochs prove nothing: here the gate is to be passed, not to be tested.
    "gate": {"code_usage_floor": 0.0, "relative_margin": 0.5},
}
UNTRAINED: Final[dict[str, Any]] = {
    "model": {"item_bias": "none"},
    "train": {"max_epochs": 1, "optim": {"lr": 1e-9}},
}
COMPILE: Final = ("python", "-m", "dags.perscen_kubeflow", "--deployment")
AIRFLOW: Final = """\
import sys
from datetime import UTC, datetime
from airflow.utils.db import initdb

initdb()
from dags.perscen_daily import dag

run = dag.test(logical_date=datetime.fromisoformat(sys.argv[1]).replace(tzinfo=UTC))
sys.exit(run.state != "success")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A checkout with a small log and a hasty recipe."""
    project = checkout(tmp_path_factory.mktemp("parity"))
    project.make_small_log()
    project.set(run={"logical_date": FIRST}, **RECIPE)
    return project


@pytest.fixture(scope="module")
def deployment(project) -> Callable[[str], Path]:
    """Make the deployment file of a scheduler: a registry of its own, no GPU."""

    def make(scheduler: str) -> Path:
        here = project.path / "tmp" / scheduler
        here.mkdir(parents=True)
        settings = {
            "environment": {"MLFLOW_TRACKING_URI": f"sqlite:///{here}/mlflow.db"},
            "run_root": f"tmp/{scheduler}/runs",
            "pods": {"gpu": {"count": 0}},
        }
        (here / "deployment.yaml").write_text(yaml.safe_dump(settings))
        return here

    return make


def digests(place: Callable[[str, str], Path]) -> dict[str, str]:
    """The digest of every artifact, given where a step's artifact lies."""
    return {
        step.output: json.loads((place(step.name, step.output) / "manifest.json").read_text())[
            "digest"
        ]
        for step in PIPELINE.steps
    }


@pytest.fixture(scope="module")
def by_dvc(project) -> dict[str, str]:
    project.run("dvc", "repro", timeout=1500)
    return digests(lambda _, name: project.path / "artifacts" / name)


@pytest.fixture(scope="module")
def kubeflow(project, deployment) -> Callable[[str], local.Ran]:
    """Run a day by Kubeflow's local runner."""
    here = deployment("kubeflow")
    project.run(*COMPILE, str(here / "deployment.yaml"), "--out", str(here / "perscen.yaml"))

    def run(day: str) -> local.Ran:
        ran = local.run(
            here, {"logical_date": day}, cwd=project.path, environment=project.environment()
        )
        assert ran.code == 0, ran.said
        return ran

    return run


@pytest.fixture(scope="module")
def first_by_kubeflow(kubeflow) -> local.Ran:
    return kubeflow(FIRST)


def test_kubeflow_makes_what_dvc_makes(by_dvc, first_by_kubeflow):
    tasks = first_by_kubeflow.tasks
    assert digests(lambda step, name: tasks / step / name) == by_dvc
    assert first_by_kubeflow.outputs == {"released": True}
    told = {s.output: first_by_kubeflow.metadata(s.name, s.output) for s in PIPELINE.steps}
    assert {name: metadata["digest"] for name, metadata in told.items()} == by_dvc
    assert told["verdict"]["decision"] == "promote"
    page = (tasks / "report/page").read_text()
    assert page == (tasks / "report/report/index.html").read_text()


def test_airflow_makes_what_dvc_makes(project, deployment, by_dvc):
    here = deployment("airflow")
    settings = {
        "AIRFLOW_HOME": str(here),
        "AIRFLOW__CORE__DAGS_FOLDER": str(project.path / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PERSCEN_DEPLOYMENT": str(here / "deployment.yaml"),
    }
    set_in = [f"{name}={value}" for name, value in settings.items()]
    project.run("env", *set_in, "python", "-c", AIRFLOW, FIRST, timeout=1500)
    runs = here / "runs" / FIRST
    assert digests(lambda _, name: runs / name) == by_dvc


def test_a_refused_day_is_done_on_kubeflow_and_releases_nothing(
    project, first_by_kubeflow, kubeflow
):
    project.set(run={"logical_date": SECOND}, **UNTRAINED)
    day = kubeflow(SECOND)
    assert day.outputs == {"released": False}
    assert day.metadata("publish", "release") == {"released": False}
    assert not (day.tasks / "publish/release").exists()
    verdict = day.metadata("gate", "verdict")
    assert verdict["decision"] == "refuse"
    assert "scenario" in verdict["table"]
    champion = json.loads((day.tasks / "champion/champion/manifest.json").read_text())
    assert champion["champion_date"] == FIRST
