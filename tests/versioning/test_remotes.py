"""Splits in a remote of DVC: a folder, and S3."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import fsspec
import pytest
import yaml
from click.testing import CliRunner

from components.adapters.versioning import commit, committed
from components.splits_command import splits as command
from components.store import open_artifact, payload_files
from perscen.errors import ArtifactError, ConfigError, ServiceUnavailable, StorageFull
from tests.conftest import ROOT
from tests.data.archives import contents
from tests.faults import flip_a_byte, full_disk
from tests.retrieval.world import DAY
from tests.versioning.conftest import forget_connections, write_splits

pytestmark = pytest.mark.medium

BEFORE = DAY - timedelta(days=1)


def dvc(repository: Path, *argv: str) -> None:
    """Run DVC's own command in a repository without git."""
    (repository / ".dvc").mkdir(parents=True, exist_ok=True)
    config = repository / ".dvc/config"
    config.write_text("[core]\nno_scm = true\n" + (config.read_text() if config.exists() else ""))
    program = Path(sys.executable).with_name("dvc")
    asked = subprocess.run(
        [program, *argv], cwd=repository, capture_output=True, text=True, env=dict(os.environ)
    )
    assert asked.returncode == 0, asked.stdout + asked.stderr


def fetched(day: date, remote: str, to: Path):
    """What the command says about fetching a day."""
    argv = ["fetch", day.isoformat(), "--remote", remote, "--to", str(to)]
    return CliRunner().invoke(command, argv)


def objects(remote: Path) -> list[Path]:
    """The files of a remote, pointers left out."""
    return sorted(path for path in (remote / "files").rglob("*") if path.is_file())


def test_a_plain_dvc_pull_of_a_days_pointer_brings_back_the_same_artifact(splits, remote, tmp_path):
    commit(splits, logical_date=DAY, remote=remote)
    repository = tmp_path / "anywhere"
    (repository / ".dvc").mkdir(parents=True)
    (repository / ".dvc/config").write_text(f"['remote \"r\"']\nurl = {remote}\n")
    with fsspec.open(f"{remote}/splits/{DAY}.dvc") as file:
        (repository / "day.dvc").write_bytes(file.read())
    dvc(repository, "pull", "--remote", "r", "day.dvc")
    back = open_artifact(repository / f"splits-{DAY}", kind="splits")
    assert back.manifest == open_artifact(splits, kind="splits").manifest


def test_the_hash_is_the_one_that_dvc_repro_writes(splits, tmp_path):
    for name in ("run.json", "data_docs/page.html", "index.html"):
        (splits / name).parent.mkdir(exist_ok=True)
        (splits / name).write_text("differs from run to run")
    repository = tmp_path / "laptop"
    repository.mkdir()
    shutil.copyfile(ROOT / ".dvcignore", repository / ".dvcignore")
    stage = {"cmd": f"cp -r {splits} artifact", "outs": [{"artifact": {"persist": True}}]}
    (repository / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"split": stage}}))
    dvc(repository, "repro")
    (out,) = yaml.safe_load((repository / "dvc.lock").read_text())["stages"]["split"]["outs"]
    assert commit(splits, logical_date=DAY, remote=str(tmp_path / "remote")) == out["md5"]


def test_any_day_comes_back_by_its_date(splits, remote, tmp_path):
    other = write_splits(tmp_path / "other", seed=4)
    hashes = {
        day: commit(path, logical_date=day, remote=remote)
        for day, path in ((DAY, splits), (BEFORE, other))
    }
    assert {pointer.logical_date: pointer.dvc for pointer in committed(remote)} == hashes
    result = fetched(BEFORE, remote, tmp_path / "back")
    assert result.exit_code == 0, result.output
    back = {p.relative_to(tmp_path / "back"): p for p in payload_files(tmp_path / "back")}
    there = {p.relative_to(other): p for p in payload_files(other)}
    assert {n: p.read_bytes() for n, p in back.items()} == {
        n: p.read_bytes() for n, p in there.items()
    }
    assert not (tmp_path / "back/run.json").exists()


def test_committing_again_sends_nothing_and_other_content_moves_the_pointer(splits, tmp_path):
    remote = tmp_path / "remote"
    first = commit(splits, logical_date=DAY, remote=str(remote))
    stamps = {path: path.stat().st_mtime_ns for path in remote.rglob("*") if path.is_file()}
    (splits / "run.json").write_text("another run")
    assert commit(splits, logical_date=DAY, remote=str(remote)) == first
    assert {p: p.stat().st_mtime_ns for p in remote.rglob("*") if p.is_file()} == stamps
    other = write_splits(tmp_path / "other", seed=4)
    second = commit(other, logical_date=DAY, remote=str(remote))
    assert [pointer.dvc for pointer in committed(str(remote))] == [second] != [first]
    # A release of the first run still finds its splits: they go by their hash.
    assert set(objects(remote)) > {remote / f"files/md5/{first[:2]}/{first[2:]}"}


def test_the_list_names_every_day(splits, tmp_path):
    remote = str(tmp_path / "remote")
    commit(splits, logical_date=DAY, remote=remote)
    commit(splits, logical_date=BEFORE, remote=remote)
    result = CliRunner().invoke(command, ["list"], env={"PERSCEN_DVC_REMOTE": remote})
    days = [line.split()[1] for line in result.output.splitlines() if "2022-" in line]
    assert days == [BEFORE.isoformat(), DAY.isoformat()]


def test_a_day_that_was_never_committed_is_answered_with_the_nearest(splits, tmp_path):
    remote = str(tmp_path / "remote")
    for ago in (1, 2, 9, 30):
        commit(splits, logical_date=DAY - timedelta(days=ago), remote=remote)
    error = fetched(DAY, remote, tmp_path / "back").exception
    assert isinstance(error, ArtifactError)
    assert "the nearest days there are 2022-04-26, 2022-05-03, 2022-05-04" in error.message
    assert not (tmp_path / "back").exists()


