"""Artifacts appear whole or not at all, and a changed byte is found at the door."""

from __future__ import annotations

import errno
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from components.store import MANIFEST_NAME, VOLATILE, open_artifact, staged, write_manifest
from perscen.errors import ArtifactError, StorageFull
from perscen.manifests import ReportManifest
from tests.conftest import ROOT
from tests.faults import full_disk


def make(path: Path, *, content: str = "payload") -> ReportManifest:
    with staged(path) as scratch:
        (scratch / "deep").mkdir()
        (scratch / "deep" / "file.txt").write_text(content)
        return write_manifest(
            scratch,
            ReportManifest(
                step="report",
                logical_date=date(2022, 5, 5),
                code_version="c",
                config_digest="d",
                parents={},
            ),
        )


def leftovers(path: Path) -> list[str]:
    return [p.name for p in path.parent.iterdir() if p.name != path.name]


def test_what_was_written_can_be_opened(tmp_path):
    sealed = make(tmp_path / "report")
    assert open_artifact(tmp_path / "report", kind="report").manifest == sealed


def test_the_same_content_has_the_same_digest_and_another_has_another(tmp_path):
    assert make(tmp_path / "a").digest == make(tmp_path / "b").digest
    assert make(tmp_path / "a").digest != make(tmp_path / "c", content="other").digest


@pytest.mark.parametrize("name", ["deep/file.txt", MANIFEST_NAME])
def test_a_changed_byte_is_found(tmp_path, name):
    make(tmp_path / "report")
    file = tmp_path / "report" / name
    file.write_bytes(file.read_bytes().replace(b"payload", b"Payload").replace(b'"d"', b'"e"'))
    with pytest.raises(ArtifactError, match="has changed since it was made"):
        open_artifact(tmp_path / "report", kind="report")


def test_an_added_or_removed_file_is_found(tmp_path):
    make(tmp_path / "report")
    (tmp_path / "report" / "extra").touch()
    with pytest.raises(ArtifactError, match="has changed"):
        open_artifact(tmp_path / "report", kind="report")
    (tmp_path / "report" / "extra").unlink()
    (tmp_path / "report" / "deep" / "file.txt").unlink()
    with pytest.raises(ArtifactError, match="has changed"):
        open_artifact(tmp_path / "report", kind="report")


def test_volatile_files_may_differ(tmp_path):
    make(tmp_path / "report")
    for name in VOLATILE:
        (tmp_path / "report" / name).write_text("today")
    open_artifact(tmp_path / "report", kind="report")


def test_dvc_ignores_exactly_what_digests_ignore():
    lines = (ROOT / ".dvcignore").read_text().splitlines()
    assert {line.rstrip("/") for line in lines if not line.startswith("#")} == {
        *VOLATILE,
        "__pycache__",
    }


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{}", "schema version None"),
        ('{"schema_version": 2}', "schema version 2"),
        ('{"schema_version": 1, "kind": "mystery"}', "not a manifest"),
        ("not json", "not a manifest"),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_refused(tmp_path, text, match):
    (tmp_path / MANIFEST_NAME).write_text(text)
    with pytest.raises(ArtifactError, match=match):
        open_artifact(tmp_path, kind="report")


def test_a_missing_artifact_and_one_of_another_kind_are_told_apart(tmp_path):
    with pytest.raises(ArtifactError, match=r"no finished model in .*: manifest.json is missing"):
        open_artifact(tmp_path, kind="model")
    make(tmp_path / "report")
    with pytest.raises(ArtifactError, match="holds a report, expected a model"):
        open_artifact(tmp_path / "report", kind="model")


def die_halfway(path: Path, error: BaseException) -> None:
    with staged(path) as scratch:
        (scratch / "half").write_text("half")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("boom"), MemoryError()])
