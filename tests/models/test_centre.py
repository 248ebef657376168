"""A centred start: what users, and items, have in common is off their vectors from the outset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from perscen.data.batches import UserBatch
from perscen.data.splits import Splits
from perscen.models import centre
from perscen.models.perscen import Perscen
from tests.factories import random_splits
from tests.models.contract import item_vectors, train_users
from tests.models.test_options import config


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def splits() -> Splits:
    return random_splits(num_users=60, num_scenarios=3)


def started(splits: Splits, **choices: Any) -> Perscen:
    torch.manual_seed(0)
    model = Perscen(splits.schema, config(**choices))
    model.start_from(splits)
    return model.eval()


def user_vectors(model: Perscen, users: UserBatch) -> Tensor:
    return model.encode_users(users).vectors_BG


def likeness(vectors_PG: Tensor) -> float:
    """Return the mean cosine of two different rows."""
    unit_PG = F.normalize(vectors_PG, dim=1)
    cosines_PP = unit_PG @ unit_PG.T
    return float(cosines_PP[~torch.eye(len(unit_PG), dtype=torch.bool)].mean())


def test_users_and_items_are_told_apart_from_the_start_in_every_scenario(splits: Splits) -> None:
    users = train_users(splits)
    plain, centred = started(splits, score="cosine"), started(splits, score="cosine", centred=True)
    for scenario in range(3):
        own_B = users.scenario_B == scenario
        assert likeness(user_vectors(plain, users)[own_B]) > 0.5
        assert likeness(user_vectors(centred, users)[own_B]) < 0.3
        assert likeness(item_vectors(plain, splits)[scenario]) > 0.5
        assert likeness(item_vectors(centred, splits)[scenario]) < 0.3


def test_a_centre_is_the_mean_of_its_scenario(splits: Splits) -> None:
    users = train_users(splits)
    model = started(splits, centred=True)
    for scenario in range(3):
        mean_G = user_vectors(model, users)[users.scenario_B == scenario].mean(dim=0)
        torch.testing.assert_close(mean_G, torch.zeros_like(mean_G))
    means_SG = item_vectors(model, splits).mean(dim=1)
    torch.testing.assert_close(means_SG, torch.zeros_like(means_SG))


def test_items_that_know_no_scenario_have_one_centre_and_one_vector(splits: Splits) -> None:
    model = started(splits, **{"centred": True, "item_tower.scenario_aware": False})
    first_MG, *others_MG = item_vectors(model, splits)
    torch.testing.assert_close(first_MG.mean(dim=0), torch.zeros(first_MG.shape[1]))
    for other_MG in others_MG:
        torch.testing.assert_close(other_MG, first_MG)


def test_a_scenario_without_clicks_has_the_centre_of_all(splits: Splits) -> None:
    schema = splits.schema.model_copy(update={"scenarios": (*splits.schema.scenarios, "new")})
    torch.manual_seed(0)
    model = Perscen(schema, config(centred=True))
    vectors_PG, scenario_P = torch.randn(30, 6), torch.arange(30) % 3
    assert model.user_centre is not None
    model.user_centre.measure(vectors_PG, scenario_P)
    torch.testing.assert_close(model.user_centre.mean_SG[3], vectors_PG.mean(dim=0))
    torch.testing.assert_close(model.user_centre.mean_SG[1], vectors_PG[1::3].mean(dim=0))


def test_a_sample_is_enough_and_always_the_same(splits: Splits, monkeypatch) -> None:
    monkeypatch.setattr(centre, "SAMPLE", 20)
    counts = centre.sample_users(splits).scenario_B.bincount()
    assert counts.tolist() == [20, 20, 20]
    assert len(centre.sample_items(splits).rows_B) == 20
    one, other = started(splits, centred=True), started(splits, centred=True)
    assert torch.equal(one.user_centre.mean_SG, other.user_centre.mean_SG)
    assert likeness(user_vectors(one, train_users(splits))) < 0.3


def test_measuring_leaves_mode_and_draws_alone(splits: Splits) -> None:
    torch.manual_seed(0)
    model = Perscen(splits.schema, config(centred=True, dropout=0.5))
    before = torch.get_rng_state()
    model.start_from(splits)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
