"""Small archives in the official form, for tests of the importers."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from perscen.data import alimama, kuairand

KUAIRAND_LOG = "log_standard_4_22_to_5_08_pure.csv"
Spoil = Callable[[bytes], bytes]


def write_kuairand(folder: Path, *, rows: int = 40, days: Sequence[str] = ("20220501",)) -> Path:
    """Write a KuaiRand-Pure archive whose log has ``rows`` rows, its days in turn."""
    folder.mkdir(parents=True)
    log = (_row(kuairand.LOG_COLUMNS, n, date=days[n % len(days)]) for n in range(rows))
    users = (_row(kuairand.USER_COLUMNS, n, fans_user_num_range="[100,1k)") for n in range(5))
    items = (_row(kuairand.ITEM_COLUMNS, n, tag="3,9", music_type="") for n in range(7))
    _write(folder / KUAIRAND_LOG, kuairand.LOG_COLUMNS, log)
    _write(folder / kuairand.USERS_FILE, kuairand.USER_COLUMNS, users)
    _write(folder / kuairand.ITEMS_FILE, kuairand.ITEM_COLUMNS, items)
    return folder


def write_alimama(folder: Path, *, times_s: Iterable[object]) -> Path:
    """Write an Alimama archive with one impression per time stamp."""
    folder.mkdir(parents=True)
    log = (_row(alimama.LOG_COLUMNS, n, time_stamp=t) for n, t in enumerate(times_s))
    # As distributed: the last header of the profiles has a trailing blank.
    headers = [*alimama.USER_COLUMNS[:-1], f"{alimama.USER_COLUMNS[-1]} "]
    users = (_row(alimama.USER_COLUMNS, n, new_user_class_level="") for n in range(3))
    items = (_row(alimama.ITEM_COLUMNS, n, brand="NULL") for n in range(4))
    _write(folder / "raw_sample.csv", alimama.LOG_COLUMNS, log)
    _write(folder / "user_profile.csv", headers, users)
    _write(folder / "ad_feature.csv", alimama.ITEM_COLUMNS, items)
    return folder


def spoil(path: Path, change: Spoil) -> None:
    """Change a file's bytes."""
    path.write_bytes(change(path.read_bytes()))


def read(directory: Path, pattern: str) -> pa.Table:
    """Return the rows of the Parquet files that match, in the order of their names."""
    return pa.concat_tables(pq.ParquetFile(p).read() for p in sorted(directory.glob(pattern)))


def contents(directory: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a directory, by name."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def _row(columns: Sequence[str], number: int, **values: object) -> list[object]:
    return [values.get(name, number) for name in columns]


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
