"""Two released days, whose artifacts are lost: their splits and models are made again."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pydantic import TypeAdapter

from components import reproduce_command
from components.adapters.mlflow_client import connect
from components.adapters.registry import Registry
from components.pipeline import PIPELINE
from components.reproduce_command import reproduce
from components.runner import run_step
from components.splits_command import splits as splits_command
from components.store import open_artifact
from components.surroundings import Surroundings
from perscen.data.synthetic import import_synthetic
from perscen.errors import ArtifactError, ConfigError
from perscen.manifests import ReleaseManifest
from tests.faults import flip_a_byte
from tests.steps.mini import DAY, NUM_ITEMS, MiniRun

pytestmark = [
    pytest.mark.slow,
    # MLflow's own tables use a loader strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]

DAYS = (DAY - timedelta(days=1), DAY)
AGAIN = ("splits", "champion", "model", "indexes")


@dataclass(frozen=True)
class Lost:
    """What is left of two days: a registry and a remote."""

    root: Path
    digests: dict[date, dict[str, str]]
    """What every artifact's digest was."""

    @property
    def remote(self) -> Path:
        return self.root / "remote"

    def reproduce(self, release: str = "champion", *, to: Path) -> Result:
        argv = [release, "--remote", str(self.remote), "--to", str(to)]
        return CliRunner().invoke(reproduce, argv)


@pytest.fixture(scope="module")
def lost_template(tmp_path_factory) -> Lost:
    root = tmp_path_factory.mktemp("lost")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.setenv("PERSCEN_REVISION", "abc123")
        import_synthetic(root / "raw_log", num_users=150, num_items=NUM_ITEMS)
        run = MiniRun(root)
        # Nothing is said about `data` in the artifacts that are made again.
        run.write_params(
            data={"window_days": 12}, split={"train_days": 8}, gate={"absolute_margin": 1.0}
        )
        digests = {day: released(run, day) for day in DAYS}
    shutil.rmtree(root / "raw_log")
    return Lost(root, digests)


def released(run: MiniRun, day: date) -> dict[str, str]:
    """Run a day as a scheduler does, lose its artifacts, and return their digests."""
    here = run.root / str(day)
    digests = {}
    for step in PIPELINE.steps:
        manifest = run_step(
            step.name,
            config=run.root / "params.yaml",
            logical_date=day,
            inputs={n: run.root / n if n == "raw_log" else here / n for n in step.inputs},
            output=here / step.output,
            surroundings=Surroundings(dvc_remote=str(run.root / "remote")),
        )
        digests[step.output] = manifest.digest
    committed = json.loads((here / "splits/run.json").read_text())["dvc"]
    assert committed.endswith(".dir")
    assert json.loads((here / "release/run.json").read_text())["released"] is True
    shutil.rmtree(here)
    return digests


@pytest.fixture
def lost(lost_template, tmp_path, monkeypatch) -> Lost:
    """The remote and the registry of this test's own; the registry's files stay where they are."""
    root = tmp_path / "lost"
    root.mkdir()
    shutil.copytree(lost_template.remote, root / "remote")
    shutil.copyfile(lost_template.root / "mlflow.db", root / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    return Lost(root, lost_template.digests)


def test_the_splits_and_the_release_of_a_lost_day_come_back_to_the_bit(lost, tmp_path):
    argv = ["fetch", str(DAYS[0]), "--remote", str(lost.remote), "--to", str(tmp_path / "splits")]
    assert CliRunner().invoke(splits_command, argv).exit_code == 0
    back = open_artifact(tmp_path / "splits", kind="splits").manifest
    assert back.digest == lost.digests[DAYS[0]]["splits"]

    result = lost.reproduce(to=tmp_path / "again")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines() if "yes" in line]
    assert [row[1] for row in rows] == list(AGAIN)
    made = {name: open_artifact(tmp_path / "again" / name, kind=name) for name in AGAIN}
    assert {name: a.manifest.digest for name, a in made.items()} == {
        name: lost.digests[DAY][name] for name in AGAIN
    }
    # It was judged against the release of the day before, which came back too.
    assert made["champion"].manifest.champion_date == DAYS[0]


