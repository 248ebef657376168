"""Clean logs on disk for tests: small ones from a frame of impressions, and the real slice."""

from __future__ import annotations

import os
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.store import write_manifest
from perscen.config import SplitConfig
from perscen.data.fields import KUAIRAND, FieldPlan, TowerPlan
from perscen.data.interactions import read_features, read_interactions
from perscen.data.splits import Splits
from perscen.data.splitting import split_log
from perscen.data.windows import Windows, windows_of
from perscen.manifests import CleanLogManifest

FIRST_DAY = date(2026, 3, 1)
HOUR = 3_600_000
DAY = 24 * HOUR
PLAN = FieldPlan(
    user=TowerPlan(categorical=("user_id", "city"), dense=("age",)),
    item=TowerPlan(categorical=("item_id", "kind"), dense=("price",), bags=("tags",)),
)
_ROOT = Path(__file__).resolve().parents[2]


def at(day: int, hour: float = 12.0) -> int:
    """Return the millisecond of a local hour (UTC+8) of the n-th day, counted from 0."""
    start = (FIRST_DAY - date(1970, 1, 1)).days * DAY - 8 * HOUR
    return start + day * DAY + round(hour * HOUR)


def day(n: int) -> date:
    """Return the n-th day, counted from 0."""
    return FIRST_DAY + timedelta(days=n)


def click(user: str, item: str, scenario: str, time_ms: int, **more: Any) -> dict[str, Any]:
    """Return one row; ``clicked=False`` makes it an impression, ``date=`` sets its log date."""
    return {
        "user_id": user,
        "item_id": item,
        "scenario": scenario,
        "event_time_ms": time_ms,
        "clicked": True,
        **more,
    }


def some_rows() -> list[dict[str, Any]]:
    """Return five users' clicks over 6 days in the scenarios ``main`` (more) and ``side``."""
    rows = []
    for d in range(6):
        for n, user in enumerate(("u1", "u2", "u3", "u4", "u5")):
            rows.append(click(user, f"v{(n + d) % 6}", "main", at(d, 9 + n)))
            rows.append(
                click(user, f"v{(n + 2 * d) % 6}", "main", at(d, 9.5 + n), clicked=d % 2 > 0)
            )
            if n < 3:
                rows.append(click(user, f"v{(2 * n + d) % 6}", "side", at(d, 14 + n)))
    return rows


def users_table(ids: list[str]) -> pa.Table:
    """Return a user table with a city, missing for every third user, and an age."""
    return pa.table(
        {
            "user_id": pa.array(ids, pa.string()),
            "city": pa.array([None if n % 3 == 2 else f"c{n % 2}" for n in range(len(ids))]),
            "age": pa.array([None if n % 4 == 3 else 20 + n for n in range(len(ids))], pa.int64()),
        }
    )


def items_table(ids: list[str]) -> pa.Table:
    """Return a catalogue with a kind, a price and a list of tags, missing for one item."""
    return pa.table(
        {
            "item_id": pa.array(ids, pa.string()),
            "kind": pa.array([n % 2 for n in range(len(ids))], pa.int64()),
            "price": pa.array([10.0 * n for n in range(len(ids))], pa.float64()),
            "tags": pa.array(
                [None if n == 1 else [f"t{n % 3}", "t9"][: n % 3] for n in range(len(ids))],
                pa.list_(pa.string()),
            ),
        }
    )


