"""KuaiRand-Pure (Gao et al., CIKM 2022): the official CSV files into the raw layout.

``video_features_statistic_pure.csv`` is never opened: its values are averages over the whole month,
so they hold feedback of the days a model is tested on.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Final

import pyarrow as pa

from perscen.data.csv_tables import CsvTable, Progress, import_tables
from perscen.errors import ArtifactError
from perscen.manifests import RawLogManifest

LOG_COLUMNS: Final = (
    "user_id",
    "video_id",
    "date",
    "hourmin",
    "time_ms",
    "is_click",
    "is_like",
    "is_follow",
    "is_comment",
    "is_forward",
    "is_hate",
    "long_view",
    "play_time_ms",
    "duration_ms",
    "profile_stay_time",
    "comment_stay_time",
    "is_profile_enter",
    "is_rand",
    "tab",
)
USER_COLUMNS: Final = (
    "user_id",
    "user_active_degree",
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num",
    "follow_user_num_range",
    "fans_user_num",
    "fans_user_num_range",
    "friend_user_num",
    "friend_user_num_range",
    "register_days",
    "register_days_range",
    *(f"onehot_feat{number}" for number in range(18)),
)
ITEM_COLUMNS: Final = (
    "video_id",
    "author_id",
    "video_type",
    "upload_dt",
    "upload_type",
    "visible_status",
    "video_duration",
    "server_width",
    "server_height",
    "music_id",
    "music_type",
    "tag",
)
CONTRACTS: Final = {"log": "kuairand_log", "users": "kuairand_users", "items": "kuairand_items"}
USERS_FILE: Final = "user_features_pure.csv"
ITEMS_FILE: Final = "video_features_basic_pure.csv"
_BELOW: Final = ("", "data", "KuaiRand-Pure/data")


def import_kuairand(
    source_dir: Path,
    to: Path,
    *,
    include_random_log: bool = False,
    progress: Progress | None = None,
) -> RawLogManifest:
    """Write KuaiRand-Pure as a raw layout, partitioned by the log's own ``date`` column.

    Args:
        source_dir: The folder of the official CSV files, or the unpacked archive around it.
        to: Where the raw layout goes; one that is there already is replaced as a whole.
        include_random_log: Take the randomly exposed impressions too.
        progress: Told of the bytes read.

    Returns:
        What the raw layout says of itself.

    Raises:
        ArtifactError: A file is missing, truncated or not of the official form; nothing is written.
        StorageFull: The disk or quota filled up.
    """
    folder = _folder(source_dir)
    kinds = ("standard", "random") if include_random_log else ("standard",)
    logs = [path for kind in kinds for path in sorted(folder.glob(f"log_{kind}_*_pure.csv"))]
    for kind in kinds:
        if not any(path.name.startswith(f"log_{kind}_") for path in logs):
            raise ArtifactError(
                f"{folder} holds no log_{kind}_*_pure.csv",
                hint="give --from the folder of the official CSV files",
            )
    tables = [
        *(CsvTable(path, "log", LOG_COLUMNS) for path in logs),
        CsvTable(folder / USERS_FILE, "users", USER_COLUMNS, quoted=True),
        CsvTable(folder / ITEMS_FILE, "items", ITEM_COLUMNS, quoted=True),
    ]
    return import_tables(
        tables,
        to,
        source="kuairand-pure",
        contracts=CONTRACTS,
        day_of=day_of,
        progress=progress,
    )


def _folder(source_dir: Path) -> Path:
    for below in _BELOW:
        if (source_dir / below / USERS_FILE).is_file():
            return source_dir / below
    if any(source_dir.glob("log_*_pure.csv")):
        return source_dir  # the file that is missing is named later
    raise ArtifactError(
        f"there is no KuaiRand-Pure in {source_dir}: no {USERS_FILE} there, nor in "
        "data/ or KuaiRand-Pure/data/ below it",
        hint="give --from the folder of the official CSV files, or leave it out to download them",
    )


def day_of(batch: pa.RecordBatch) -> pa.Array:
    """Return each row's day (YYYY-MM-DD) from its ``date`` column; null where that is no date."""
    dates = batch.column("date").dictionary_encode()
    days = pa.array([_day(text) for text in dates.dictionary.to_pylist()], pa.string())
    return days.take(dates.indices)


def _day(text: str) -> str | None:
    if not re.fullmatch("[0-9]{8}", text):
        return None
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:])).isoformat()
    except ValueError:
        return None
