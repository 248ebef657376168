"""Alimama's public CSV files become the raw layout, by Beijing day, in constant memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perscen.data import raw_layout
from perscen.data.alimama import LOG_COLUMNS, USER_COLUMNS, import_alimama
from perscen.data.raw_layout import NO_DATE
from perscen.errors import ArtifactError
from tests.data.archives import read, write_alimama

MIDNIGHT_S = 1494000000  # 2017-05-06 00:00 in Beijing


def test_a_day_begins_at_midnight_in_beijing(tmp_path: Path) -> None:
    source = write_alimama(tmp_path / "source", times_s=[MIDNIGHT_S, MIDNIGHT_S - 1])

    import_alimama(source, tmp_path / "raw")

    assert read(tmp_path / "raw", "date=2017-05-06/*").column("user").to_pylist() == ["0"]
    assert read(tmp_path / "raw", "date=2017-05-05/*").column("user").to_pylist() == ["1"]


@settings(deadline=None, max_examples=15)
@given(times_s=st.lists(st.integers(0, 4_000_000_000), min_size=1, max_size=20))
def test_every_row_lands_in_the_partition_of_its_beijing_day(
    times_s: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("days")
    import_alimama(write_alimama(folder / "source", times_s=times_s), folder / "raw")

    for path in (folder / "raw").glob("date=*/*.parquet"):
        day = path.parent.name.removeprefix("date=")
        for text in pq.ParquetFile(path).read().column("time_stamp").to_pylist():
            beijing = datetime.fromtimestamp(int(text), UTC) + timedelta(hours=8)
            assert day == beijing.date().isoformat()
    assert sorted(map(int, read(folder / "raw", "date=*/*").column("time_stamp").to_pylist())) == (
        sorted(times_s)
    )


def test_a_time_stamp_that_is_none_goes_to_the_partition_without_date(tmp_path: Path) -> None:
    times = [MIDNIGHT_S, "soon", "", "-1", "9" * 30]
    source = write_alimama(tmp_path / "source", times_s=times)

    import_alimama(source, tmp_path / "raw")

    undated = read(tmp_path / "raw", f"date={NO_DATE}/*").column("time_stamp").to_pylist()
    assert undated == ["soon", None, "-1", "9" * 30]


def test_official_names_are_kept_but_for_the_trailing_blank(tmp_path: Path) -> None:
    source = write_alimama(tmp_path / "source", times_s=[MIDNIGHT_S])

    manifest = import_alimama(source, tmp_path / "raw")

    assert manifest.source == "alimama"
    assert read(tmp_path / "raw", "date=*/*").column_names == list(LOG_COLUMNS)
    users = read(tmp_path / "raw", "users/*")
    assert users.column_names == list(USER_COLUMNS)
    assert users.column("new_user_class_level").null_count == 3
    assert read(tmp_path / "raw", "items/*").column("brand").to_pylist() == ["NULL"] * 4


def test_days_that_alternate_fill_whole_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perscen.data.csv_tables._BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(raw_layout, "_ROWS_PER_GROUP", 400)
    times = [MIDNIGHT_S + 86_400 * (n % 8) for n in range(8_000)]
    source = write_alimama(tmp_path / "source", times_s=times)
    told: list[tuple[int, int]] = []

    import_alimama(source, tmp_path / "raw", progress=lambda *step: told.append(step))

    for path in (tmp_path / "raw").glob("date=*/part-0.parquet"):
        file = pq.ParquetFile(path)
        assert file.metadata.num_rows == 1_000
        assert file.num_row_groups == 3
        users = file.read().column("user").to_pylist()
        assert users == sorted(users, key=int)  # the order of the source is kept
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_log_of_too_many_days_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_layout, "_MAX_DAYS", 5)
    source = write_alimama(tmp_path / "source", times_s=range(0, 86_400 * 9, 86_400))

    with pytest.raises(ArtifactError, match="spans more than 5 days"):
        import_alimama(source, tmp_path / "raw")

    assert not (tmp_path / "raw").exists()
