"""Alimama (Ali_Display_Ad_Click): the public CSV files into the raw layout."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from perscen.data.csv_tables import CsvTable, Progress, import_tables
from perscen.manifests import RawLogManifest

LOG_COLUMNS: Final = ("user", "time_stamp", "adgroup_id", "pid", "nonclk", "clk")
ITEM_COLUMNS: Final = ("adgroup_id", "cate_id", "campaign_id", "customer", "brand", "price")
USER_COLUMNS: Final = (
    "userid",
    "cms_segid",
    "cms_group_id",
    "final_gender_code",
    "age_level",
    "pvalue_level",
    "shopping_level",
    "occupation",
    "new_user_class_level",
)
CONTRACTS: Final = {"log": "alimama_log", "users": "alimama_users", "items": "alimama_items"}
_BEIJING_S: Final = 8 * 3600
_DAY_S: Final = 86_400


def import_alimama(
    source_dir: Path, to: Path, *, progress: Progress | None = None
) -> RawLogManifest:
    """Write Alimama as a raw layout, partitioned by the Beijing day of ``time_stamp``.

    Streams: the 26.6 million impressions, which are in no order of days, need constant memory. The
    trailing blank in the last header of ``user_profile.csv`` is dropped.

    Args:
        source_dir: The folder with ``raw_sample.csv``, ``ad_feature.csv`` and ``user_profile.csv``.
        to: Where the raw layout goes; one that is there already is replaced as a whole.
        progress: Told of the bytes read.

    Returns:
        What the raw layout says of itself.

    Raises:
        ArtifactError: A file is missing, truncated or not of the public form; nothing is written.
        StorageFull: The disk or quota filled up.
    """
    tables = [
        CsvTable(source_dir / "raw_sample.csv", "log", LOG_COLUMNS),
        CsvTable(source_dir / "user_profile.csv", "users", USER_COLUMNS),
        CsvTable(source_dir / "ad_feature.csv", "items", ITEM_COLUMNS),
    ]
    return import_tables(
        tables, to, source="alimama", contracts=CONTRACTS, day_of=_day_of, progress=progress
    )


def _day_of(batch: pa.RecordBatch) -> pa.Array:
    text = batch.column("time_stamp")
    readable = pc.match_substring_regex(text, "^[0-9]{1,11}$")
    seconds = pc.cast(pc.if_else(readable, text, None), pa.int64())
    days = pc.divide(pc.add(seconds, _BEIJING_S), _DAY_S)
    return pc.cast(pc.cast(pc.cast(days, pa.int32()), pa.date32()), pa.string())
