"""The same inputs, settings and code give the same hashes anywhere; experiments run beside them."""

from __future__ import annotations

import json

import pytest
import yaml

from components.pipeline import PIPELINE
from tests.e2e.project import Project, checkout

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HASTY = {
    "train": {"max_epochs": 1},
    # One epoch on few users proves nothing: here the gate is to be passed, not to be tested.
    "gate": {"code_usage_floor": 0.0, "relative_margin": 1.0},
}


def ran_in(folder) -> Project:
    project = checkout(folder)
    project.make_small_log()
    project.set(**HASTY)
    project.run("dvc", "repro")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "A run")
    return project


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Project:
    return ran_in(tmp_path_factory.mktemp("here"))


def test_another_folder_gives_the_same_lock_file_for_every_stage(here, tmp_path):
    there = ran_in(tmp_path)
    stages = [
        yaml.safe_load((project.path / "dvc.lock").read_text())["stages"]
        for project in (here, there)
    ]
    assert list(stages[0]) == [step.name for step in PIPELINE.steps]
    for name in stages[0]:
        assert stages[0][name] == stages[1][name], name


def test_an_experiment_runs_from_train_on_and_is_shown_beside_the_run(here):
    assert here.run("dvc", "metrics", "diff").stdout == ""
    ran = here.run("dvc", "exp", "run", "-n", "slower", "-S", "train.optim.lr=0.001")
    started = {s.name for s in PIPELINE.steps if f"Running stage '{s.name}'" in ran.stdout}
    assert started == {"train", "index", "evaluate", "gate", "report", "publish"}
    table = here.run("dvc", "exp", "show", "--csv").stdout
    assert "slower" in table
    difference = json.loads(here.run("dvc", "metrics", "diff", "--json").stdout)
    change = difference["artifacts/scores/metrics.json"]["candidate.recall_50.macro"]
    assert change["new"] == here.json("scores/metrics.json")["candidate"]["recall_50"]["macro"]
    assert change["diff"] == pytest.approx(change["new"] - change["old"])
