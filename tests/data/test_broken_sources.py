"""A broken source is refused as a whole: a clear error, nothing written, the source untouched."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perscen.data.alimama import import_alimama
from perscen.data.kuairand import import_kuairand
from perscen.errors import ArtifactError
from tests.data.archives import (
    KUAIRAND_LOG,
    Spoil,
    contents,
    spoil,
    write_alimama,
    write_kuairand,
)

USERS = "user_features_pure.csv"
ITEMS = "video_features_basic_pure.csv"


def _in_row(number: int, change: Spoil) -> Spoil:
    """Return a change to one line, the header being line 1."""

    def apply(data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        lines[number - 1] = change(lines[number - 1])
        return b"".join(lines)

    return apply


FAULTS: dict[str, tuple[str, Spoil, str]] = {
    "no rows after the header": (
        KUAIRAND_LOG,
        lambda data: data[: data.index(b"\n") + 1],
        "log table has no rows",
    ),
    "an empty file": (KUAIRAND_LOG, lambda _: b"", "is empty"),
    "a missing column": (
        KUAIRAND_LOG,
        lambda data: data.replace(b",time_ms,", b",", 1),
        r":1: .*missing: 'time_ms'",
    ),
    "an extra column": (ITEMS, lambda data: b"colour," + data, "not expected: 'colour'"),
    "a column twice": (ITEMS, lambda data: b"tag," + data, "twice: 'tag'"),
    "no header": (KUAIRAND_LOG, lambda data: data[data.index(b"\n") + 1 :], "header is not"),
    "a row too short": (
        KUAIRAND_LOG,
        _in_row(7, lambda row: row.replace(b",", b"", 1)),
        r":7: the row has 18 fields, expected 19",
    ),
    "a row too long": (
        KUAIRAND_LOG,
        _in_row(9, lambda row: b"1," + row),
        r":9: the row has 20 fields, expected 19",
    ),
    "torn inside a row": (KUAIRAND_LOG, lambda data: data[:-9], "middle of a row .at byte"),
    "torn before the last line break": (USERS, lambda data: data[:-1], "middle of a row"),
    "a short last row": (
        KUAIRAND_LOG,
        lambda data: data + b"1,2,3\n",
        "truncated: .* .in row 42, with 3 fields",
    ),
    "bytes that are no UTF-8": (
        USERS,
        _in_row(3, lambda row: row.replace(b"1", b"\xff", 1)),
        r":3: byte [0-9,]+ \(0xff\) is not UTF-8",
    ),
    "a header that is no UTF-8": (ITEMS, lambda data: b"\xe9" + data, ":1: byte 0 .0xe9. is not"),
    "a quote that swallows rows": (
        ITEMS,
        lambda data: _in_row(5, lambda row: row.replace(b'9"', b"9", 1))(
            _in_row(6, lambda row: row.replace(b'"3', b'3"', 1))(data)
        ),
        r":5: the row has 13 fields, expected 12",
    ),
    "a quote over two lines": (
        ITEMS,
        lambda data: data.replace(b'"3,9"\n', b'"3\n9"\n', 1),
        "column 'tag' is not closed on its line",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_file_is_refused_with_its_name_and_nothing_is_written(
    fault: str, tmp_path: Path
) -> None:
    name, change, message = FAULTS[fault]
    source = write_kuairand(tmp_path / "source")
    spoil(source / name, change)
    before = contents(source)

    with pytest.raises(ArtifactError, match=message) as caught:
        import_kuairand(source, tmp_path / "raw")

    assert caught.value.hint
    assert fault == "no rows after the header" or name in caught.value.message
    assert contents(source) == before
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_broken_file_leaves_the_raw_layout_of_before(tmp_path: Path) -> None:
    source = write_kuairand(tmp_path / "source")
    import_kuairand(source, tmp_path / "raw")
    before = contents(tmp_path / "raw")
    spoil(source / KUAIRAND_LOG, lambda data: data[:-3])

    with pytest.raises(ArtifactError):
        import_kuairand(source, tmp_path / "raw")

    assert contents(tmp_path / "raw") == before


@pytest.mark.parametrize("name", [KUAIRAND_LOG, USERS, ITEMS])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    source = write_kuairand(tmp_path / "source")
    (source / name).unlink()
    pattern = r"no log_standard_\*_pure.csv" if name == KUAIRAND_LOG else f"{name} does not exist"

    with pytest.raises(ArtifactError, match=pattern):
        import_kuairand(source, tmp_path / "raw")


def test_a_folder_without_any_of_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no KuaiRand-Pure in"):
        import_kuairand(tmp_path, tmp_path / "raw")


def test_a_broken_alimama_log_is_refused_by_line(tmp_path: Path) -> None:
    source = write_alimama(tmp_path / "source", times_s=[1494000000] * 10)
    spoil(source / "raw_sample.csv", _in_row(4, lambda row: row.rstrip() + b",7\n"))

    with pytest.raises(ArtifactError, match=r"raw_sample.csv:4: the row has 7 fields, expected 6"):
        import_alimama(source, tmp_path / "raw")

    assert not (tmp_path / "raw").exists()


@settings(deadline=None, max_examples=25)
@given(cut=st.integers(1, 500))
def test_a_log_cut_anywhere_but_between_rows_is_truncated(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    source = write_kuairand(folder / "source")
    whole = (source / KUAIRAND_LOG).read_bytes()
    spoil(source / KUAIRAND_LOG, lambda data: data[:-cut])

    if whole[: len(whole) - cut].endswith(b"\n"):
        import_kuairand(source, folder / "raw")
    else:
        with pytest.raises(ArtifactError, match="middle of a row"):
            import_kuairand(source, folder / "raw")
