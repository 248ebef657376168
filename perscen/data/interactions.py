"""The clean log in columns: ids become small codes while it is read, and stay codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from perscen.data.splits import Ints, Longs
from perscen.data.windows import DAY_MS, day_start_ms
from perscen.errors import ArtifactError

_CODED: Final = ("user_id", "item_id", "scenario")
_COLUMNS: Final = (*_CODED, "event_time_ms", "clicked")
_TEXT: Final = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Interactions:
    """Impressions (N), their ids as positions in ``user_ids``, ``item_ids`` and ``scenarios``."""

    user: Ints
    item: Ints
    scenario: Ints
    time_ms: Longs
    clicked: NDArray[np.bool_]
    user_ids: pa.Array
    item_ids: pa.Array
    scenarios: pa.Array

    def __len__(self) -> int:
        return len(self.time_ms)


def read_interactions(
    directory: Path,
    *,
    spans_ms: Sequence[tuple[int, int]],
    until: date,
    utc_offset_hours: int,
    day_from: Literal["event_time", "log_date"] = "event_time",
) -> Interactions:
    """Return the impressions of a clean log whose time lies in one of the spans.

    With ``log_date`` the log's own date is believed: a time outside that day is moved to the day's
    nearest edge. Windows, histories and leak checks then look at times alone, and a row of an
    evaluation day can be in no earlier history.

    Args:
        directory: The clean log.
        spans_ms: Half-open ranges of milliseconds since 1970 (UTC).
        until: Partitions of later dates are not opened.
        utc_offset_hours: Time zone in which a day begins.
        day_from: Which day an impression belongs to.

    Raises:
        ArtifactError: A file is missing or unreadable, or lacks a column.
    """
    parts = [
        _rows_within(table, spans_ms)
        for path, day in _partitions(directory, until)
        for table in [_on_its_day(_read(path), day, utc_offset_hours, day_from)]
    ]
    table = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
    codes = {name: _codes(table[name]) for name in _CODED}
    return Interactions(
        user=codes["user_id"][0],
        item=codes["item_id"][0],
        scenario=codes["scenario"][0],
        time_ms=table["event_time_ms"].to_numpy(),
        clicked=table["clicked"].to_numpy(),
        user_ids=codes["user_id"][1],
        item_ids=codes["item_id"][1],
        scenarios=codes["scenario"][1],
    )


def read_features(directory: Path) -> pa.Table:
    """Return a feature table of a clean log: ``users`` or ``items``.

    Raises:
        ArtifactError: It is missing or unreadable.
    """
    paths = sorted(directory.glob("part-*.parquet"))
    if not paths:
        raise ArtifactError(f"{directory} holds no part-*.parquet", hint=_HINT)
    return pa.concat_tables([_read_parquet(path) for path in paths])


_HINT: Final = "run `validate` again"


def _partitions(directory: Path, until: date) -> list[tuple[Path, date]]:
    root = directory / "interactions"
    found = [
        (path, date.fromisoformat(path.parent.name.removeprefix("date=")))
        for path in sorted(root.glob("date=*/part-*.parquet"))
    ]
    kept = [(path, day) for path, day in found if day <= until]
    if not kept:
        raise ArtifactError(f"{root} holds no day up to {until}", hint=_HINT)
    return kept


def _read(path: Path) -> pa.Table:
    table = _read_parquet(path, read_dictionary=list(_CODED))
    if missing := sorted(set(_COLUMNS) - set(table.column_names)):
        raise ArtifactError(f"{path} lacks the columns {', '.join(missing)}", hint=_HINT)
    columns = {name: table[name] for name in _COLUMNS}
    for name in _CODED:
        column = columns[name]
        if not pa.types.is_dictionary(column.type):
            column = column.cast(pa.string()).dictionary_encode()
        columns[name] = column.cast(_TEXT)
    columns["event_time_ms"] = columns["event_time_ms"].cast(pa.int64())
    return pa.table(columns)


def _read_parquet(path: Path, **options: Any) -> pa.Table:
    try:
        return pq.read_table(path, partitioning=None, **options)
    except (OSError, pa.ArrowException) as exc:
        raise ArtifactError(f"{path} cannot be read: {exc}", hint=_HINT) from exc


def _on_its_day(table: pa.Table, day: date, utc_offset_hours: int, day_from: str) -> pa.Table:
    if day_from == "event_time":
        return table
    start = day_start_ms(day, utc_offset_hours)
    position = table.column_names.index("event_time_ms")
    times = np.clip(table["event_time_ms"].to_numpy(), start, start + DAY_MS - 1)
    return table.set_column(position, "event_time_ms", pa.array(times))


def _rows_within(table: pa.Table, spans_ms: Sequence[tuple[int, int]]) -> pa.Table:
    times = table["event_time_ms"].to_numpy()
    mask = np.zeros(len(times), dtype=np.bool_)
    for first, end in spans_ms:
        mask |= (times >= first) & (times < end)
    return table if mask.all() else table.filter(pa.array(mask))


def _codes(column: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    if column.num_chunks == 0:
        return np.zeros(0, dtype=np.int32), pa.array([], pa.string())
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in column.chunks])
    dictionary = column.chunk(0).dictionary
    # Days share one dictionary, which may name ids of rows that no window keeps.
    used = np.flatnonzero(np.bincount(codes, minlength=len(dictionary)))
    position = np.zeros(len(dictionary), dtype=np.int32)
    position[used] = np.arange(len(used), dtype=np.int32)
    return position[codes], dictionary.take(pa.array(used))
