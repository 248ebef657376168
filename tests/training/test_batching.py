"""Every training row once per epoch, in an order that follows from (seed, epoch)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perscen.errors import ConfigError
from perscen.training import batching
from tests.training.towers import quick


def plan_batches(scenario_E, *, config, epoch):
    """Plan for rows that are all clicks."""
    rows = np.arange(len(scenario_E))
    return batching.plan_batches(
        scenario_E, positives=rows, shown=rows[:0], config=config, epoch=epoch
    )


@settings(deadline=None, max_examples=25)
@given(
    scenarios=st.lists(st.integers(0, 3), min_size=1, max_size=80),
    size=st.integers(1, 20),
    by_scenario=st.booleans(),
)
def test_every_row_is_in_exactly_one_batch_and_batches_are_even(scenarios, size, by_scenario):
    scenario_E = np.array(scenarios, dtype=np.int32)
    config = quick(batch={"size": size, "unit": "positives", "by_scenario": by_scenario})
    batches = plan_batches(scenario_E, config=config, epoch=1)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(scenarios)))
    for name in set(scenarios) if by_scenario else [None]:
        group = [b for b in batches if name is None or (scenario_E[b] == name).any()]
        assert all(name is None or (scenario_E[b] == name).all() for b in group)
        lengths = [len(b) for b in group]
        assert max(lengths) <= size
        assert max(lengths) - min(lengths) <= 1


def test_the_order_follows_from_seed_and_epoch():
    scenario_E = np.repeat(np.arange(3, dtype=np.int32), 50)

    def order(**changes):
        epoch = changes.pop("epoch", 1)
        batch = {"size": 10, "unit": "positives", "by_scenario": True}
        plan = plan_batches(scenario_E, config=quick(batch=batch, **changes), epoch=epoch)
        return np.concatenate(plan).tolist()

    assert order() == order()
    assert order() != order(epoch=2)
    assert order() != order(seed=1)
    starts = [scenario_E[row] for row in order()[::10]]
    assert starts != sorted(starts), "the scenarios are not taken one after the other"


def test_pairs_count_a_positive_with_its_negatives():
    config = quick(batch={"size": 4096, "unit": "pairs"}, neg={"n": 10})
    batches = plan_batches(np.zeros(372 * 3, dtype=np.int32), config=config, epoch=1)
    assert [len(batch) for batch in batches] == [372] * 3


def test_a_batch_with_no_room_for_one_positive_is_a_config_error():
    config = quick(batch={"size": 10, "unit": "pairs"}, neg={"n": 10})
    with pytest.raises(ConfigError, match="10 pairs have no room for one positive with its 10"):
        plan_batches(np.zeros(5, dtype=np.int32), config=config, epoch=1)


def test_of_the_rows_without_a_click_an_epoch_draws_as_many_as_allowed_anew():
    scenario_E = np.repeat(np.arange(2, dtype=np.int32), 50)
    config = quick(batch={"size": 10, "unit": "positives"}, shown={"weight": 0.5, "per_click": 1.5})

    def drawn(epoch):
        rows = np.arange(len(scenario_E))
        plan = batching.plan_batches(
            scenario_E, positives=rows[:20], shown=rows[20:], config=config, epoch=epoch
        )
        rows = np.sort(np.concatenate(plan)).tolist()
        assert rows[:20] == list(range(20)), "every click comes once"
        return rows[20:]

    assert len(drawn(1)) == len(set(drawn(1))) == 30
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
