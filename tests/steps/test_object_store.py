"""Steps whose artifacts lie in S3: what they make is what they make on a disk."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest

from components.adapters.object_store import Folder
from components.pipeline import PIPELINE
from components.places import fetch_artifact
from components.render import places
from components.runner import run_step
from components.store import open_artifact
from components.surroundings import Surroundings
from perscen.errors import ArtifactError, ConfigError, ServiceUnavailable
from tests.steps.mini import DAY, MiniRun
from tests.versioning.conftest import forget_connections, s3, s3_address  # noqa: F401 (fixtures)

pytestmark = [
    pytest.mark.medium,
    # MLflow's own queries; nothing here can change them.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]


@pytest.fixture
def where(finished, s3, tmp_path, monkeypatch) -> dict[str, str]:  # noqa: F811 (a fixture)
    """Addresses of a run's artifacts, with the raw log in place and an empty registry."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    where = places(root=f"{s3}/{DAY}", raw_log=f"{s3}/raw")
    Folder(where["raw_log"]).replace_with(finished.root / "raw_log", seal="source.json")
    return where


@pytest.fixture
def run(finished: MiniRun, where: dict[str, str], tmp_path):
    """Run a step on addresses; return its result."""

    def run(name: str) -> dict[str, Any]:
        step, result = PIPELINE[name], tmp_path / "result.json"
        run_step(
            name,
            config=finished.root / "params.yaml",
            logical_date=DAY,
            inputs={key: where[key] for key in step.inputs},
            output=where[step.output],
            surroundings=Surroundings(result=result, scratch=tmp_path / "scratch"),
        )
        told: dict[str, Any] = json.loads(result.read_text())
        return told

    return run


def digest(finished: MiniRun, step: str) -> str:
    kind = PIPELINE[step].output
    return open_artifact(finished.root / kind, kind=kind).manifest.digest


def test_validate_and_split_in_s3_make_what_they_make_on_a_disk(run, finished, where, tmp_path):
    # What a console leaves where somebody made a folder by hand.
    bucket, _, key = where["clean_log"].removeprefix("s3://").partition("/")
    boto3.client("s3").put_object(Bucket=bucket, Key=f"{key}/")
    told = {name: run(name) for name in ("validate", "split")}
    for name, result in told.items():
        assert result["digest"] == digest(finished, name)
        assert result["place"] == where[PIPELINE[name].output]
    rows = open_artifact(finished.root / "clean_log", kind="clean_log").manifest
    assert told["validate"]["rows"] == rows.rows_good
    assert told["validate"]["quarantined"] == rows.rows_quarantined > 0
    left = [p.name for p in (tmp_path / "scratch").iterdir() if not p.name.startswith(".lock-")]
    assert left == []


@pytest.mark.slow
def test_a_run_in_s3_gives_the_digests_of_a_run_on_a_disk(run, finished, where, tmp_path):
    told = {step.name: run(step.name) for step in PIPELINE.steps}
    for name, result in told.items():
        assert result["digest"] == digest(finished, name), name
    assert told["train"]["best_epoch"] in {1, 2}
    assert told["train"]["mlflow_run_id"]
    assert told["gate"]["decision"] == "promote"
    assert told["gate"]["table"].startswith(f"Verdict for {DAY}: promote\n")
    assert told["report"]["page"] == "index.html"
    assert (told["publish"]["version"], told["publish"]["released"]) == ("1", True)
    fetch_artifact(where["report"], tmp_path / "report")
    assert (tmp_path / "report/index.html").stat().st_size > 10_000


def test_what_is_wrong_with_a_store_is_told_apart(s3, s3_address, monkeypatch, tmp_path):  # noqa: F811
    missing = Folder("s3://no-such-bucket/runs/splits")
    with pytest.raises(ConfigError, match="no-such-bucket"):
        missing.names()
    (tmp_path / "splits").mkdir()
    with pytest.raises(ConfigError, match="no-such-bucket"):
        missing.replace_with(tmp_path / "splits")
    assert "no-such-bucket" not in str(boto3.client("s3").list_buckets()["Buckets"])
    fetch_artifact(f"{s3}/splits", tmp_path / "fetched")
    with pytest.raises(ArtifactError, match="no finished splits"):
        open_artifact(tmp_path / "fetched", kind="splits")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    forget_connections()
    with pytest.raises(ConfigError, match="credentials"):
        Folder(f"{s3}/splits").names()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    forget_connections()
    with pytest.raises(ServiceUnavailable, match="Could not connect"):
        Folder(f"{s3}/splits").names()
