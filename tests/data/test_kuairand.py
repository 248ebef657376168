"""KuaiRand's official CSV files become the raw layout, row for row."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from perscen.data.kuairand import ITEM_COLUMNS, LOG_COLUMNS, USER_COLUMNS, import_kuairand
from perscen.data.raw_layout import NO_DATE
from perscen.errors import ArtifactError
from tests.data.archives import KUAIRAND_LOG, contents, read, spoil, write_kuairand


def test_every_row_lands_unchanged_in_the_partition_of_its_date(tmp_path: Path) -> None:
    source = write_kuairand(tmp_path / "source", days=("20220501", "20220430"))

    import_kuairand(source, tmp_path / "raw")

    first = read(tmp_path / "raw", "date=2022-04-30/*.parquet")
    assert first.column("user_id").to_pylist() == [str(n) for n in range(1, 40, 2)]
    assert set(first.column("date").to_pylist()) == {"20220430"}
    assert first.column_names == list(LOG_COLUMNS)
    assert read(tmp_path / "raw", "date=2022-05-01/*.parquet").num_rows == 20


def test_a_date_that_is_none_goes_to_the_partition_without_date(tmp_path: Path) -> None:
    days = ("20220501", "20220431", "2022-05-1", "", "２０２２０５０１")
    source = write_kuairand(tmp_path / "source", rows=5, days=days)

    import_kuairand(source, tmp_path / "raw")

    undated = read(tmp_path / "raw", f"date={NO_DATE}/*.parquet").column("date").to_pylist()
    assert undated == ["20220431", "2022-05-1", None, "２０２２０５０１"]


def test_features_stay_text_and_an_empty_field_is_null(tmp_path: Path) -> None:
    import_kuairand(write_kuairand(tmp_path / "source"), tmp_path / "raw")

    items = read(tmp_path / "raw", "items/*.parquet")
    users = read(tmp_path / "raw", "users/*.parquet")
    assert items.column_names == list(ITEM_COLUMNS)
    assert users.column_names == list(USER_COLUMNS)
    assert items.column("tag").to_pylist() == ["3,9"] * 7
    assert items.column("music_type").null_count == 7
    assert users.column("fans_user_num_range").to_pylist() == ["[100,1k)"] * 5


def test_the_archive_around_the_files_will_do(tmp_path: Path) -> None:
    write_kuairand(tmp_path / "source/KuaiRand-Pure/data")

    manifest = import_kuairand(tmp_path / "source", tmp_path / "raw")

    assert manifest.files["date=2022-05-01/part-0.parquet"].rows == 40


def test_the_random_log_is_taken_only_when_asked_for(tmp_path: Path) -> None:
    source = write_kuairand(tmp_path / "source", rows=3)
    with pytest.raises(ArtifactError, match=r"no log_random_\*_pure.csv"):
        import_kuairand(source, tmp_path / "raw", include_random_log=True)
    log = source / KUAIRAND_LOG
    log.with_name("log_random_4_22_to_5_08_pure.csv").write_bytes(log.read_bytes())

    without = import_kuairand(source, tmp_path / "raw")
    both = import_kuairand(source, tmp_path / "raw", include_random_log=True)

    assert without.files["date=2022-05-01/part-0.parquet"].rows == 3
    assert both.files["date=2022-05-01/part-0.parquet"].rows == 6


def test_the_statistics_of_the_whole_month_are_never_opened(tmp_path: Path) -> None:
    source = write_kuairand(tmp_path / "source")
    (source / "video_features_statistic_pure.csv").mkdir()  # reading it would fail

    assert import_kuairand(source, tmp_path / "raw").source == "kuairand-pure"


def test_columns_in_another_order_are_put_in_the_official_one(tmp_path: Path) -> None:
    source = write_kuairand(tmp_path / "source", rows=1)
    spoil(
        source / "video_features_basic_pure.csv",
        lambda _: (",".join(reversed(ITEM_COLUMNS)) + "\n" + "l,k,j,i,h,g,f,e,d,c,b,a\n").encode(),
    )

    import_kuairand(source, tmp_path / "raw")

    assert read(tmp_path / "raw", "items/*.parquet").to_pylist() == [
        dict(zip(ITEM_COLUMNS, "abcdefghijkl", strict=True))
    ]


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write_kuairand(tmp_path / "source")

    import_kuairand(source, tmp_path / "raw")
    import_kuairand(source, tmp_path / "again")

    assert contents(tmp_path / "raw") == contents(tmp_path / "again")


@pytest.mark.medium
def test_the_real_slice_arrives_whole(kuairand_dir: Path, tmp_path: Path) -> None:
    manifest = import_kuairand(kuairand_dir, tmp_path / "raw")

    rows = {name: file.rows for name, file in manifest.files.items()}
    assert sum(count for name, count in rows.items() if name.startswith("date=")) == 185_061
    assert rows["users/part-0.parquet"] == 27_285
    assert rows["items/part-0.parquet"] == 7_583
    days = [name for name in rows if name.startswith("date=2022-")]
    assert len(days) == 11
    columns = ", ".join(LOG_COLUMNS)
    differing = duckdb.sql(
        f"SELECT {columns} FROM read_csv('{kuairand_dir}/log_*.csv', all_varchar=true) "
        f"EXCEPT ALL SELECT {columns} "
        f"FROM read_parquet('{tmp_path}/raw/date=*/*.parquet', hive_partitioning=false)"
    )
    assert differing.fetchall() == []