def test_a_step_that_dies_leaves_what_was_there_and_nothing_else(tmp_path, error):
    before = make(tmp_path / "report")
    with pytest.raises(type(error)):
        die_halfway(tmp_path / "report", error)
    assert open_artifact(tmp_path / "report", kind="report").manifest == before
    assert leftovers(tmp_path / "report") == []


def test_a_full_disk_is_said_in_words_and_leaves_nothing(tmp_path):
    with pytest.raises(StorageFull, match="MiB are free"):
        die_halfway(tmp_path / "report", OSError(errno.ENOSPC, "No space left on device"))
    assert leftovers(tmp_path / "report") == []
    assert not (tmp_path / "report").exists()


def test_what_a_killed_run_left_behind_is_cleared(tmp_path):
    (tmp_path / ".staged-report-deadbeef").mkdir()
    make(tmp_path / "report")
    assert leftovers(tmp_path / "report") == []


def test_what_is_being_staged_beside_it_under_a_longer_name_is_left_alone(tmp_path):
    (tmp_path / ".staged-report-2022-05-04-deadbeef").mkdir()
    (tmp_path / ".staged-report-2022-05-04-deadbeef-old").mkdir()
    with pytest.raises(RuntimeError):
        die_halfway(tmp_path / "report", RuntimeError("boom"))
    assert not (tmp_path / "report").exists()
    make(tmp_path / "report")
    assert len(list(tmp_path.glob(".staged-report-2022-05-04-*"))) == 2


def test_ctrl_c_between_the_two_renames_of_a_swap_puts_back_what_was_there(tmp_path, monkeypatch):
    before = make(tmp_path / "report")
    rename, renamed = Path.rename, []

    def impatient(self, target):
        renamed.append(self)
        if len(renamed) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", impatient)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "report", content="new")
    assert open_artifact(tmp_path / "report", kind="report").manifest == before
    assert leftovers(tmp_path / "report") == []


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("during", [1, 2])
def test_ctrl_c_while_it_is_tidied_up_is_heard_when_that_is_done(
    tmp_path, monkeypatch, during, fails
):
    make(tmp_path / "report")
    remove, removed = shutil.rmtree, []

    def impatient(path, **options):
        removed.append(path)
        if len(removed) == during:
            raise KeyboardInterrupt
        remove(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", impatient)
        with pytest.raises(KeyboardInterrupt), staged(tmp_path / "report"):
            assert not fails
    assert leftovers(tmp_path / "report") == []


def test_what_a_run_killed_between_the_two_renames_moved_away_is_put_back(tmp_path):
    before = make(tmp_path / "report")
    (tmp_path / "report").rename(tmp_path / ".staged-report-deadbeef-old")
    with pytest.raises(RuntimeError):
        die_halfway(tmp_path / "report", RuntimeError("boom"))
    assert open_artifact(tmp_path / "report", kind="report").manifest == before
    assert leftovers(tmp_path / "report") == []


def _to_a_shutil_list_of_errors(path: Path) -> None:
    source = path.with_name("source")
    source.mkdir()
    (source / path.name).write_bytes(bytes(100_000))
    shutil.copytree(source, path.parent, dirs_exist_ok=True)


WRITERS = {
    "python": lambda path: path.write_bytes(bytes(100_000)),
    "numpy": lambda path: np.save(path, np.zeros(100_000)),
    "pyarrow": lambda path: pq.write_table(pa.table({"a": np.arange(100_000)}), path),
    "polars": lambda path: pl.DataFrame({"a": np.arange(100_000)}).write_parquet(path),
    "safetensors": lambda path: save_file({"a": np.zeros(100_000)}, path),
    "shutil": _to_a_shutil_list_of_errors,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_found_full_by_any_writer_is_storage_full(tmp_path, writer):
    def write():
        with staged(tmp_path / "target") as scratch, full_disk():
            WRITERS[writer](scratch / "file.npy")

    with pytest.raises(StorageFull, match="the disk filled up while writing"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_another_failure_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(PermissionError):
        die_halfway(tmp_path / "report", PermissionError(errno.EACCES, "Permission denied"))
