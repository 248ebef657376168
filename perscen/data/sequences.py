"""Click histories, never materialised: sort once, then cut ``[start, end)`` slices.

Letters: N events, Q queries, R user rows, S scenarios, T the longest history.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perscen.data.splits import Histories, Ints, Longs, Slices
from perscen.schema import SpecSeqSource

Integers = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Events:
    """Impressions in table rows (N), sorted by (user, time), ties by item and scenario."""

    user: Ints
    item: Ints
    scenario: Ints
    time_ms: Longs
    clicked: NDArray[np.bool_]

    def at(self, rows: NDArray[Any]) -> Events:
        """Return the events at these positions, or where a mask holds."""
        return Events(
            self.user[rows],
            self.item[rows],
            self.scenario[rows],
            self.time_ms[rows],
            self.clicked[rows],
        )

    def sorted(self) -> Events:
        """Return the events in the one order that does not depend on how they came."""
        events = self.at(order_by(self.user, self.time_ms))
        again = (np.diff(events.user) == 0) & (np.diff(events.time_ms) == 0)
        # Ties are few: sorting them alone is cheaper than two more passes over everything.
        tied = np.flatnonzero(np.append(again, False) | np.append(False, again))
        part = events.at(tied)
        part = part.at(order_by(part.user, part.time_ms, part.item, part.scenario))
        for field in fields(events):
            getattr(events, field.name)[tied] = getattr(part, field.name)
        return events


def order_by(*keys: Integers) -> Longs:
    """Return the stable order of rows by the first key, ties by the second, and so on.

    The same as ``np.lexsort`` with the keys reversed, and several times faster: key and position
    are packed into one uint64, which numpy sorts vectorised.
    """
    num_rows = len(keys[0])
    if num_rows == 0:
        return np.zeros(0, dtype=np.int64)
    position_N = np.arange(num_rows, dtype=np.uint64)
    position_bits = num_rows.bit_length()
    order: Longs | None = None
    for key in reversed(keys):
        low, high = int(key.min()), int(key.max())
        if low == high:
            continue
        if (high - low).bit_length() + position_bits > 64:
            sub_order = np.argsort(key if order is None else key[order], kind="stable")
        else:
            packed = (key if order is None else key[order]) - np.int64(low)
            packed = packed.astype(np.uint64, copy=False)
            packed <<= np.uint64(position_bits)
            packed |= position_N
            packed.sort()
            packed &= np.uint64((1 << position_bits) - 1)
            sub_order = packed.view(np.int64)
        order = sub_order if order is None else order[sub_order]
    return position_N.view(np.int64) if order is None else order


def offsets_of(group_N: Integers, num_groups: int) -> Longs:
    """Return ``[num_groups + 1]`` bounds of each group in rows sorted by group."""
    offsets = np.zeros(num_groups + 1, dtype=np.int64)
    np.cumsum(np.bincount(group_N, minlength=num_groups), out=offsets[1:])
    return offsets


def build_histories(events: Events, *, num_users: int, num_scenarios: int) -> Histories:
    """Return the flat arrays that every history is a slice of.

    Args:
        events: Sorted, as :meth:`Events.sorted` returns them.
        num_users: Rows of the user table, R.
        num_scenarios: S.
    """
    clicks = events.at(events.clicked)
    shown = events.at(~events.clicked)
    group_N = clicks.user.astype(np.int64) * num_scenarios + clicks.scenario
    spec_N = order_by(group_N)
    return Histories(
        items=clicks.item,
        times_ms=clicks.time_ms,
        spec_items=clicks.item[spec_N],
        spec_times_ms=clicks.time_ms[spec_N],
        shown_items=shown.item,
        shown_times_ms=shown.time_ms,
        user_offsets=offsets_of(clicks.user, num_users),
        spec_offsets=offsets_of(group_N, num_users * num_scenarios),
        shown_offsets=offsets_of(shown.user, num_users),
    )


def slices_before(
    histories: Histories,
    user_Q: Ints,
    scenario_Q: Ints,
    time_ms_Q: Longs,
    *,
    max_seq_len: int,
    spec_seq_source: SpecSeqSource,
) -> Slices:
    """Return each query's histories: at most T events strictly before its time, the latest ones.

    Events at the query's own time are left out: equal timestamps are not in each other's history.
    Queries sorted by (user, time) are answered several times faster than scattered ones.

    Args:
        histories: What :func:`build_histories` returns.
        user_Q: User rows.
        scenario_Q: Scenarios of the scenario-specific history.
        time_ms_Q: Milliseconds since 1970 (UTC).
        max_seq_len: T, for each of the three histories.
        spec_seq_source: ``independent`` takes the latest T clicks of the scenario;
            ``filter_truncated`` the scenario's clicks among the latest T of all scenarios.
    """
    num_scenarios = (len(histories.spec_offsets) - 1) // (len(histories.user_offsets) - 1)
    group_Q = user_Q.astype(np.int64) * num_scenarios + scenario_Q
    start, end = _bounds(histories.user_offsets, histories.times_ms, user_Q, time_ms_Q, max_seq_len)
    spec_start, spec_end = _bounds(
        histories.spec_offsets, histories.spec_times_ms, group_Q, time_ms_Q, max_seq_len
    )
    if spec_seq_source == "filter_truncated":
        # How many of the scenario's clicks lie before the multi-scenario slice begins.
        position_N = _multi_positions(histories, num_scenarios)
        spec_start = _first_at_or_after(histories.spec_offsets, position_N, group_Q, start)
    shown_start, shown_end = _bounds(
        histories.shown_offsets, histories.shown_times_ms, user_Q, time_ms_Q, max_seq_len
    )
    return Slices(start, end, spec_start, spec_end, shown_start, shown_end)


def clicks_by_scenario(
    histories: Histories, user_Q: Ints, start_Q: Longs, end_Q: Longs, *, max_seq_len: int
) -> tuple[Longs, Longs]:
    """Return the bounds in ``spec_items`` of each query's clicks in every scenario, ``[Q * S]``.

    They are the latest T of each scenario among the clicks that the query's multi-scenario history
    ends with; query ``q``'s of scenario ``s`` is row ``q * S + s``.

    Args:
        histories: What :func:`build_histories` returns.
        user_Q: User rows.
        start_Q: Bounds of each query's multi-scenario history ...
        end_Q: ... which is not longer than T either.
        max_seq_len: T, for each scenario.
    """
    num_scenarios = (len(histories.spec_offsets) - 1) // (len(histories.user_offsets) - 1)
    group_QS = user_Q.astype(np.int64)[:, None] * num_scenarios + np.arange(num_scenarios)
    offsets = np.asarray(histories.spec_offsets)
    begin_QS = offsets[group_QS]
    has_any_Q = np.asarray(end_Q) > np.asarray(start_Q)
    if not has_any_Q.any():
        return begin_QS.ravel(), begin_QS.ravel()
    # Equal times are never on both sides of a history's end, so its last time says where it ends.
    times_ms = np.asarray(histories.times_ms)
    last_Q = times_ms[np.where(has_any_Q, end_Q, 1) - 1]
    after_QS = _first_at_or_after(
        offsets,
        np.asarray(histories.spec_times_ms),
        group_QS.ravel(),
        np.repeat(last_Q + 1, num_scenarios),
    ).reshape(group_QS.shape)
    end_QS = np.where(has_any_Q[:, None], after_QS, begin_QS)
    return np.maximum(begin_QS, end_QS - max_seq_len).ravel(), end_QS.ravel()


def reorder(slices: Slices, order_Q: Longs) -> None:
    """Reorder slices in place: at tens of millions of rows a second copy would be a gigabyte."""
    for field in fields(slices):
        column = getattr(slices, field.name)
        column[:] = column[order_Q]


def _bounds(
    offsets: Longs, times_ms_N: Longs, group_Q: Integers, time_ms_Q: Longs, max_seq_len: int
) -> tuple[Longs, Longs]:
    end = _first_at_or_after(offsets, times_ms_N, group_Q, time_ms_Q)
    return np.maximum(offsets[group_Q], end - max_seq_len), end


def _first_at_or_after(offsets: Longs, value_N: Longs, group_Q: Integers, value_Q: Longs) -> Longs:
    """Return the first position within each query's group whose value is not below the query's.

    Group and value are packed into one sorted key, so that one binary search answers all groups.
    """
    if len(value_N) == 0:
        return np.zeros(len(group_Q), dtype=np.int64)
    low = int(value_N.min())
    span = int(value_N.max()) - low + 1  # one more than any value: a query after everything
    bits = span.bit_length()
    num_groups = len(offsets) - 1
    if num_groups.bit_length() + bits > 63:
        raise OverflowError(f"{num_groups} groups over {span} milliseconds do not fit 63 bits")
    key_N = np.repeat(np.arange(num_groups, dtype=np.int64) << bits, np.diff(offsets))
    key_N += value_N
    key_N -= low
    key_Q = np.clip(value_Q, low, low + span) - low
    key_Q |= group_Q.astype(np.int64) << bits
    return np.searchsorted(key_N, key_Q, side="left")


def _multi_positions(histories: Histories, num_scenarios: int) -> Longs:
    """Return where each scenario-specific click stands in the multi-scenario order."""
    group_N = np.repeat(
        np.arange(len(histories.spec_offsets) - 1, dtype=np.int64), np.diff(histories.spec_offsets)
    )
    order_N = order_by(
        group_N // num_scenarios,
        histories.spec_times_ms,
        histories.spec_items,
        group_N % num_scenarios,
    )
    position_N = np.empty_like(order_N)
    position_N[order_N] = np.arange(len(order_N))
    return position_N