def test_an_empty_remote_has_no_day(remote, tmp_path):
    Path(tmp_path / "remote").mkdir()
    error = fetched(DAY, remote, tmp_path / "back").exception
    assert isinstance(error, ArtifactError)
    assert "no day was" in error.message


@pytest.mark.parametrize("damage", ["changed", "cut short", "lost"])
@pytest.mark.parametrize("part", ["file", "listing"])
def test_a_damaged_remote_is_noticed_and_what_was_there_stays(splits, tmp_path, damage, part):
    remote = tmp_path / "remote"
    hashed = commit(splits, logical_date=DAY, remote=str(remote))
    back = shutil.copytree(splits, tmp_path / "back")
    listing = remote / f"files/md5/{hashed[:2]}/{hashed[2:]}"
    files = [path for path in objects(remote) if path != listing and path.stat().st_size > 1]
    target = listing if part == "listing" else files[0]
    if damage == "changed":
        flip_a_byte(target)
    elif damage == "cut short":
        target.write_bytes(target.read_bytes()[:-1])
    else:
        target.unlink()
    error = fetched(DAY, str(remote), back).exception
    assert isinstance(error, ArtifactError)
    assert str(target) in error.message
    assert contents(back) == contents(splits)
    assert not list(tmp_path.glob(".staged*"))
    # What the hint says mends it.
    target.unlink(missing_ok=True)
    commit(splits, logical_date=DAY, remote=str(remote))
    assert fetched(DAY, str(remote), back).exit_code == 0


def test_a_pointer_to_other_splits_is_noticed(splits, tmp_path):
    remote = tmp_path / "remote"
    commit(splits, logical_date=DAY, remote=str(remote))
    other = write_splits(tmp_path / "other", seed=4)
    commit(other, logical_date=BEFORE, remote=str(remote))
    pointer, theirs = (remote / f"splits/{day}.dvc" for day in (DAY, BEFORE))
    ours = yaml.safe_load(pointer.read_text())
    ours["outs"] = yaml.safe_load(theirs.read_text())["outs"]
    pointer.write_text(yaml.safe_dump(ours))
    error = fetched(DAY, str(remote), tmp_path / "back").exception
    assert isinstance(error, ArtifactError)
    assert "expected" in error.message


def test_a_listing_that_reaches_outside_writes_nothing(splits, tmp_path):
    from hashlib import md5

    remote = tmp_path / "remote"
    commit(splits, logical_date=DAY, remote=str(remote))
    pointer = remote / f"splits/{DAY}.dvc"
    listing = json.dumps([{"md5": "0" * 32, "relpath": "../../outside"}]).encode()
    digest = md5(listing).hexdigest()
    place = remote / f"files/md5/{digest[:2]}/{digest[2:]}.dir"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(listing)
    tree = yaml.safe_load(pointer.read_text())
    tree["outs"][0]["md5"] = f"{digest}.dir"
    pointer.write_text(yaml.safe_dump(tree))
    error = fetched(DAY, str(remote), tmp_path / "back").exception
    assert isinstance(error, ArtifactError)
    assert "outside of itself" in error.message


@pytest.mark.parametrize("text", ["", "outs: []", "outs: [{md5: a.dir}]\nmeta: 3", "\tno: yaml"])
def test_a_pointer_that_is_none_is_named(splits, tmp_path, text):
    remote = tmp_path / "remote"
    commit(splits, logical_date=DAY, remote=str(remote))
    (remote / f"splits/{DAY}.dvc").write_text(text)
    with pytest.raises(ArtifactError, match=f"{DAY}.dvc is no pointer"):
        committed(str(remote))


def test_a_bucket_that_does_not_exist_is_a_setting_that_is_wrong(splits, s3):
    with pytest.raises(ConfigError, match="there is no bucket 'elsewhere'"):
        commit(splits, logical_date=DAY, remote="s3://elsewhere/perscen")


def test_missing_credentials_are_a_setting_that_is_wrong(splits, s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    forget_connections()
    with pytest.raises(ConfigError, match="credentials") as raised:
        commit(splits, logical_date=DAY, remote=s3)
    assert "AWS_ACCESS_KEY_ID" in raised.value.hint


def test_a_store_that_does_not_answer_can_be_tried_again(splits, s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    forget_connections()
    with pytest.raises(ServiceUnavailable, match="commit the splits of 2022-05-05"):
        commit(splits, logical_date=DAY, remote=s3)


@pytest.mark.parametrize("remote", ["/nowhere/mounted/dvc", "gs://bucket/perscen", "nope://b/c"])
def test_a_remote_that_can_be_none_is_said(splits, remote):
    with pytest.raises(ConfigError):
        commit(splits, logical_date=DAY, remote=remote)


def test_a_full_disk_leaves_no_day_behind(splits, tmp_path):
    remote = str(tmp_path / "remote")
    with full_disk(at_bytes=256), pytest.raises(StorageFull):
        commit(splits, logical_date=DAY, remote=remote)
    assert committed(remote) == []
    commit(splits, logical_date=DAY, remote=remote)
    assert fetched(DAY, remote, tmp_path / "back").exit_code == 0


def test_a_full_disk_while_fetching_leaves_what_was_there(splits, tmp_path):
    remote = str(tmp_path / "remote")
    commit(splits, logical_date=DAY, remote=remote)
    back = write_splits(tmp_path / "back", seed=4)
    before = contents(back)
    with full_disk(at_bytes=256):
        error = fetched(DAY, remote, back).exception
    assert isinstance(error, StorageFull)
    assert contents(back) == before
