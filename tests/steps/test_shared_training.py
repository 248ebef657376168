"""``train`` by its own command line, shared by two processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from components.render import under_torchrun
from components.store import open_artifact
from perscen.manifests import ModelManifest
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    # MLflow's own queries; nothing here can change them.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]


def test_two_processes_make_one_model_like_that_of_one_and_one_run_in_mlflow(finished):
    from mlflow import MlflowClient

    def runs() -> int:
        client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
        experiment = client.get_experiment_by_name("perscen")
        assert experiment is not None
        return len(client.search_runs([experiment.experiment_id]))

    before, there = runs(), {path.name for path in finished.root.iterdir()}
    argv = under_torchrun(finished.argv("train", out="again"), processes=2)
    done = subprocess.run(
        [sys.executable, *argv[1:]],
        cwd=finished.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch finished") == 2, "rank 0 alone tells of its two epochs"
    assert runs() == before + 1
    made = open_artifact(finished.root / "again", kind="model").manifest
    expected = open_artifact(finished.root / "model", kind="model").manifest
    assert isinstance(made, ModelManifest)
    assert isinstance(expected, ModelManifest)
    assert (made.best_epoch, made.valid_recall) == (expected.best_epoch, expected.valid_recall)
    epochs, same = (
        json.loads((finished.root / name / "epochs.json").read_text())
        for name in ("again", "model")
    )
    for epoch, one in zip(epochs, same, strict=True):
        assert epoch["loss"] == pytest.approx(one["loss"], rel=0, abs=1e-5)
    shutil.rmtree(finished.root / "again")
    assert {path.name for path in finished.root.iterdir()} - there <= {".lock-again"}