def write_clean_log(
    directory: Path,
    rows: list[dict[str, Any]] | pd.DataFrame,
    *,
    users: pa.Table | None = None,
    items: pa.Table | None = None,
    plan: FieldPlan = PLAN,
    excluded: dict[date, str] | None = None,
    logical_date: date | None = None,
) -> Path:
    """Write a clean log artifact; a row without a ``date`` is filed under its local day."""
    frame = pd.DataFrame(rows)
    local = pd.to_datetime(frame["event_time_ms"] + 8 * HOUR, unit="ms").dt.strftime("%Y-%m-%d")
    given = frame["date"] if "date" in frame else pd.Series(np.nan, index=frame.index, dtype=object)
    frame["date"] = given.where(given.notna(), local)
    for name, part in frame.groupby("date"):
        path = directory / "interactions" / f"date={name}" / "part-0.parquet"
        path.parent.mkdir(parents=True)
        columns = ["user_id", "item_id", "scenario", "event_time_ms", "clicked"]
        pq.write_table(pa.Table.from_pandas(part[columns], preserve_index=False), path)
    users = users_table([f"u{n}" for n in range(1, 6)]) if users is None else users
    items = items_table([f"v{n}" for n in range(6)]) if items is None else items
    for name, table in (("users", users), ("items", items)):
        (directory / name).mkdir()
        pq.write_table(table, directory / name / "part-0.parquet")
    (directory / "fields.json").write_text(plan.model_dump_json())
    days = sorted(date.fromisoformat(d) for d in frame["date"].unique())
    write_manifest(
        directory,
        CleanLogManifest(
            step="validate",
            logical_date=logical_date or days[-1],
            code_version="",
            config_digest="",
            parents={},
            source="synthetic",
            rows_in=len(frame),
            rows_good=len(frame),
            rows_quarantined=0,
            rows_dropped=0,
            rule_counts={},
            days=days,
            excluded_days=excluded or {},
            utc_offset_hours=8,
        ),
    )
    return directory


def config_of(**settings: Any) -> SplitConfig:
    """Return settings for :func:`some_rows`: 4 training days, 1 for validation, 1 for the test."""
    windows = {"train_days": 4, "valid_days": 1, "test_days": 1, "num_scenarios": 2}
    return SplitConfig.model_validate({**windows, **settings})


def split_dir(
    directory: Path, config: SplitConfig, *, logical_date: date, plan: FieldPlan = PLAN
) -> tuple[Splits, Windows]:
    """Return the splits of a clean log, without the step around them."""
    windows = windows_of(config, logical_date=logical_date, utc_offset_hours=8)
    log = read_interactions(
        directory,
        spans_ms=[windows.span_ms(name) for name, _ in windows.items()],
        until=logical_date,
        utc_offset_hours=8,
        day_from=config.day_from,
    )
    splits = split_log(
        log,
        users=read_features(directory / "users"),
        items=read_features(directory / "items"),
        plan=plan,
        windows=windows,
        config=config,
    )
    return splits, windows


def kuairand_dir() -> Path | None:
    """Return where the real slice is, or None."""
    given = os.environ.get("KUAIRAND_DIR")
    path = Path(given) if given else _ROOT.parent / "shared" / "data" / "kuairand-pure"
    return path if path.is_dir() else None


def write_kuairand(source: Path, directory: Path) -> Path:
    """Write the real slice as a clean log: exact duplicates dropped, columns typed, tags split."""
    log = pd.read_csv(source / "log_standard_4_22_to_5_08_pure.csv").drop_duplicates()
    rows = pd.DataFrame(
        {
            "user_id": log["user_id"].astype(str),
            "item_id": log["video_id"].astype(str),
            "scenario": log["tab"].astype(str),
            "event_time_ms": log["time_ms"],
            "clicked": log["is_click"] == 1,
            "date": pd.to_datetime(log["date"].astype(str)).dt.strftime("%Y-%m-%d"),
        }
    )
    users = pd.read_csv(source / "user_features_pure.csv")
    items = pd.read_csv(source / "video_features_basic_pure.csv", dtype={"tag": str})
    items = items.rename(columns={"video_id": "item_id"})
    tags = pa.array([t.split(",") if isinstance(t, str) else None for t in items["tag"]])
    catalogue = pa.Table.from_pandas(items, preserve_index=False)
    catalogue = catalogue.set_column(catalogue.column_names.index("tag"), "tag", tags)
    return write_clean_log(
        directory,
        rows,
        users=pa.Table.from_pandas(users, preserve_index=False),
        items=catalogue,
        plan=KUAIRAND,
    )
