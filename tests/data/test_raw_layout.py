"""The raw layout appears whole or not at all, and replaces nothing but its like."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.store import open_raw_log
from perscen.data.kuairand import CONTRACTS, import_kuairand
from perscen.data.raw_layout import raw_layout
from perscen.errors import ArtifactError, StorageFull
from tests.data.archives import contents, write_kuairand


def test_the_manifest_says_rows_and_digest_of_every_file(tmp_path: Path) -> None:
    import_kuairand(write_kuairand(tmp_path / "source"), tmp_path / "raw")

    manifest = open_raw_log(tmp_path / "raw").manifest
    files = contents(tmp_path / "raw")
    assert manifest.contracts == CONTRACTS
    assert set(manifest.files) == set(files) - {"source.json"}
    for name, file in manifest.files.items():
        assert file.sha256 == hashlib.sha256(files[name]).hexdigest()
        assert file.rows == pq.ParquetFile(tmp_path / "raw" / name).metadata.num_rows


def test_columns_are_dictionary_encoded_and_compressed(tmp_path: Path) -> None:
    import_kuairand(write_kuairand(tmp_path / "source"), tmp_path / "raw")

    file = pq.ParquetFile(tmp_path / "raw/date=2022-05-01/part-0.parquet")
    group = file.metadata.row_group(0)
    for number in range(group.num_columns):
        assert "RLE_DICTIONARY" in group.column(number).encodings
        assert group.column(number).compression == "ZSTD"


def test_an_import_replaces_the_raw_layout_of_before_as_a_whole(tmp_path: Path) -> None:
    import_kuairand(write_kuairand(tmp_path / "old", days=("20220401",)), tmp_path / "raw")
    import_kuairand(write_kuairand(tmp_path / "new", days=("20220501",)), tmp_path / "raw")

    names = sorted(path.name for path in (tmp_path / "raw").iterdir())
    assert names == ["date=2022-05-01", "items", "source.json", "users"]


@pytest.mark.parametrize("name", ["notes.txt", "source.json", "users"])
def test_a_directory_that_is_something_else_is_refused(name: str, tmp_path: Path) -> None:
    source = write_kuairand(tmp_path / "source")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / name).write_text("mine", encoding="utf-8")

    with pytest.raises(ArtifactError, match="is not a raw layout"):
        import_kuairand(source, tmp_path / "raw")

    assert contents(tmp_path / "raw") == {name: b"mine"}


def test_a_file_in_the_place_of_the_raw_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("mine", encoding="utf-8")

    with pytest.raises(ArtifactError, match="is not a raw layout"):
        import_kuairand(write_kuairand(tmp_path / "source"), tmp_path / "raw")

    assert (tmp_path / "raw").read_text(encoding="utf-8") == "mine"


def test_a_source_inside_the_target_is_refused(tmp_path: Path) -> None:
    source = write_kuairand(tmp_path / "raw/users")

    with pytest.raises(ArtifactError, match="lies inside"):
        import_kuairand(source, tmp_path / "raw")

    assert source.is_dir()


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StorageFull),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), StorageFull),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_an_import_that_dies_while_writing_leaves_nothing(
    failure: BaseException,
    expected: type[BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    source = write_kuairand(tmp_path / "source")
    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)

    with pytest.raises(expected):
        import_kuairand(source, tmp_path / "raw")

    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_raw_layout_without_rows_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ArtifactError, match="log table has no rows"),
        raw_layout(tmp_path / "raw", source="kuairand-pure", contracts=CONTRACTS),
    ):
        pass

    assert list(tmp_path.iterdir()) == []
