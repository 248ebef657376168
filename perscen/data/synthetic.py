"""The embedded default: a synthetic log in KuaiRand's raw layout, its truth written beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from perscen.data.kuairand import CONTRACTS, ITEM_COLUMNS, LOG_COLUMNS, USER_COLUMNS, day_of
from perscen.data.raw_layout import RawLayout, raw_layout, read_manifest
from perscen.data.synthetic_defects import plant_defects
from perscen.data.synthetic_world import (
    DAY_MS,
    FIRST_DAY,
    FIRST_MS,
    NUM_GROUPS,
    SCENARIOS,
    Impressions,
    Ints,
    World,
    make_impressions,
    make_world,
)
from perscen.errors import ConfigError
from perscen.manifests import RawLogManifest

_FEWEST: Final = 50
_EMPTY: Final = 0.03
"""Share of users and items whose columns that may be empty are."""

_Column = NDArray[np.int64] | NDArray[np.bool_] | NDArray[np.object_] | NDArray[np.str_]


def import_synthetic(
    to: Path, *, seed: int = 0, num_users: int = 2_500, num_items: int = 800
) -> RawLogManifest:
    """Write a synthetic log of 14 days (2022-04-22 … 2022-05-05), about 39 impressions per user.

    Args:
        to: Where the raw layout goes; one that is there already is replaced as a whole.
        seed: The same seed gives the same bytes.
        num_users: Users, at least 50.
        num_items: Catalogue size, at least 50.

    Returns:
        What the raw layout says of itself.

    Raises:
        ConfigError: Too few users or items, or a negative seed.
        ArtifactError: ``to`` holds something else.
        StorageFull: The disk or quota filled up.
    """
    if min(num_users, num_items) < _FEWEST or seed < 0:
        raise ConfigError(
            f"a synthetic log needs {_FEWEST} users and items or more and a seed from 0 on; "
            f"got {num_users} users, {num_items} items, seed {seed}"
        )
    rng = np.random.default_rng(seed)
    world = make_world(rng, num_users=num_users, num_items=num_items)
    impressions = make_impressions(rng, world)
    log, defects = plant_defects(
        _log(rng, world, impressions),
        day_N=impressions.day_N,
        clicked_N=impressions.clicked_N,
        rng=rng,
    )
    with raw_layout(to, source="synthetic", contracts=CONTRACTS) as layout:
        for batch in log.combine_chunks().to_batches():
            layout.add("log", batch, days=day_of(batch))
        layout.add("users", _users(rng, world))
        layout.add("items", _items(rng, world))
        _add_truth(layout, world, defects)
    return read_manifest(to)


def _log(rng: np.random.Generator, world: World, shown: Impressions) -> pa.Table:
    """Return the clean log with KuaiRand's columns, all text."""
    clicked_N = shown.clicked_N
    duration_N = world.duration_V[shown.item_N]
    of_day_N = (shown.time_ms_N - FIRST_MS) % DAY_MS // 60_000
    day_N = FIRST_DAY + shown.day_N
    profile_N = clicked_N & (rng.random(len(clicked_N)) < 0.02)
    comment_N = clicked_N & (rng.random(len(clicked_N)) < 0.05)

    def rarely(rate: float) -> NDArray[np.bool_]:
        happens: NDArray[np.bool_] = clicked_N & (rng.random(len(clicked_N)) < rate)
        return happens

    columns: dict[str, _Column] = {
        "user_id": shown.user_N,
        "video_id": shown.item_N,
        "date": np.char.replace(day_N.astype(str), "-", ""),
        "hourmin": of_day_N // 60 * 100 + of_day_N % 60,
        "time_ms": shown.time_ms_N,
        "is_click": clicked_N,
        "is_like": rarely(0.03),
        "is_follow": rarely(0.002),
        "is_comment": comment_N & rarely(0.1),
        "is_forward": rarely(0.002),
        "is_hate": ~clicked_N & (rng.random(len(clicked_N)) < 0.0005),
        "long_view": shown.play_ms_N >= np.minimum(duration_N, 18_000),
        "play_time_ms": shown.play_ms_N,
        "duration_ms": duration_N,
        "profile_stay_time": profile_N * rng.integers(500, 30_000, len(clicked_N)),
        "comment_stay_time": comment_N * rng.integers(500, 60_000, len(clicked_N)),
        "is_profile_enter": profile_N,
        "is_rand": np.zeros(len(clicked_N), np.int64),
        "tab": np.array(SCENARIOS)[shown.scenario_N],
    }
    return pa.Table.from_batches([_batch(columns, LOG_COLUMNS)])


