"""Another family than PERSCEN by its settings and ``dvc repro`` alone.

All families go through the steps in ``tests/steps/test_every_family.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.project import checkout

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FAMILY = "sass"
"""The one with a stage before the first epoch."""


def test_settings_of_a_family_and_one_command_publish_it(tmp_path: Path) -> None:
    project = checkout(tmp_path / "project")
    project.make_small_log()
    written = project.run("perscen", "params", "--recipe", "best", "--family", FAMILY).stdout
    (project.path / "params.yaml").write_text(written)
    # One epoch proves nothing: here the gate is to be passed, not to be tested.
    gate = {"code_usage_floor": 0.0, "relative_margin": 0.99, "absolute_margin": 0.9}
    project.set(train={"max_epochs": 1, "monitor_k": 20}, gate=gate)
    project.run("dvc", "repro")
    assert project.json("model/manifest.json")["family"] == FAMILY
    assert project.json("release/manifest.json")["kind"] == "release"
    argv = ("perscen", "retrieve", "--user", "nobody", "--scenario", "1", "--k", "5", "--json")
    assert len(json.loads(project.run(*argv).stdout)["items"]) == 5
    curve = (
        "import mlflow\n"
        "client = mlflow.MlflowClient()\n"
        "run, = client.search_runs([client.get_experiment_by_name('perscen').experiment_id])\n"
        "print(len(client.get_metric_history(run.info.run_id, 'pretraining_loss')))"
    )
    assert project.run("python", "-c", curve).stdout.strip() == "5"
