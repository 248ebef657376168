"""Negatives: how many, which never, how even, and that they follow from the seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from perscen.config import NegativesConfig, parse_config
from perscen.data.sampling import CatalogueSampler, NegativeSampler
from perscen.data.splits import Rows
from perscen.errors import ConfigError
from perscen.schema import FIRST_ROW

NUM_ITEM_ROWS = 12 + FIRST_ROW


def rows(pairs: list[tuple[int, int]]) -> Rows:
    users, items = np.array(pairs, dtype=np.int32).T
    return Rows(users, items, np.zeros_like(users), np.arange(len(pairs), dtype=np.int64))


def sampler(train: Rows, *, seed: int = 0, **config: object) -> NegativeSampler:
    settings = NegativesConfig.model_validate({"n": 7} | config)
    return NegativeSampler(train, num_item_rows=NUM_ITEM_ROWS, config=settings, seed=seed)


clicks = st.lists(st.tuples(st.integers(2, 5), st.integers(2, 9)), min_size=3, max_size=30)


@settings(deadline=None, max_examples=25)
@given(
    pairs=clicks,
    exclude=st.sampled_from(["none", "positive", "user_history"]),
    resample=st.sampled_from(["step", "epoch", "once"]),
    seed=st.integers(0, 99),
)
def test_negatives_are_n_catalogue_items_without_the_excluded(pairs, exclude, resample, seed):
    train = rows(pairs)
    which = np.arange(len(pairs))[::-1].copy()
    drawn = sampler(train, exclude=exclude, resample=resample, seed=seed).draw(
        which, epoch=1, step=0
    )
    assert drawn.shape == (len(pairs), 7)
    assert drawn.min() >= FIRST_ROW
    assert drawn.max() < NUM_ITEM_ROWS
    for row, negatives in zip(which, drawn, strict=True):
        user, item = pairs[row]
        mine = {i for u, i in pairs if u == user}
        never = {"none": set(), "positive": {item}, "user_history": mine}[exclude]
        assert not never & set(negatives.tolist())


@pytest.mark.parametrize(
    ("exclude", "allowed"),
    [
        ("none", range(2, 14)),
        ("positive", [2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13]),
        ("user_history", [3, 4, 6, 7, 8, 9, 10, 11, 12]),
    ],
)
def test_every_allowed_item_is_equally_likely(exclude, allowed):
    train = rows([(2, 5), (2, 2), (2, 13), (3, 7)])
    drawn = sampler(train, n=1, exclude=exclude).draw(np.zeros(20_000, np.int64), epoch=1, step=0)
    counts = np.bincount(drawn.ravel(), minlength=NUM_ITEM_ROWS)
    assert set(np.flatnonzero(counts)) == set(allowed)
    assert chisquare(counts[list(allowed)]).pvalue > 1e-3


def test_the_pool_of_train_items_holds_clicked_items_alone():
    train = rows([(2, 5), (2, 9), (3, 11), (3, 5)])
    drawn = sampler(train, pool="train_items").draw(np.zeros(100, np.int64), epoch=1, step=0)
    assert set(drawn.ravel().tolist()) == {9, 11}


@pytest.mark.parametrize(
    ("resample", "new_per_step", "new_per_epoch"),
    [("step", True, True), ("epoch", False, True), ("once", False, False)],
)
def test_negatives_are_redrawn_as_often_as_asked(resample, new_per_step, new_per_epoch):
    train = rows([(2, 5), (2, 9), (3, 11)])
    which = np.array([2, 0])

    def draw(*, epoch: int = 1, step: int = 0, seed: int = 0) -> list[list[int]]:
        fresh = sampler(train, resample=resample, seed=seed, n=20)
        return fresh.draw(which, epoch=epoch, step=step).tolist()

    assert draw() == draw()
    assert (draw() != draw(step=1)) is new_per_step
    assert (draw() != draw(epoch=2)) is new_per_epoch
    assert draw() != draw(seed=1)


@pytest.mark.parametrize(
    "config", [{"exclude": "user_history", "pool": "train_items"}, {"exclude": "positive"}]
)
def test_a_row_without_any_negative_left_is_a_config_error(config):
    train = rows([(2, 2), (2, 2)])
    with pytest.raises(ConfigError, match="has no negative left in the pool"):
        NegativeSampler(
            train, num_item_rows=3, config=NegativesConfig.model_validate(config), seed=0
        )


@pytest.mark.parametrize("setting", ["pool: train_items", "exclude: user_history"])
def test_models_of_one_scenario_each_draw_by_no_other_scenarios_clicks(setting):
    name, value = setting.split(": ")
    tree = {
        "run": {"logical_date": "2024-01-01"},
        "split": {"train_days": 1, "valid_days": 1, "test_days": 1},
        "model": {"family": "dssm", "form": "single"},
        "train": {"neg": {name: value}},
    }
    with pytest.raises(
        ConfigError, match=rf"train\.neg\.{setting} has no meaning with model\.form"
    ):
        parse_config(tree, origin="here")
    assert parse_config(tree | {"model": {"family": "dssm"}}, origin="here").train.neg.n == 10


@settings(deadline=None, max_examples=50)
@given(
    counts=st.lists(st.integers(0, 1000), min_size=2, max_size=40),
    part=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
def test_a_sample_of_the_catalogue_has_its_size_and_no_item_twice(counts, part, seed):
    size = max(1, int(part * len(counts)))
    item = np.repeat(np.arange(len(counts)), counts).astype(np.int32) + FIRST_ROW
    sampler = CatalogueSampler(
        item,
        np.zeros_like(item),
        np.ones(len(item)),
        num_item_rows=len(counts) + FIRST_ROW,
        num_scenarios=1,
        size=size,
        seed=seed,
    )
    for step in range(5):
        items, log_chance = sampler.draw(0, epoch=1, step=step)
        assert len(items) == len(log_chance) == size
        assert (np.diff(items) > 0).all()
        assert FIRST_ROW <= items[0] <= items[-1] < len(counts) + FIRST_ROW
        assert (log_chance <= 0).all()


def test_popular_items_are_drawn_as_often_as_their_chance_says():
    counts = np.array([5000, 300, 100, 10, 0, 0, 0, 0])
    item = np.repeat(np.arange(8), counts).astype(np.int32) + FIRST_ROW
    scenario = np.ones_like(item)  # in scenario 0 nothing was seen: all are alike there
    sampler = CatalogueSampler(
        item, scenario, np.ones(len(item)), num_item_rows=10, num_scenarios=2, size=3, seed=0
    )
    for number, popular in ((0, False), (1, True)):
        drawn, chance = np.zeros(8), np.zeros(8)
        for step in range(4000):
            items, log_chance = sampler.draw(number, epoch=1, step=step)
            drawn[items - FIRST_ROW] += 1
            chance[items - FIRST_ROW] = np.exp(log_chance)
        assert np.isclose(chance.sum(), 3)
        assert np.abs(drawn / 4000 - chance).max() < 0.04
        assert (chance[0] == 1) == popular
        assert popular == (chance[1] > chance[7])
