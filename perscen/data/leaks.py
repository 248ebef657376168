"""Checks that no split reads its own future; every day's splits pass them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from perscen.data.splits import Histories, Longs, Queries, Rows, Slices, Splits
from perscen.data.windows import Windows
from perscen.schema import FIRST_ROW


class LeakFound(RuntimeError):
    """The splits read their own future: a mistake in this program, not in the data."""


def check_no_leak(splits: Splits, windows: Windows) -> None:
    """Check windows, histories and vocabularies against each other, from the written columns alone.

    - windows are in order and share no moment; training rows lie in the training window;
    - every history is of its own user (and scenario), strictly before its row or the window's
      start, in order of time, and at most ``max_seq_len`` long;
    - what a query must retrieve is exactly what its user clicked in its window and scenario;
    - only users with a training row have a row in the user vocabulary, and the candidates are the
      catalogue, whatever was clicked later.

    Raises:
        LeakFound: With the number of offending rows of each kind.
    """
    found = {what: int(count) for what, count in _findings(splits, windows) if count}
    if found:
        lines = "; ".join(f"{what}: {count:,}" for what, count in found.items())
        raise LeakFound(f"the splits leak: {lines}")


def _findings(splits: Splits, windows: Windows) -> Iterator[tuple[str, int]]:
    spans = [windows.span_ms(name) for name, _ in windows.items()]
    (train_ms, train_end_ms), (valid_ms, _), (test_ms, _) = spans
    yield "windows that overlap", sum(a[1] > b[0] for a, b in pairwise(spans))
    time_E = splits.train.time_ms
    yield "training rows outside the window", _count((time_E < train_ms) | (time_E >= train_end_ms))
    seen_ms = splits.impressions.time_ms
    yield "impressions outside the training window", _count(seen_ms >= train_end_ms)

    yield from _history_order(splits.histories)
    valid, test = splits.valid, splits.test
    cuts: tuple[tuple[str, Rows | Queries, Longs, Slices], ...] = (
        ("training", splits.train, time_E, splits.train_slices),
        ("validation", valid, np.full(len(valid.user), valid_ms), splits.valid_slices),
        ("test", test, np.full(len(test.user), test_ms), splits.test_slices),
    )
    for name, rows, time_ms_Q, slices in cuts:
        for what, count in _slices(splits, rows, time_ms_Q, slices):
            yield f"{name} {what}", count
    yield "validation clicks of another window", _foreign_relevant(splits, valid, spans[1])
    yield "test clicks of another window", _foreign_relevant(splits, test, spans[2])
    yield from _vocabularies(splits)


def _history_order(histories: Histories) -> Iterator[tuple[str, int]]:
    for name, times, offsets in (
        ("histories", histories.times_ms, histories.user_offsets),
        ("scenario histories", histories.spec_times_ms, histories.spec_offsets),
        ("shown histories", histories.shown_times_ms, histories.shown_offsets),
    ):
        backwards = np.flatnonzero(np.diff(times) < 0) + 1
        # A step back is legal only where the next user's (or scenario's) events begin.
        yield f"{name} out of order", _count(~np.isin(backwards, offsets))


def _slices(
    splits: Splits, rows: Rows | Queries, time_ms_Q: Longs, slices: Slices
) -> Iterator[tuple[str, int]]:
    histories, cut = splits.histories, slices
    group_Q = _groups(splits, rows)
    user_Q = np.asarray(rows.user)
    clicks = (histories.times_ms, histories.user_offsets, user_Q)
    spec = (histories.spec_times_ms, histories.spec_offsets, group_Q)
    shown = (histories.shown_times_ms, histories.shown_offsets, user_Q)
    for name, start, end, (times, offsets, owner) in (
        ("histories", cut.start, cut.end, clicks),
        ("scenario histories", cut.spec_start, cut.spec_end, spec),
        ("shown histories", cut.shown_start, cut.shown_end, shown),
    ):
        yield f"{name} too long", _count((end - start > splits.schema.max_seq_len) | (end < start))
        used = np.flatnonzero(end > start)
        start, end, owner = start[used], end[used], owner[used]
        foreign = (start < offsets[owner]) | (end > offsets[owner + 1])
        yield f"{name} of another user or scenario", _count(foreign)
        yield f"{name} that reach the event", _count(times[end - 1] >= time_ms_Q[used])


def _foreign_relevant(splits: Splits, queries: Queries, span_ms: tuple[int, int]) -> int:
    """Return how many relevant items are not clicks of the window, or the other way round."""
    first, end = span_ms
    times, offsets = splits.histories.spec_times_ms, splits.histories.spec_offsets
    inside = np.flatnonzero((times >= first) & (times < end))
    group = np.searchsorted(offsets, inside, side="right") - 1
    num_items = splits.schema.num_item_rows
    clicked = np.unique(group * num_items + splits.histories.spec_items[inside])
    query = (
        np.asarray(queries.user, dtype=np.int64) * len(splits.schema.scenarios) + queries.scenario
    )
    wanted = np.repeat(query, np.diff(queries.relevant_offsets)) * num_items + queries.relevant
    return len(np.setxor1d(clicked, wanted)) + len(wanted) - len(np.unique(wanted))


def _groups(splits: Splits, rows: Rows | Queries) -> Longs:
    """Return which (user row, scenario) each row is of, as ``spec_offsets`` counts them."""
    return rows.user.astype(np.int64) * len(splits.schema.scenarios) + rows.scenario


def _vocabularies(splits: Splits) -> Iterator[tuple[str, int]]:
    catalogue = splits.vocabularies["items"]
    differ = list(splits.items.ids[FIRST_ROW:]) != catalogue
    yield "candidates that are not the catalogue", differ
    known = splits.vocabularies.get("user/user_id")
    if known is not None:
        trained = splits.users.ids[np.unique(splits.train.user)]
        yield "user vocabulary entries without a training row", len(np.setxor1d(trained, known))


def _count(mask: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(mask))
