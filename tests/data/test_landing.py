"""A raw layout grows day by day, and equals the one that was imported at once."""

from __future__ import annotations

import hashlib
import shutil
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.store import open_raw_log
from data_contracts.raw_files import RawFiles
from perscen import staging
from perscen.data import landing
from perscen.data.kuairand import import_kuairand
from perscen.data.landing import land
from perscen.data.raw_layout import read_manifest, refuse_foreign
from perscen.errors import ArtifactError
from perscen.manifests import SourceFile
from tests.data.archives import contents, write_kuairand

DAYS = (date(2022, 5, 1), date(2022, 5, 2))


@pytest.fixture
def export(tmp_path: Path) -> Path:
    source = write_kuairand(tmp_path / "source", days=("20220501", "20220502"))
    import_kuairand(source, tmp_path / "export")
    return tmp_path / "export"


def test_days_landed_one_by_one_equal_one_import(tmp_path: Path, export: Path) -> None:
    for day in DAYS:
        land(day, source=export, to=tmp_path / "raw")
    assert contents(tmp_path / "raw") == contents(export)


def test_a_day_is_listed_only_when_it_has_landed(tmp_path: Path, export: Path) -> None:
    land(DAYS[0], source=export, to=tmp_path / "raw")
    files = open_raw_log(tmp_path / "raw").manifest.files
    assert sorted(files) == [
        "date=2022-05-01/part-0.parquet",
        "items/part-0.parquet",
        "users/part-0.parquet",
    ]


def test_landing_a_day_again_completes_what_a_crash_cut_short(
    tmp_path: Path, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    write = landing._write

    def dies_at_the_end(manifest, to):
        if manifest.files:
            raise KeyboardInterrupt
        return write(manifest, to)

    monkeypatch.setattr(landing, "_write", dies_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        land(DAYS[0], source=export, to=raw)
    assert open_raw_log(raw).manifest.files == {}
    monkeypatch.undo()

    for day in DAYS:
        land(day, source=export, to=raw)
    assert contents(raw) == contents(export)


def with_other_tables(export: Path, to: Path) -> Path:
    """Copy an export with a row less in each feature table."""
    shutil.copytree(export, to)
    manifest = read_manifest(to)
    files = dict(manifest.files)
    for name in ("users/part-0.parquet", "items/part-0.parquet"):
        table = pq.read_table(to / name)
        pq.write_table(table.slice(1), to / name)
        sha256 = hashlib.sha256((to / name).read_bytes()).hexdigest()
        files[name] = SourceFile(rows=len(table) - 1, sha256=sha256)
    text = manifest.model_copy(update={"files": files}).model_dump_json()
    (to / "source.json").write_text(text, encoding="utf-8")
    return to


def test_while_a_days_files_are_copied_another_day_can_be_read(
    tmp_path: Path, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    land(DAYS[0], source=export, to=raw)
    tomorrow = with_other_tables(export, tmp_path / "tomorrow")
    copy, copied = shutil.copyfile, []

    def reads_the_other_day(source: Path, target: Path) -> None:
        copied.append(copy(source, target))
        files = RawFiles(raw, read_manifest(raw))
        for folder in ("users", "items", f"date={DAYS[0]}"):
            assert files.files(folder)

    monkeypatch.setattr(shutil, "copyfile", reads_the_other_day)
    land(DAYS[1], source=tomorrow, to=raw)
    assert len(copied) == 3


def test_the_tables_are_swapped_last_before_the_manifest(
    tmp_path: Path, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap, swapped = staging._swap, []

    def notes(scratch: Path, target: Path) -> None:
        swapped.append(target.name)
        swap(scratch, target)

    monkeypatch.setattr(staging, "_swap", notes)
    land(DAYS[0], source=export, to=tmp_path / "raw")
    assert swapped == [f"date={DAYS[0]}", "items", "users"]


@pytest.mark.parametrize("left", [".staged-source.json-0123abcd", ".staged-users-0123abcd"])
def test_what_a_killed_landing_left_makes_a_raw_log_no_foreign_folder(
    tmp_path: Path, export: Path, left: str
) -> None:
    for raw in (tmp_path / "raw", tmp_path / "only-begun"):
        if raw.name == "raw":
            land(DAYS[0], source=export, to=raw)
        raw.mkdir(exist_ok=True)
        (raw / left).touch()
        refuse_foreign(raw)


def test_a_day_the_export_lacks_is_refused_by_name(tmp_path: Path, export: Path) -> None:
    with pytest.raises(ArtifactError, match="no rows of 2022-05-09; it has date=2022-05-01"):
        land(date(2022, 5, 9), source=export, to=tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_a_log_of_another_source_is_left_as_it_is(tmp_path: Path, export: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(export, raw)
    text = (raw / "source.json").read_text(encoding="utf-8")
    (raw / "source.json").write_text(text.replace('"kuairand-pure"', '"synthetic"'))
    before = contents(raw)
    with pytest.raises(ArtifactError, match="a log of synthetic"):
        land(DAYS[0], source=export, to=raw)
    assert contents(raw) == before


def test_a_folder_that_is_no_raw_layout_is_refused(tmp_path: Path, export: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    with pytest.raises(ArtifactError, match="is not a raw layout"):
        land(DAYS[0], source=export, to=tmp_path / "mine")
