"""The clean log in columns: ids become small codes while it is read, and stay codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from perscen.data.splits import Ints, Longs
from perscen.data.windows import DAY_MS, day_start_ms
from perscen.errors import ArtifactError

_CODED: Final = ("user_id", "item_id", "scenario")
_COLUMNS: Final = (*_CODED, "event_time_ms", "clicked")


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
    ids = {name: _Ids() for name in _CODED}
    parts: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for path, day in _partitions(directory, until):
        table = _on_its_day(_read(path), day, utc_offset_hours, day_from)
        table = _rows_within(table, spans_ms)
        for name in _COLUMNS:
            column = table[name]
            parts[name].append(ids[name].codes(column) if name in ids else column.to_numpy())
    return Interactions(
        user=np.concatenate(parts.pop("user_id")),
        item=np.concatenate(parts.pop("item_id")),
        scenario=np.concatenate(parts.pop("scenario")),
        time_ms=np.concatenate(parts.pop("event_time_ms")),
        clicked=np.concatenate(parts.pop("clicked")),
        user_ids=ids["user_id"].known,
        item_ids=ids["item_id"].known,
        scenarios=ids["scenario"].known,
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
    table = _read_parquet(path)
    if missing := sorted(set(_COLUMNS) - set(table.column_names)):
        raise ArtifactError(f"{path} lacks the columns {', '.join(missing)}", hint=_HINT)
    columns = {name: table[name] for name in _COLUMNS}
    columns |= {name: table[name].cast(pa.string()) for name in _CODED}
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


class _Ids:
    """The ids met so far, each with a code.

    Days are coded one by one from their text: unifying the dictionaries of all row groups instead
    takes several times longer once there are a million ids.
    """

    def __init__(self) -> None:
        self.known = pa.array([], pa.string())

    def codes(self, column: pa.ChunkedArray) -> Ints:
        """Return each id's position in ``known``, after adding the new ones to it."""
        text = column.combine_chunks()
        codes = pc.fill_null(pc.index_in(text, value_set=self.known), -1).to_numpy().copy()
        new_N = codes < 0
        if new_N.any():
            strangers = text.filter(pa.array(new_N))
            new = pc.unique(strangers)
            codes[new_N] = pc.index_in(strangers, value_set=new).to_numpy() + len(self.known)
            self.known = pa.concat_arrays([self.known, new])
        found: Ints = codes
        return found
