"""Training rows: clicks first, then what else was shown, each with the past it had."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from perscen.config import ShownConfig
from perscen.training.losses import Objective
from perscen.training.rows import TrainingRows
from tests.factories import random_splits
from tests.training.towers import quick, tiny


def test_clicks_alone_are_the_rows_of_the_splits() -> None:
    splits = random_splits()
    rows = TrainingRows.of(splits, ShownConfig())
    assert rows.num_clicks == len(rows.seen.item) == len(splits.train.item)
    assert np.array_equal(rows.seen.item, splits.train.item)
    assert np.array_equal(rows.slices.spec_end, splits.train_slices.spec_end)
    assert (rows.weight_E == 1).all()


def test_shown_rows_follow_with_their_weight_and_nothing_but_their_past() -> None:
    splits = random_splits()
    rows = TrainingRows.of(splits, ShownConfig(weight=0.25))
    shown = ~splits.impressions.clicked
    assert rows.num_clicks == len(splits.train.item)
    assert np.array_equal(rows.seen.item[rows.num_clicks :], splits.impressions.item[shown])
    assert (rows.weight_E[rows.num_clicks :] == 0.25).all()
    past = splits.histories
    for row in range(rows.num_clicks, len(rows.seen.item)):
        user, time = rows.seen.user[row], rows.seen.time_ms[row]
        clicks = slice(past.user_offsets[user], past.user_offsets[user + 1])
        before = past.times_ms[clicks] < time
        expected = past.items[clicks][before][-splits.schema.max_seq_len :]
        found = past.items[rows.slices.start[row] : rows.slices.end[row]]
        assert found.tolist() == expected.tolist()
        unclicked = past.shown_times_ms[rows.slices.shown_start[row] : rows.slices.shown_end[row]]
        assert (unclicked < time).all()


def test_shown_rows_have_the_kind_of_scenario_history_that_clicks_have() -> None:
    splits = random_splits(num_users=6, num_items=20, per_user=40, max_seq_len=3)
    schema = splits.schema.model_copy(update={"spec_seq_source": "filter_truncated"})
    rows = TrainingRows.of(replace(splits, schema=schema), ShownConfig(weight=0.5))
    shown, past = slice(rows.num_clicks, None), splits.histories
    lengths = (rows.slices.spec_end - rows.slices.spec_start)[shown]
    assert lengths.max() > 1
    for row in range(rows.num_clicks, len(rows.seen.item)):
        of_all = past.times_ms[rows.slices.start[row] : rows.slices.end[row]]
        own = past.spec_times_ms[rows.slices.spec_start[row] : rows.slices.spec_end[row]]
        assert set(own) <= set(of_all)


def test_a_row_of_half_the_weight_moves_the_loss_half_as_much() -> None:
    splits = random_splits()
    model = tiny(splits).eval()
    config = quick(loss="full_softmax", shown={"weight": 0.5})
    objective = Objective(model, splits, config, device=torch.device("cpu"))
    both = np.array([0, objective.rows.num_clicks])
    plain = [objective(both[[i]], epoch=1, step=0).task_B.item() for i in range(2)]
    total = objective(both, epoch=1, step=0)
    auxiliary = total.auxiliary.item()
    assert np.isclose(total.total.item() - auxiliary, (plain[0] + 0.5 * plain[1]) / 1.5, rtol=1e-5)
