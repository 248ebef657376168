"""Histories against loops that are easy to believe, and against what the future must not change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perscen.data.sequences import (
    Events,
    build_histories,
    clicks_by_scenario,
    order_by,
    slices_before,
)
from perscen.data.splits import Histories, Slices

NUM_USERS, NUM_SCENARIOS = 4, 3
QUICK = settings(deadline=None, max_examples=25)

# Few users and moments, so that ties, empty histories and overlong ones all occur.
rows = st.tuples(
    st.integers(0, NUM_USERS - 1),
    st.integers(2, 9),
    st.integers(0, NUM_SCENARIOS - 1),
    st.integers(-3, 12),
    st.booleans(),
)
logs = st.lists(rows, max_size=60)
lengths = st.integers(1, 5)
sources = st.sampled_from(["independent", "filter_truncated"])
Log = list[tuple[int, int, int, int, bool]]


def events_of(log: Log) -> Events:
    columns = list(zip(*log, strict=True)) or [()] * 5
    kinds = (np.int32, np.int32, np.int32, np.int64, np.bool_)
    return Events(*(np.array(c, dtype=k) for c, k in zip(columns, kinds, strict=True)))


def histories_of(log: Log) -> Histories:
    return build_histories(
        events_of(log).sorted(), num_users=NUM_USERS, num_scenarios=NUM_SCENARIOS
    )


def cut(log: Log, time: int, longest: int, source: str) -> list[tuple[list[int], ...]]:
    """Return every (user, scenario)'s three histories at one time, as item lists."""
    histories = histories_of(log)
    user = np.repeat(np.arange(NUM_USERS, dtype=np.int32), NUM_SCENARIOS)
    scenario = np.tile(np.arange(NUM_SCENARIOS, dtype=np.int32), NUM_USERS)
    slices = slices_before(
        histories,
        user,
        scenario,
        np.full(len(user), time),
        max_seq_len=longest,
        spec_seq_source=source,
    )
    return [lists(histories, slices, q) for q in range(len(user))]


def lists(histories: Histories, slices: Slices, q: int) -> tuple[list[int], ...]:
    return (
        histories.items[slices.start[q] : slices.end[q]].tolist(),
        histories.spec_items[slices.spec_start[q] : slices.spec_end[q]].tolist(),
        histories.shown_items[slices.shown_start[q] : slices.shown_end[q]].tolist(),
    )


def naive(log: Log, time: int, longest: int, source: str) -> list[tuple[list[int], ...]]:
    """The same by loops over the log."""
    ordered = sorted(log, key=lambda row: (row[3], row[1], row[2]))
    found = []
    for user in range(NUM_USERS):
        before = [row for row in ordered if row[0] == user and row[3] < time]
        clicks = [row for row in before if row[4]]
        shown = [row[1] for row in before if not row[4]]
        pool = clicks if source == "independent" else clicks[-longest:]
        for scenario in range(NUM_SCENARIOS):
            spec = [row[1] for row in pool if row[2] == scenario]
            found.append(([row[1] for row in clicks][-longest:], spec[-longest:], shown[-longest:]))
    return found


@QUICK
@given(logs, st.integers(-5, 15), lengths, sources)
def test_histories_are_the_latest_events_strictly_before_as_loops_find_them(
    log, time, longest, source
):
    assert cut(log, time, longest, source) == naive(log, time, longest, source)


@QUICK
@given(logs, st.integers(-3, 12), lengths, sources, st.randoms(use_true_random=False), logs)
def test_nothing_at_or_after_the_time_changes_a_history(log, time, longest, source, random, other):
    past = [row for row in log if row[3] < time]
    future = [row for row in log + other if row[3] >= time]
    kept = [row for row in future if random.random() < 0.5]
    mixed = past + kept
    random.shuffle(mixed)

    assert cut(mixed, time, longest, source) == cut(past, time, longest, source)


@QUICK
@given(logs.filter(len), lengths)
def test_an_event_is_in_no_history_of_its_own_moment(log, longest):
    histories, events = histories_of(log), events_of(log)
    slices = slices_before(
        histories,
        events.user,
        events.scenario,
        events.time_ms,
        max_seq_len=longest,
        spec_seq_source="independent",
    )
    for q, time in enumerate(events.time_ms):
        assert (histories.times_ms[slices.start[q] : slices.end[q]] < time).all()
        assert (histories.spec_times_ms[slices.spec_start[q] : slices.spec_end[q]] < time).all()
        assert (histories.shown_times_ms[slices.shown_start[q] : slices.shown_end[q]] < time).all()


@QUICK
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 2**40)), max_size=40))
def test_order_by_is_a_stable_lexsort(pairs):
    first = np.array([a for a, _ in pairs], dtype=np.int32)
    second = np.array([b for _, b in pairs], dtype=np.int64)
    assert order_by(first, second).tolist() == np.lexsort((second, first)).tolist()


def test_order_by_sorts_values_too_wide_to_be_packed():
    wide = np.array([2**62, -(2**62), 0, 2**62], dtype=np.int64)
    assert order_by(wide).tolist() == [1, 2, 0, 3]


def test_a_range_of_times_too_wide_to_be_packed_is_refused():
    log: Log = [(0, 2, 0, -(2**61), True), (1, 2, 0, 2**61, True)]
    with pytest.raises(OverflowError, match="do not fit 63 bits"):
        cut(log, 0, 5, "independent")


@QUICK
@given(log=logs, time=st.integers(-4, 13), longest=lengths)
def test_clicks_of_every_scenario_are_those_each_scenario_would_be_asked_with(
    log: Log, time: int, longest: int
) -> None:
    histories = histories_of(log)
    user = np.arange(NUM_USERS, dtype=np.int32)
    slices = slices_before(
        histories,
        user,
        np.zeros_like(user),
        np.full(len(user), time),
        max_seq_len=longest,
        spec_seq_source="independent",
    )
    start, end = clicks_by_scenario(histories, user, slices.start, slices.end, max_seq_len=longest)
    found = [histories.spec_items[a:b].tolist() for a, b in zip(start, end, strict=True)]
    assert found == [spec for _, spec, _ in cut(log, time, longest, "independent")]
