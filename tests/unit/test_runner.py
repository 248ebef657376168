"""The runner checks what goes in, stamps what comes out, and keeps it only when it is whole."""

from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest

from components import runner
from components.pipeline import PIPELINE
from components.runner import code_version, run_step
from components.store import open_artifact
from components.surroundings import Surroundings
from perscen.errors import ArtifactError, ConfigError
from perscen.manifests import ChampionManifest, Manifest

DAY = date(2022, 5, 5)
PARAMS = """
run: {logical_date: 2022-05-05}
split: {train_days: 7, valid_days: 2, test_days: 2}
model: {family: perscen}
publish: {name: %s}
"""


def champion(task, *, publish) -> ChampionManifest:
    """A step that writes one file; what a real one returns."""
    (task.output / "payload").write_text("same")
    return ChampionManifest(
        **task.stamp, name=publish.name, version=None, bundle_id=None, champion_date=None
    )


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a step of our own in place of ``champion``, which reads nothing."""

    def run(step=champion, *, name="perscen", out="champion", **given) -> Manifest:
        (tmp_path / "params.yaml").write_text(PARAMS % name)
        monkeypatch.setitem(sys.modules, "components.steps.champion", SimpleNamespace(run=step))
        asked = {"logical_date": DAY, "inputs": {}, "output": tmp_path / out} | given
        return run_step("champion", config=tmp_path / "params.yaml", **asked)

    return run


def names(directory: Path) -> set[str]:
    """What lies there, but for the files of locks, which stay."""
    return {path.name for path in directory.iterdir() if not path.name.startswith(".lock-")}


def test_a_whole_artifact_appears_with_a_record_of_its_run(run, tmp_path):
    manifest = run(surroundings=Surroundings(run_id="r1"))
    assert open_artifact(tmp_path / "champion", kind="champion").manifest == manifest
    record = json.loads((tmp_path / "champion/run.json").read_text())
    assert record["run_id"] == "r1"
    assert record["duration_s"] >= 0
    assert names(tmp_path) == {"params.yaml", "champion"}


def test_the_digest_follows_from_settings_and_day_and_not_from_the_run(run):
    first = run(surroundings=Surroundings(run_id="r1"))
    assert run(out="again", surroundings=Surroundings(run_id="r2")) == first
    assert run(out="other", name="another").config_digest != first.config_digest
    assert run(out="later", logical_date=date(2022, 5, 6)).digest != first.digest


def test_a_step_that_fails_leaves_what_was_there(run, tmp_path):
    before = run()

    def half(task, *, publish):
        (task.output / "half").write_text("half")
        raise ArtifactError("no")

    with pytest.raises(ArtifactError):
        run(half)
    assert open_artifact(tmp_path / "champion", kind="champion").manifest == before
    assert names(tmp_path) == {"params.yaml", "champion"}


def test_what_must_survive_a_failure_lies_beside_the_output(run, tmp_path):
    def remember(task, *, publish):
        task.state.mkdir()
        (task.state / "checkpoint").write_text("half way")
        raise ArtifactError("no")

    with pytest.raises(ArtifactError):
        run(remember)
    assert (tmp_path / "champion.state/checkpoint").read_text() == "half way"


def test_a_missing_input_is_a_wrong_setting_and_an_unfinished_one_no_artifact(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS % "perscen")
    asked = {
        "config": tmp_path / "params.yaml",
        "logical_date": DAY,
        "output": tmp_path / "model",
    }
    with pytest.raises(ConfigError, match="train needs --in champion, splits"):
        run_step("train", inputs={}, **asked)
    with pytest.raises(ArtifactError, match="no finished splits"):
        run_step("train", inputs={"splits": tmp_path / "s", "champion": tmp_path / "c"}, **asked)
    assert names(tmp_path) == {"params.yaml"}


def test_the_stamp_has_the_digest_of_every_parent(run, tmp_path, monkeypatch):
    parent = run()
    seen = {}

    def train(task, *, model, train):
        seen.update(task.stamp)
        raise ArtifactError("enough")

    monkeypatch.setitem(sys.modules, "components.steps.train", SimpleNamespace(run=train))
    places = dict.fromkeys(("splits", "champion"), tmp_path / "champion")
    opened = runner.open_artifact

    def as_champion(path, *, kind):
        assert kind in places
        return opened(path, kind="champion")

    monkeypatch.setattr(runner, "open_artifact", as_champion)
    with pytest.raises(ArtifactError, match="enough"):
        run_step(
            "train",
            config=tmp_path / "params.yaml",
            logical_date=DAY,
            inputs=places,
            output=tmp_path / "model",
        )
    assert seen["parents"] == dict.fromkeys(places, parent.digest)
    assert (seen["step"], seen["logical_date"]) == ("train", DAY)


def test_the_version_of_the_code_is_that_of_the_steps_own_files(tmp_path, monkeypatch):
    for watched in PIPELINE["gate"].watched:
        path = tmp_path / watched
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix:
            path.write_text("one")
        else:
            path.mkdir()
            (path / "module.py").write_text("one")
    monkeypatch.setattr(runner, "_ROOT", tmp_path)
    before = code_version(PIPELINE["gate"])
    (tmp_path / "perscen/evaluation/__pycache__").mkdir()
    (tmp_path / "perscen/evaluation/__pycache__/module.pyc").write_text("compiled")
    assert code_version(PIPELINE["gate"]) == before
    (tmp_path / "perscen/evaluation/module.py").write_text("two")
    assert code_version(PIPELINE["gate"]) != before