def test_the_registry_says_where_a_release_comes_from(lost):
    release = Registry("perscen").release("champion")
    assert release.logical_date == DAY
    assert release.revision == "abc123"
    place = f"files/md5/{release.splits_dvc[:2]}/{release.splits_dvc[2:]}"
    assert (lost.remote / place).exists()


def test_other_settings_are_noticed_and_named(lost, tmp_path, monkeypatch):
    recorded = reproduce_command._settings

    def altered(manifests):
        tree = recorded(manifests)
        tree["train"] = {**tree["train"], "seed": 1}
        return tree

    monkeypatch.setattr(reproduce_command, "_settings", altered)
    result = lost.reproduce("1", to=tmp_path / "again")
    assert isinstance(result.exception, ArtifactError)
    assert "model is not what was released" in result.exception.message
    assert "settings, " in result.exception.message
    assert "indexes" not in result.output


def refuse_to_train(*args, **kwargs):
    raise AssertionError("a step was run")


@pytest.fixture
def no_step(monkeypatch):
    monkeypatch.setattr("components.runner.run_step", refuse_to_train)


def test_other_code_is_said_before_anything_is_trained(lost, tmp_path, monkeypatch, no_step):
    monkeypatch.setattr("components.runner.code_version", lambda _: "f" * 64)
    error = lost.reproduce(to=tmp_path / "again").exception
    assert isinstance(error, ArtifactError)
    assert "another revision of `train`" in error.message
    assert "git checkout abc123" in error.hint


def test_a_release_of_code_that_wrote_other_manifests_says_which_to_check_out(
    lost, tmp_path, monkeypatch, no_step
):
    monkeypatch.setattr("perscen.manifests.MANIFEST", TypeAdapter(ReleaseManifest))
    error = lost.reproduce(to=tmp_path / "again").exception
    assert isinstance(error, ArtifactError)
    assert "manifests/champion.json of version 2" in error.message
    assert "git checkout abc123" in error.hint


def test_a_release_of_code_that_had_other_settings_says_which_to_check_out(
    lost, tmp_path, monkeypatch, no_step
):
    def gone(manifests):
        raise ConfigError("split.gone is not a setting")

    monkeypatch.setattr(reproduce_command, "_settings", gone)
    error = lost.reproduce(to=tmp_path / "again").exception
    assert isinstance(error, ArtifactError)
    assert "split.gone is not a setting" in error.message
    assert "git checkout abc123" in error.hint


def test_a_changed_object_of_the_remote_is_noticed_before_anything_is_trained(
    lost, tmp_path, no_step
):
    hashed = Registry("perscen").release("champion").splits_dvc
    listing = json.loads((lost.remote / f"files/md5/{hashed[:2]}/{hashed[2:]}").read_text())
    md5 = next(entry["md5"] for entry in listing if entry["relpath"] == "schema.json")
    flip_a_byte(lost.remote / f"files/md5/{md5[:2]}/{md5[2:]}")
    error = lost.reproduce(to=tmp_path / "again").exception
    assert isinstance(error, ArtifactError)
    assert md5 in error.message
    assert not (tmp_path / "again/splits").exists()


def test_a_champion_that_is_gone_is_said_before_anything_is_trained(lost, tmp_path, no_step):
    connect(Registry("perscen").tracking_uri).delete_model_version("perscen", "1")
    error = lost.reproduce(to=tmp_path / "again").exception
    assert isinstance(error, ArtifactError)
    assert "not in the registry any more" in error.message


def test_a_release_whose_splits_were_never_committed_says_so(lost, tmp_path, no_step):
    client = connect(Registry("perscen").tracking_uri)
    client.delete_model_version_tag("perscen", "2", "dvc.splits")
    error = lost.reproduce(to=tmp_path / "again").exception
    assert isinstance(error, ArtifactError)
    assert "no tag dvc.splits" in error.message
