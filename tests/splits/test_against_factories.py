"""The splits of a random log equal those made by plain loops."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from perscen.data.splits import Splits
from perscen.schema import FIRST_ROW
from tests.factories import Event, make_splits
from tests.splits.clean_logs import (
    DAY,
    at,
    click,
    config_of,
    day,
    items_table,
    split_dir,
    users_table,
    write_clean_log,
)

NUM_USERS, NUM_ITEMS, NUM_SCENARIOS = 12, 9, 3


def random_events(seed: int) -> list[Event]:
    """Return events over 6 days on a coarse clock, so that many happen at the same moment."""
    rng = np.random.default_rng(seed)
    events = [
        Event(
            user=int(rng.integers(NUM_USERS)) + FIRST_ROW,
            item=int(rng.integers(NUM_ITEMS)) + FIRST_ROW,
            scenario=int(rng.choice(NUM_SCENARIOS, p=(0.6, 0.25, 0.15))),
            time_ms=at(0, 0) + int(rng.integers(6 * 24)) * DAY // 24,
            clicked=bool(rng.random() < 0.6),
        )
        for _ in range(500)
    ]
    return sorted(events, key=lambda e: (e.time_ms, e.item, e.scenario))


@pytest.fixture(params=[0, 1])
def pair(request, tmp_path) -> tuple[Splits, Splits]:
    """Return our splits and the naive ones of the same log."""
    events = random_events(request.param)
    rows = [
        click(
            f"u{e.user - FIRST_ROW}",
            f"v{e.item - FIRST_ROW}",
            f"s{e.scenario}",
            e.time_ms,
            clicked=e.clicked,
        )
        for e in events
    ]
    directory = write_clean_log(
        tmp_path / "clean",
        rows,
        users=users_table([f"u{n}" for n in range(NUM_USERS)]),
        items=items_table([f"v{n}" for n in range(NUM_ITEMS)]),
    )
    config = config_of(num_scenarios=NUM_SCENARIOS, max_seq_len=5, min_interactions=1)
    ours, _ = split_dir(directory, config, logical_date=day(5))
    naive = make_splits(
        events,
        valid_from_ms=at(4, 0),
        test_from_ms=at(5, 0),
        num_users=NUM_USERS,
        num_items=NUM_ITEMS,
        num_scenarios=NUM_SCENARIOS,
        max_seq_len=5,
    )
    assert ours.schema.scenarios == ("s0", "s1", "s2")
    return ours, naive


@pytest.mark.parametrize("part", ["histories", "train", "valid", "test", "impressions"])
def test_the_columns_are_those_that_loops_make(pair, part):
    ours, naive = (getattr(splits, part) for splits in pair)
    for name, column in vars(naive).items():
        np.testing.assert_array_equal(getattr(ours, name), column, err_msg=name)
        assert getattr(ours, name).dtype.kind == column.dtype.kind


@pytest.mark.parametrize("part", ["train_slices", "valid_slices", "test_slices", "served"])
def test_the_slices_hold_what_loops_find(pair, part):
    ours, naive = (getattr(splits, part) for splits in pair)
    for kind in ("", "spec_", "shown_"):
        ours_end, naive_end = getattr(ours, f"{kind}end"), getattr(naive, f"{kind}end")
        length = ours_end - getattr(ours, f"{kind}start")
        np.testing.assert_array_equal(length, naive_end - getattr(naive, f"{kind}start"))
        # Where an empty slice lies has no meaning.
        np.testing.assert_array_equal(ours_end[length > 0], naive_end[length > 0])


def test_saved_splits_come_back(pair, tmp_path):
    ours, _ = pair
    ours.save(tmp_path / "splits")
    again = Splits.open(tmp_path / "splits")
    assert (again.schema, again.scalers) == (ours.schema, ours.scalers)
    assert again.vocabularies == ours.vocabularies
    np.testing.assert_array_equal(again.items.bags[0].values, ours.items.bags[0].values)
    assert pa.array(again.users.ids).to_pylist()[:3] == ["", "", "u0"]
