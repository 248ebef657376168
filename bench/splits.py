"""Histories of 26 million clicks: seconds and peak memory, and the ratio to a pandas group-by.

Run ``python -m bench.splits`` (about a minute, 4 GB). ``--rows`` makes it smaller.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import pandas as pd

from bench.report import Result
from perscen.data.sequences import (
    Events,
    build_histories,
    order_by,
    reorder,
    slices_before,
)
from perscen.data.splits import Histories, Slices

NUM_USERS, NUM_ITEMS, NUM_SCENARIOS, DAYS, T = 1_140_000, 846_811, 4, 8, 50
TARGET = 5.0


def make_events(rows: int, *, num_users: int, seed: int = 0) -> Events:
    """Return clicks in log order: day after day, unordered within the day."""
    rng = np.random.default_rng(seed)
    day = np.sort(rng.integers(0, DAYS, rows, dtype=np.int8))
    time_ms = rng.integers(0, 86_400, rows) * 1_000
    time_ms += day.astype(np.int64) * 86_400_000
    return Events(
        user=(rng.beta(1, 3, rows) * num_users).astype(np.int32),
        item=rng.integers(0, NUM_ITEMS, rows, dtype=np.int32),
        scenario=rng.integers(0, NUM_SCENARIOS, rows, dtype=np.int32),
        time_ms=time_ms,
        clicked=np.ones(rows, dtype=np.bool_),
    )


def build(events: Events, *, num_users: int) -> tuple[Histories, Slices]:
    """Return the flat arrays and every click's slices by time, as the split step makes them."""
    events = events.sorted()
    histories = build_histories(events, num_users=num_users, num_scenarios=NUM_SCENARIOS)
    slices = slices_before(
        histories,
        events.user,
        events.scenario,
        events.time_ms,
        max_seq_len=T,
        spec_seq_source="independent",
    )
    reorder(slices, order_by(events.time_ms))
    return histories, slices


def build_by_group(events: Events) -> int:
    """Return the number of history elements made the usual way: a group-by and a list per click."""
    frame = pd.DataFrame({name: getattr(events, name) for name in ("user", "item", "time_ms")})
    frame["scenario"] = events.scenario
    frame = frame.sort_values(["user", "time_ms"], kind="stable")
    total = 0
    for keys in (["user"], ["user", "scenario"]):
        for _, group in frame.groupby(keys, sort=False):
            items, times = group["item"].to_numpy(), group["time_ms"].to_numpy()
            for end in np.searchsorted(times, times, side="left"):
                total += len(items[max(0, end - T) : end].tolist())
    return total


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(*, rows: int = 26_000_000, small_rows: int = 1_400_000) -> list[Result]:
    """Print the table and return the ratio to the group-by."""
    events = make_events(rows, num_users=NUM_USERS)
    before, start = _peak_mb(), time.process_time()
    built = build(events, num_users=NUM_USERS)
    seconds = time.process_time() - start
    print(f"{rows:>12,} rows  {seconds:7.2f} CPU s  {_peak_mb():8,.0f} MB peak", end="  ")
    print(f"({before:,.0f} MB before)")
    del built, events

    num_users = 27_000
    events = make_events(small_rows, num_users=num_users)
    start = time.process_time()
    _, slices = build(events, num_users=num_users)
    ours = time.process_time() - start
    elements = int((slices.end - slices.start + slices.spec_end - slices.spec_start).sum())
    start = time.process_time()
    same = build_by_group(events)
    pandas_s = time.process_time() - start
    if same != elements:
        raise SystemExit(f"the two ways disagree: {elements:,} elements against {same:,}")
    print(f"{small_rows:>12,} rows  {ours:7.2f} CPU s  pandas {pandas_s:.2f} CPU s", end="  ")
    print(f"ratio {pandas_s / ours:.0f}x")
    return [Result("histories of every click, against pandas", pandas_s / ours, TARGET)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=26_000_000)
    parser.add_argument("--small-rows", type=int, default=1_400_000)
    run(**vars(parser.parse_args()))
