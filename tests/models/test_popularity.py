"""The popularity prior: what it counts, for whom, and that no click is evidence of itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from perscen.data.batches import UserSource
from perscen.data.splits import Impressions, Splits
from perscen.models.perscen import Perscen
from perscen.models.popularity import (
    HALF_LIFE_DAYS,
    NUM_CELLS,
    PRIOR_CLICKS,
    SHOWN_WORTH,
    UNIFORM_CLICKS,
    PopularityPrior,
    log_popularity,
)
from perscen.schema import FIRST_ROW
from perscen.training.losses import Objective
from tests.factories import Event, make_splits, random_splits
from tests.models.test_options import config
from tests.training.towers import quick

DAY = 86_400_000
NUM_ITEMS = 10


def by_taste(num_users: int = 60) -> Splits:
    """Users of an even group like even items, those of an odd group odd ones."""
    rng = np.random.default_rng(0)
    nobody = make_splits(
        [], valid_from_ms=1, test_from_ms=2, num_users=num_users, num_items=NUM_ITEMS
    )
    group = nobody.users.categorical_RF[:, 1]
    events = []
    for user in range(FIRST_ROW, num_users + FIRST_ROW):
        for _ in range(12):
            item = 2 * int(rng.integers(NUM_ITEMS // 2)) + int(group[user]) % 2 + FIRST_ROW
            scenario, time = int(rng.integers(2)), int(rng.integers(8 * DAY))
            events.append(Event(user, item, scenario, time, clicked=bool(rng.random() < 0.6)))
    return make_splits(
        events,
        valid_from_ms=6 * DAY,
        test_from_ms=7 * DAY,
        num_users=num_users,
        num_items=NUM_ITEMS,
    )


def started(splits: Splits, *, segments: bool = True) -> PopularityPrior:
    prior = PopularityPrior(splits.schema, segments=segments)
    prior.start_from(splits)
    return prior


def without(splits: Splits, row: int) -> Splits:
    """The splits as if one impression of the training window had not been."""
    rows = splits.impressions
    columns = {
        name: np.delete(getattr(rows, name), row)
        for name in ("user", "item", "scenario", "clicked", "time_ms")
    }
    return replace(splits, impressions=Impressions(user_offsets=rows.user_offsets, **columns))


def shares_by_hand(splits: Splits, scenario: int) -> np.ndarray:
    """Log shares of a scenario, impression by impression."""
    rows, num_rows = splits.impressions, splits.schema.num_item_rows
    everywhere, here = np.full(num_rows, UNIFORM_CLICKS), np.zeros(num_rows)
    for item, where, clicked, time in zip(
        rows.item, rows.scenario, rows.clicked, rows.time_ms, strict=True
    ):
        age = (rows.time_ms.max() - time) / DAY
        worth = (1.0 if clicked else SHOWN_WORTH) * 0.5 ** (age / HALF_LIFE_DAYS)
        everywhere[item] += worth
        here[item] += worth * (where == scenario)
    shrunk = here + PRIOR_CLICKS * everywhere / everywhere.sum()
    return np.log(shrunk / shrunk.sum() * num_rows)


def test_a_scenario_counts_its_impressions_at_their_worth_shrunk_towards_all_scenarios() -> None:
    splits = random_splits(num_items=200)
    prior = started(splits, segments=False)
    for scenario in range(2):
        expected = shares_by_hand(splits, scenario)
        found = prior.log_share_RSK[:, scenario, 0]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(log_popularity(splits)[:, scenario], found)


def test_a_user_gets_the_shares_of_those_like_him_and_a_stranger_those_of_the_scenario() -> None:
    splits = by_taste()
    prior, plain = started(splits), started(splits, segments=False)
    users = UserSource(splits).batch(
        splits.train.user,
        splits.train.scenario,
        splits.train_slices,
        np.arange(len(splits.train.user)),
    )
    in_cell = prior.user(users.categorical_BF)
    assert (in_cell.sum(dim=1) == 1).all()
    assert (in_cell[:, 0] == 0).all(), "every group has clicks, so every user has a cell"
    items, scenario = torch.arange(NUM_ITEMS) + FIRST_ROW, torch.zeros(NUM_ITEMS, dtype=torch.long)
    scores = in_cell @ prior.item(items, scenario).T
    odd = users.categorical_BF[:, 1] % 2 == 1
    odd_items = items % 2 == 1
    assert (scores[odd][:, odd_items].amin(dim=1) > scores[odd][:, ~odd_items].amax(dim=1)).all()
    assert (scores[~odd][:, odd_items].amax(dim=1) < scores[~odd][:, ~odd_items].amin(dim=1)).all()
    stranger = torch.full((1, 2), 99)
    assert prior.user(stranger).tolist() == [[1.0] + [0.0] * (NUM_CELLS - 1)]
    of_all = prior.item(items, scenario)[:, 0]
    torch.testing.assert_close(of_all, plain.item(items, scenario)[:, 0])


def test_without_a_column_that_predicts_anything_all_users_are_alike() -> None:
    splits = random_splits()
    alike = replace(
        splits,
        users=replace(splits.users, categorical_RF=np.zeros_like(splits.users.categorical_RF)),
    )
    prior = started(alike)
    assert prior.user(torch.zeros(3, 2, dtype=torch.long))[:, 0].tolist() == [1.0] * 3


@pytest.mark.parametrize("segments", [False, True])
def test_the_own_contribution_is_what_leaving_the_impression_out_takes_away(segments: bool) -> None:
    splits = by_taste()
    prior, rows = started(splits, segments=segments), splits.impressions
    own = prior.own_contribution(rows)
    assert (own > 0).all()
    newest = int(np.argmax(rows.time_ms))  # without it all others would count as younger
    for row in [r for r in (0, 7, 40, 123, 250) if r != newest]:
        counted = prior._popularity
        assert counted is not None
        fewer_counts = (
            type(counted)
            .of(without(splits, row), counted.cell_U, counted.strength_S, num_cells=prior.num_cells)
            .log_shares()
        )
        cell = counted.cell_U[rows.user[row]]
        before = prior.log_share_RSK[rows.item[row], rows.scenario[row], cell].item()
        after = fewer_counts[cell, rows.scenario[row], rows.item[row]]
        assert own[row] == pytest.approx(before - after, abs=1e-5)


def test_nothing_trains_the_prior() -> None:
    splits = by_taste()
    model = Perscen(splits.schema, config(item_bias="segments"))
    model.start_from(splits)
    assert not any("prior" in name for name, _ in model.named_parameters())
    assert model.dim == model.config.out_dim + NUM_CELLS


def test_training_predicts_a_click_without_its_own_count() -> None:
    splits = by_taste()
    torch.manual_seed(0)
    model = Perscen(splits.schema, config(item_bias="segments")).eval()
    model.start_from(splits)
    objective = Objective(model, splits, quick(loss="full_softmax"), device=torch.device("cpu"))
    row = np.array([5])
    found = objective(row, epoch=1, step=0).task_B
    seen = objective.rows.seen
    users = UserSource(splits).batch(seen.user, seen.scenario, objective.rows.slices, row)
    items = torch.arange(splits.schema.num_item_rows - FIRST_ROW)
    here = torch.full_like(items, int(seen.scenario[5]))
    logits = (
        model.encode_users(users).vectors_BG
        @ model.encode_items(objective._catalogue, items, here).T
    )
    target = int(seen.item[5]) - FIRST_ROW
    logits[0, target] -= model.own_contribution(seen)[5]
    expected = torch.logsumexp(logits[0], 0) - logits[0, target]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
