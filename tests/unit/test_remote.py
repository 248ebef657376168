"""Steps whose artifacts lie in an object store: fetched whole, sent with the manifest last."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from types import SimpleNamespace
from uuid import uuid4

import fsspec
import pytest
from botocore import exceptions as boto
from fsspec.implementations.memory import MemoryFileSystem

from components import runner
from components.adapters.object_store import Folder
from components.places import fetch_artifact
from components.runner import run_step
from components.store import open_artifact
from components.surroundings import Surroundings
from perscen.config import DataConfig
from perscen.errors import ArtifactError, ConfigError, Preempted, ServiceUnavailable
from perscen.manifests import ChampionManifest, Manifest
from tests.unit.test_runner import DAY, PARAMS, champion


@pytest.fixture
def bucket() -> str:
    """A bucket of this test's own; fsspec's memory is one for the whole process."""
    return uuid4().hex


@pytest.fixture
def run(tmp_path, bucket, monkeypatch):
    """Run a step of our own in place of a real one, by default ``champion`` into the store."""

    def run(step=champion, *, name="champion", inputs=(), output=None, **around) -> Manifest:
        (tmp_path / "params.yaml").write_text(PARAMS % "perscen")
        monkeypatch.setitem(sys.modules, f"components.steps.{name}", SimpleNamespace(run=step))
        (tmp_path / "scratch").mkdir(exist_ok=True)
        return run_step(
            name,
            config=tmp_path / "params.yaml",
            logical_date=DAY,
            inputs=dict(inputs),
            output=output or address(bucket),
            surroundings=Surroundings(scratch=tmp_path / "scratch", **around),
        )

    yield run
    left = [p.name for p in (tmp_path / "scratch").iterdir() if not p.name.startswith(".lock-")]
    assert left == [], "copies are removed, whatever happened"


def address(bucket: str, name: str = "champion") -> str:
    return f"memory://{bucket}/runs/{DAY}/{name}"


def write(address: str, files: dict[str, str]) -> None:
    fs, root = fsspec.url_to_fs(address)
    fs.pipe({f"{root}/{name}": text.encode() for name, text in files.items()})


def read(address: str, name: str) -> str:
    return fsspec.open(f"{address}/{name}").open().read().decode()


def test_an_output_is_the_artifact_it_would_be_on_a_disk(run, bucket, tmp_path):
    made = run()
    assert made == run(output=tmp_path / "champion")
    fetch_artifact(address(bucket), tmp_path / "fetched")
    assert open_artifact(tmp_path / "fetched", kind="champion").manifest == made
    assert json.loads((tmp_path / "fetched/run.json").read_text())["duration_s"] >= 0


def test_the_manifest_comes_last_and_what_an_older_run_left_is_gone(run, bucket):
    write(address(bucket), {"manifest.json": "old", "deep/old": "old"})
    write(address(bucket, "champion2"), {"other": "stays"})
    run()
    mine = [key for key in MemoryFileSystem.store if key.startswith(f"/{bucket}/runs/{DAY}/")]
    names = [key.removeprefix(f"/{bucket}/runs/{DAY}/") for key in mine]
    assert sorted(name for name in names if name.startswith("champion/")) == [
        "champion/manifest.json",
        "champion/payload",
        "champion/run.json",
    ]
    assert names[-1] == "champion/manifest.json"
    assert "champion2/other" in names


def test_an_upload_that_breaks_off_leaves_no_artifact_and_the_next_attempt_a_whole_one(
    run, bucket, monkeypatch
):
    made = run()
    put = MemoryFileSystem.put_file

    def broken(self, lpath, rpath, **options):
        if rpath.endswith("run.json"):
            raise ConnectionResetError("by peer")
        put(self, lpath, rpath, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "put_file", broken)
        with pytest.raises(
            ServiceUnavailable, match=f"could not send to {address(bucket)}: by peer"
        ):
            run()
    assert "manifest.json" not in Folder(address(bucket)).names()
    assert run() == made


def test_an_input_without_a_manifest_does_not_exist(run, bucket, tmp_path):
    write(address(bucket), {"payload": "half"})
    places = dict.fromkeys(("splits", "champion"), address(bucket))
    with pytest.raises(ArtifactError, match=f"no finished splits in {address(bucket)}:"):
        run(name="train", inputs=places, output=tmp_path / "model")


def test_a_changed_input_is_found_and_named_by_its_address(run, bucket, tmp_path):
    run()
    write(address(bucket), {"payload": "other"})
    places = dict.fromkeys(("splits", "champion"), address(bucket))
    with pytest.raises(ArtifactError, match=f"{address(bucket)} holds a champion, expected a spl"):
        run(name="train", inputs=places, output=tmp_path / "model")
    fetch_artifact(address(bucket), tmp_path / "copy")
    with pytest.raises(ArtifactError, match="has changed since it was made"):
        open_artifact(tmp_path / "copy", kind="champion")


def raw_log(bucket: str, days: int) -> str:
    """Write a raw log whose files hold their own names."""
    parts = [f"date={DAY - timedelta(days=n)}/part-0.parquet" for n in range(-1, days)]
    names = [*parts, "date=__HIVE_DEFAULT_PARTITION__/p", "users/p", "items/p", "truth/p", "notes"]
    source = {
        "source": "synthetic",
        "contracts": {},
        "files": {name: {"rows": 1, "sha256": "0"} for name in parts},
    }
    there = f"memory://{bucket}/raw"
    write(there, {name: name for name in names} | {"source.json": json.dumps(source)})
    return there


def test_of_a_raw_log_only_the_days_a_run_reads_are_fetched(run, bucket):
    seen: set[str] = set()

    def validate(task, *, data):
        log = task.inputs["raw_log"].path
        seen.update(p.relative_to(log).as_posix() for p in log.rglob("*") if p.is_file())
        raise ArtifactError("enough")

    with pytest.raises(ArtifactError, match="enough"):
        run(validate, name="validate", inputs={"raw_log": raw_log(bucket, days=60)})
    days = range(DataConfig().window_days)
    window = {f"date={DAY - timedelta(days=n)}/part-0.parquet" for n in days}
    lost = "date=__HIVE_DEFAULT_PARTITION__/p"
    assert seen == window | {lost, "users/p", "items/p", "truth/p", "source.json"}


@pytest.mark.parametrize(
    ("day", "error", "match"),
    [
        (DAY + timedelta(days=9), ConfigError, "outside the log, whose days are 2022-05-03 to"),
        (None, ArtifactError, "there is no finished raw log in memory://"),
    ],
)
def test_a_raw_log_without_the_day_is_told_as_on_a_disk(
    run, bucket, tmp_path, day, error, match, monkeypatch
):
    there = raw_log(bucket, days=3) if day else f"memory://{bucket}/raw"
    monkeypatch.setattr(sys.modules[__name__], "DAY", day or DAY)
    with pytest.raises(error, match=match):
        run(name="validate", inputs={"raw_log": there}, output=tmp_path / "clean_log")


def breach(task, **sections):
    """A step that fails and shows why."""
    (task.aftermath / "data_docs").mkdir(parents=True)
    (task.aftermath / "data_docs/index.html").write_text("why")
    raise ArtifactError("bad", hint=f"see {task.aftermath / 'data_docs/index.html'}")


def test_what_a_failed_step_leaves_is_found_beside_its_output_until_it_succeeds(run, bucket):
    made = run()
    with pytest.raises(ArtifactError) as failed:
        run(breach)
    assert failed.value.hint == f"see {address(bucket)}.state/data_docs/index.html"
    assert read(f"{address(bucket)}.state", "data_docs/index.html") == "why"
    assert run() == made
    assert Folder(f"{address(bucket)}.state").names() == []


def test_a_failure_is_told_even_if_what_it_leaves_cannot_be_sent(run, monkeypatch, caplog):
    def unreachable(*args, **options):
        raise TimeoutError("no answer")

    monkeypatch.setattr(MemoryFileSystem, "put", unreachable)
    with pytest.raises(ArtifactError, match="bad"):
        run(breach)
    assert "what the failed step left was not sent" in caplog.messages


def half_way(task, **sections):
    """A step that goes on from a checkpoint, and is told to stop after having written the next."""
    done = (task.state / "checkpoint").read_text() if task.state.exists() else ""
    if len(done) == 2:
        return ChampionManifest(
            **task.stamp, name=done, version=None, bundle_id=None, champion_date=None
        )
    task.state.mkdir(parents=True, exist_ok=True)
    (task.state / "checkpoint").write_text(done + "x")
    raise Preempted("told to stop")


@pytest.mark.parametrize("volume", [False, True])
def test_a_preempted_training_goes_on_in_another_pod(
    run, bucket, tmp_path, monkeypatch, caplog, volume
):
    around = {"state": tmp_path / "volume"} if volume else {}
    made = run()
    inputs = dict.fromkeys(("splits", "champion"), address(bucket))
    opened = SimpleNamespace(manifest=made)
    monkeypatch.setattr(runner, "open_artifact", lambda *_, **__: opened)
    model = address(bucket, "model")
    for left in ("x", "xx"):
        with pytest.raises(Preempted):
            run(half_way, name="train", inputs=inputs, output=model, **around)
        there = tmp_path / "volume" / str(DAY) / "model.state/checkpoint"
        assert (there.read_text() if volume else read(f"{model}.state", "checkpoint")) == left
        assert Folder(f"{model}.state").names() == ([] if volume else ["checkpoint"])
    assert run(half_way, name="train", inputs=inputs, output=model, **around).name == "xx"
    assert Folder(f"{model}.state").names() == []
    assert not (tmp_path / "volume" / str(DAY) / "model.state").exists()
    told = [text for text in caplog.messages if "set PERSCEN_STATE" in text]
    assert len(told) == (0 if volume else 3)


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (PermissionError("Access Denied"), ConfigError),
        (boto.NoCredentialsError(), ConfigError),
        (boto.PartialCredentialsError(provider="env", cred_var="key"), ConfigError),
        (boto.EndpointConnectionError(endpoint_url="http://s3"), ServiceUnavailable),
        (boto.ReadTimeoutError(endpoint_url="http://s3"), ServiceUnavailable),
        (boto.ClientError({"Error": {"Code": "SlowDown"}}, "PutObject"), ServiceUnavailable),
        (OSError(5, "Internal Error"), ServiceUnavailable),
    ],
)
def test_what_a_store_says_becomes_an_error_of_ours(bucket, monkeypatch, raised, error):
    def fails(*args, **options):
        raise raised

    monkeypatch.setattr(MemoryFileSystem, "find", fails)
    with pytest.raises(error, match=f"memory://{bucket}") as told:
        Folder(f"memory://{bucket}/splits").names()
    assert told.value.hint


@pytest.mark.parametrize("place", ["nostore://bucket/runs", "gs://bucket/runs"])
def test_a_kind_of_store_that_is_not_installed_is_a_wrong_setting(place):
    with pytest.raises(ConfigError, match=f"{place} is no address of a store we can reach"):
        Folder(place).names()


def test_a_name_that_leads_out_of_its_directory_is_refused(bucket, tmp_path, monkeypatch):
    write(f"memory://{bucket}/splits", {"manifest.json": "", "sly": ""})
    store = MemoryFileSystem.store
    monkeypatch.setitem(store, f"/{bucket}/splits/../../sly", store[f"/{bucket}/splits/sly"])
    with pytest.raises(ArtifactError, match="names files outside of itself"):
        fetch_artifact(f"memory://{bucket}/splits", tmp_path / "splits")
    assert not (tmp_path / "splits").exists()
