"""Defects planted in a synthetic log at known rates, and the list of where they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from perscen.data.synthetic_world import DAY_MS, FIRST_DAY

Ints = NDArray[np.int64]

DUPLICATE: Final = "exact_duplicate"
DUPLICATE_RATE: Final = 0.01
_FIRST_UNKNOWN_ITEM: Final = 90_000_000


@dataclass(frozen=True)
class Defect:
    """One way to spoil one field of a row.

    Attributes:
        rate: Share of each day's rows that are spoiled so.
        spoil: Gives the field's text from what it was; None empties it.
        clicks_only: Whether only clicked rows are spoiled.
    """

    name: str
    rate: float
    column: str
    spoil: Callable[[str], str | None]
    clicks_only: bool = False


DEFECTS: Final = (
    Defect(
        "click_on_unknown_item",
        0.002,
        "video_id",
        lambda text: str(_FIRST_UNKNOWN_ITEM + int(text)),
        clicks_only=True,
    ),
    Defect("missing_user_id", 0.002, "user_id", lambda _: None),
    Defect("missing_item_id", 0.001, "video_id", lambda _: None),
    Defect("unknown_scenario", 0.002, "tab", lambda _: "99"),
    Defect("future_time", 0.001, "time_ms", lambda text: str(int(text) + 60 * DAY_MS)),
    Defect("past_time", 0.001, "time_ms", lambda text: text[:-3]),
    Defect("negative_play_time", 0.002, "play_time_ms", lambda text: str(-1 - int(text))),
    Defect("text_in_number", 0.001, "play_time_ms", lambda _: "n/a"),
)
"""A clock 60 days ahead is the future; seconds in place of milliseconds are the past (1970)."""


def plant_defects(
    log: pa.Table, *, day_N: Ints, clicked_N: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[pa.Table, pa.Table]:
    """Return the log with defects, no two on one row, and the list of them.

    Args:
        log: Clean rows, all text, no two with the same ``time_ms``.
        day_N: Day of each row, from 0.
        clicked_N: Whether each row is a click.
        rng: Decides which rows are hit; the rates hold on every day.

    Returns:
        The log, each surplus copy right behind its row; and per defect ``table``, ``row_key`` (the
        row's ``time_ms`` as it is written now), ``rule`` (the defect's name) and ``date``.
    """
    names_N = np.full(log.num_rows, "", dtype=object)
    for day in np.unique(day_N):
        _choose(names_N, np.flatnonzero(day_N == day), clicked_N, rng)
    for defect in DEFECTS:
        position = log.schema.get_field_index(defect.column)
        hit_N = pa.array(names_N == defect.name)
        spoiled = [defect.spoil(text) for text in log.column(position).filter(hit_N).to_pylist()]
        column = pc.replace_with_mask(
            log.column(position), hit_N, pa.array(spoiled, type=pa.string())
        )
        log = log.set_column(position, defect.column, column)
    listed = pa.array(np.flatnonzero(names_N != ""))
    truth = pa.table(
        {
            "table": pa.array(["log"] * len(listed)),
            "row_key": log.column("time_ms").take(listed),
            "rule": pa.array(names_N, pa.string()).take(listed),
            "date": pa.array((FIRST_DAY + day_N).astype(str)).take(listed),
        }
    )
    times_N = np.where(names_N == DUPLICATE, 2, 1)
    return log.take(pa.array(np.repeat(np.arange(log.num_rows), times_N))), truth


def _choose(
    names_N: NDArray[np.object_],
    rows: Ints,
    clicked_N: NDArray[np.bool_],
    rng: np.random.Generator,
) -> None:
    """Name the defect of each row of one day that gets one."""
    rates = [(d.name, d.rate, d.clicks_only) for d in DEFECTS]
    for name, rate, clicks_only in [*rates, (DUPLICATE, DUPLICATE_RATE, False)]:
        free = rows[(names_N[rows] == "") & (clicked_N[rows] | (not clicks_only))]
        names_N[rng.choice(free, size=round(rate * len(rows)), replace=False)] = name