def _users(rng: np.random.Generator, world: World) -> pa.RecordBatch:
    """Return the user table: two columns hint at the group, the others are of no use."""
    num_users = len(world.group_U)
    half, rest = np.divmod(world.group_U, NUM_GROUPS // 2)
    new_U = world.first_day_U > 0
    empty_U = rng.random(num_users) < _EMPTY
    follow_U, fans_U, friend_U = (
        rng.lognormal(mean, 1.2, num_users).astype(np.int64) for mean in (4.5, 3.0, 2.5)
    )
    days_U = np.where(new_U, rng.integers(8, 15, num_users), rng.integers(31, 2_000, num_users))
    columns: dict[str, _Column] = {
        "user_id": np.arange(num_users),
        "user_active_degree": np.where(
            new_U,
            "2_14_day_new",
            rng.choice(
                ["full_active", "high_active", "middle_active"], num_users, p=[0.7, 0.2, 0.1]
            ),
        ),
        "is_lowactive_period": np.zeros(num_users, np.int64),
        "is_live_streamer": np.where(rng.random(num_users) < 0.77, -124, 1),
        "is_video_author": rng.random(num_users) < 0.8,
        "follow_user_num": follow_U,
        "follow_user_num_range": _ranges(
            follow_U,
            (1, 11, 51, 101, 151, 251, 501),
            ("0", "(0,10]", "(10,50]", "(50,100]", "(100,150]", "(150,250]", "(250,500]", "500+"),
        ),
        "fans_user_num": fans_U,
        "fans_user_num_range": _ranges(
            fans_U,
            (1, 10, 100, 1_000, 5_000, 10_000),
            ("0", "[1,10)", "[10,100)", "[100,1k)", "[1k,5k)", "[5k,1w)", "[1w,10w)"),
        ),
        "friend_user_num": friend_U,
        "friend_user_num_range": _ranges(
            friend_U,
            (1, 5, 30, 60, 120, 250),
            ("0", "[1,5)", "[5,30)", "[30,60)", "[60,120)", "[120,250)", "250+"),
        ),
        "register_days": days_U,
        "register_days_range": _ranges(
            days_U,
            (15, 31, 61, 91, 181, 366, 731),
            ("8-14", "15-30", "31-60", "61-90", "91-180", "181-365", "366-730", "730+"),
        ),
        "onehot_feat0": np.where(rng.random(num_users) < 0.1, 1 - half, half),
        "onehot_feat1": np.where(
            rng.random(num_users) < 0.35, rng.integers(0, 7, num_users), rest + 1
        ),
    }
    for number in range(2, 18):
        coded = rng.integers(0, 2 if number >= 12 else 3 * number, num_users)
        decimal = np.char.add(coded.astype(str), ".0")
        may_be_empty = number == 4 or number >= 12
        columns[f"onehot_feat{number}"] = _emptied(decimal, empty_U) if may_be_empty else coded
    return _batch(columns, USER_COLUMNS)


def _items(rng: np.random.Generator, world: World) -> pa.RecordBatch:
    """Return the item table: tag and author tell the genre, but for items without a tag."""
    num_items = len(world.genre_V)
    second_V = rng.integers(50, 70, num_items).astype(str)
    genre_V = world.genre_V.astype(str)
    tag_V = np.where(
        rng.random(num_items) < 0.3, np.char.add(np.char.add(genre_V, ","), second_V), genre_V
    )

    def partly_empty(values: NDArray[np.str_]) -> NDArray[np.object_]:
        return _emptied(values, rng.random(num_items) < _EMPTY)

    columns: dict[str, _Column] = {
        "video_id": np.arange(num_items),
        "author_id": 1_000 + world.genre_V * 10 + rng.integers(0, 10, num_items),
        "video_type": np.where(rng.random(num_items) < 0.99, "NORMAL", "AD"),
        "upload_dt": (np.datetime64("2022-04-09") + rng.integers(0, 3, num_items)).astype(str),
        "upload_type": rng.choice(["LongImport", "Web", "ShortImport", "Kmovie"], num_items),
        "visible_status": np.full(num_items, "0.0"),
        "video_duration": partly_empty(np.char.add(world.duration_V.astype(str), ".0")),
        "server_width": np.full(num_items, "720.0"),
        "server_height": np.full(num_items, "1280.0"),
        "music_id": rng.integers(1_000_000, 9_999_999, num_items),
        "music_type": partly_empty(np.full(num_items, "9.0")),
        "tag": partly_empty(tag_V),
    }
    return _batch(columns, ITEM_COLUMNS)


def _add_truth(layout: RawLayout, world: World, defects: pa.Table) -> None:
    affinity_GSV = world.affinity_GSV
    group, scenario, item = (axis.ravel() for axis in np.indices(affinity_GSV.shape))
    layout.add_truth("defects", defects)
    layout.add_truth(
        "users", pa.table({"user_id": _text(np.arange(len(world.group_U))), "group": world.group_U})
    )
    layout.add_truth(
        "affinity",
        pa.table(
            {
                "group": group,
                "scenario": _text(np.array(SCENARIOS)[scenario]),
                "item_id": _text(item),
                "probability": affinity_GSV.ravel(),
            }
        ),
    )


def _ranges(values: Ints, edges: tuple[int, ...], names: tuple[str, ...]) -> NDArray[np.str_]:
    """Return the name of the range each value lies in; a range begins at its edge."""
    named: NDArray[np.str_] = np.array(names)[np.searchsorted(edges, values, side="right")]
    return named


def _emptied(values: NDArray[np.str_], empty: NDArray[np.bool_]) -> NDArray[np.object_]:
    text = values.astype(object)
    text[empty] = None
    return text


def _batch(columns: dict[str, _Column], order: tuple[str, ...]) -> pa.RecordBatch:
    return pa.record_batch([_text(columns[name]) for name in order], names=list(order))


def _text(values: _Column) -> pa.Array:
    if values.dtype == np.bool_:
        values = values.astype(np.int64)
    return pa.array(values).cast(pa.string())
