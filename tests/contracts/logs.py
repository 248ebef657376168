"""Small raw logs in the official KuaiRand form, built row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.runner import Task
from components.store import open_raw_log
from data_contracts.contract import TableContract, load_contract
from data_contracts.parsing import Surroundings
from perscen.data.kuairand import CONTRACTS, ITEM_COLUMNS, LOG_COLUMNS, USER_COLUMNS
from perscen.data.raw_layout import NO_DATE, raw_layout

Row = dict[str, str | None]

FIRST_DAY = date(2022, 4, 25)
NUM_USERS = 6
NUM_ITEMS = 5
_BEIJING_MS = 8 * 3_600_000


def day(number: int) -> date:
    """Return the log's n-th day, from 0."""
    return FIRST_DAY + timedelta(days=number)


def midnight_ms(of: date) -> int:
    """Return Beijing midnight of a day in milliseconds since 1970 (UTC)."""
    return int(datetime(of.year, of.month, of.day, tzinfo=UTC).timestamp() * 1000) - _BEIJING_MS


def impression(of: date, number: int = 0, **changes: str | None) -> Row:
    """Return a good row of the log, the n-th of its day, with some fields changed."""
    row: Row = dict.fromkeys(LOG_COLUMNS, "0")
    row |= {
        "user_id": str(number % NUM_USERS),
        "video_id": str(number % NUM_ITEMS),
        "date": f"{of:%Y%m%d}",
        "time_ms": str(midnight_ms(of) + number * 1000),
        "is_click": str(number % 2),
        "play_time_ms": "1500",
        "tab": "1" if number % 4 else "0",
    }
    return row | changes


def impressions(of: date, num: int, *more: Row) -> list[Row]:
    """Return that many good rows of a day, and then those given."""
    return [impression(of, number) for number in range(num)] + list(more)


def user(number: int, **changes: str | None) -> Row:
    """Return a good row of the users table, with the real table's warts."""
    row: Row = dict.fromkeys(USER_COLUMNS, "0")
    row |= {"user_id": str(number), "is_live_streamer": "-124", "onehot_feat4": None}
    return row | {"onehot_feat12": "1.0"} | changes


def item(number: int, **changes: str | None) -> Row:
    """Return a good row of the items table, with the real table's warts."""
    row: Row = dict.fromkeys(ITEM_COLUMNS, "1")
    row |= {"video_id": str(number), "upload_dt": "2022-04-10", "video_duration": "87433.0"}
    return row | {"music_type": None, "tag": "3,12"} | changes


def as_batch(rows: Sequence[Row], columns: Sequence[str]) -> pa.RecordBatch:
    """Return rows as text columns."""
    return pa.RecordBatch.from_pydict(
        {name: pa.array([row[name] for row in rows], pa.string()) for name in columns}
    )


def write_raw(
    to: Path,
    days: Mapping[date | None, Sequence[Row]],
    *,
    users: Sequence[Row] | None = None,
    items: Sequence[Row] | None = None,
) -> Path:
    """Write a raw layout; ``None`` as a day is the partition of rows without one."""
    with raw_layout(to, source="kuairand-pure", contracts=CONTRACTS) as layout:
        for of, rows in days.items():
            names = pa.array([NO_DATE if of is None else str(of)] * len(rows), pa.string())
            layout.add("log", as_batch(rows, LOG_COLUMNS), days=names)
        layout.add("users", as_batch(users or [user(n) for n in range(NUM_USERS)], USER_COLUMNS))
        layout.add("items", as_batch(items or [item(n) for n in range(NUM_ITEMS)], ITEM_COLUMNS))
    return to


def task_for(raw: Path, output: Path, *, logical_date: date) -> Task:
    """Return what the runner gives the step."""
    output.mkdir(parents=True, exist_ok=True)
    stamp = {
        "step": "validate",
        "logical_date": logical_date,
        "code_version": "c",
        "config_digest": "d",
        "parents": {},
    }
    return Task(
        inputs={"raw_log": open_raw_log(raw)},
        output=output,
        logical_date=logical_date,
        run_id="run",
        state=output.with_name(f"{output.name}.state"),
        aftermath=output.with_name(f"{output.name}.state"),
        stamp=stamp,
    )


def log_contract() -> TableContract:
    """Return the contract of the KuaiRand log."""
    return load_contract("kuairand_log").table


def around(rows: Sequence[Row], of: date | None = FIRST_DAY) -> Surroundings:
    """Return surroundings in which the built rows of a day are good."""
    return Surroundings(
        utc_offset_hours=8,
        references={
            "users": pa.table({"user_id": [str(n) for n in range(NUM_USERS)]}),
            "items": pa.table({"video_id": [str(n) for n in range(NUM_ITEMS)]}),
        },
        partition_days=np.full(len(rows), np.nan if of is None else (of - date(1970, 1, 1)).days),
    )


def as_table(rows: Sequence[Row]) -> pa.Table:
    """Return rows of the log as text columns."""
    return pa.Table.from_batches([as_batch(rows, LOG_COLUMNS)])
