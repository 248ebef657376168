"""The runner checks what goes in, stamps what comes out, and keeps it only when it is whole."""

from __future__ import annotations

import dataclasses
import json
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest

from components import adapters, runner
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


def test_the_result_tells_a_scheduler_what_was_made_and_where(run, tmp_path):
    def noted(task, *, publish):
        task.notes.update(version="3", released=True)
        return champion(task, publish=publish)

    result = tmp_path / "xcom/return.json"
    made = run(noted, surroundings=Surroundings(run_id="r1", result=result))
    told = json.loads(result.read_text())
    record = json.loads((tmp_path / "champion/run.json").read_text())
    assert told.pop("duration_s") == record["duration_s"]
    assert told == {
        "step": "champion",
        "artifact": "champion",
        "place": str(tmp_path / "champion"),
        "digest": made.digest,
        "logical_date": "2022-05-05",
        "run_id": "r1",
        "version": "3",
        "released": True,
    }
    assert names(result.parent) == {"return.json"}


def test_a_failed_attempt_leaves_no_result_not_even_an_earlier_one(run, tmp_path):
    around = Surroundings(result=tmp_path / "result.json")
    run(surroundings=around)

    def fails(task, *, publish):
        raise ArtifactError("no")

    with pytest.raises(ArtifactError):
        run(fails, surroundings=around)
    assert not (tmp_path / "result.json").exists()


def test_a_result_that_cannot_be_written_is_a_wrong_setting(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"the result cannot be written to .*: File exists"):
        run(surroundings=Surroundings(result=tmp_path / "file/result.json"))


def test_checkpoints_lie_where_they_outlive_a_pod_by_day_and_output(run, tmp_path):
    def remember(task, *, publish):
        assert task.aftermath == tmp_path / "champion.state"
        task.state.mkdir(parents=True, exist_ok=True)
        (task.state / "checkpoint").write_text("half way")
        raise ArtifactError("no")

    around = Surroundings(state=tmp_path / "volume")
    with pytest.raises(ArtifactError):
        run(remember, surroundings=around)
    assert (tmp_path / "volume/2022-05-05/champion.state/checkpoint").exists()
    assert not (tmp_path / "champion.state").exists()
    run(surroundings=around)
    assert not (tmp_path / "volume/2022-05-05/champion.state").exists()


def test_a_versioned_output_is_committed_before_it_takes_its_place(run, tmp_path, monkeypatch):
    committed = []

    def commit(path, *, logical_date, remote):
        assert not (tmp_path / "champion").exists()
        open_artifact(path, kind="champion")
        committed.append((logical_date, remote))
        return "0123.dir"

    versioned = dataclasses.replace(PIPELINE["champion"], versioned=True)
    monkeypatch.setattr(runner, "PIPELINE", {"champion": versioned})
    # In place of the real one, whose import takes longer than all of these tests.
    monkeypatch.setattr(adapters, "versioning", SimpleNamespace(commit=commit), raising=False)
    run(surroundings=Surroundings(dvc_remote="s3://bucket/dvc"))
    assert committed == [(DAY, "s3://bucket/dvc")]
    assert json.loads((tmp_path / "champion/run.json").read_text())["dvc"] == "0123.dir"
    run(out="again")
    assert "dvc" not in json.loads((tmp_path / "again/run.json").read_text())


def test_of_processes_that_share_a_step_the_first_alone_keeps_the_output(run, tmp_path):
    around = Surroundings(rank=1, result=tmp_path / "result.json", scratch=tmp_path / "scratch")
    second = run(surroundings=around)
    assert names(tmp_path) == {"params.yaml", "scratch"}
    assert names(tmp_path / "scratch") == set()
    assert run() == second


def test_the_environment_says_where_a_step_runs_and_an_empty_variable_nothing():
    assert Surroundings.of(
        {
            "PERSCEN_RUN_ID": "scheduled__2022-05-05",
            "PERSCEN_RESULT": "/airflow/xcom/return.json",
            "PERSCEN_STATE": "/perscen/state",
            "PERSCEN_SCRATCH": "/scratch",
            "PERSCEN_DVC_REMOTE": "s3://bucket/dvc",
            "TORCHELASTIC_RUN_ID": "none",
            "WORLD_SIZE": "2",
            "RANK": "1",
        }
    ) == Surroundings(
        run_id="scheduled__2022-05-05",
        result=Path("/airflow/xcom/return.json"),
        state=Path("/perscen/state"),
        scratch=Path("/scratch"),
        dvc_remote="s3://bucket/dvc",
        processes=2,
        rank=1,
    )
    silent = Surroundings.of({"PERSCEN_RUN_ID": "", "PERSCEN_STATE": "", "RANK": "1"})
    assert silent == Surroundings(run_id=silent.run_id)
    assert silent.run_id != Surroundings.of({}).run_id
