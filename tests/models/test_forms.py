"""DSSM and YoutubeDNN in both forms: one model for all scenarios, or one for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from perscen.data.splits import Splits
from perscen.errors import ConfigError
from perscen.models.config import DssmConfig, YoutubeDnnConfig
from perscen.models.dssm import Dssm
from perscen.models.forms import Formed
from perscen.models.two_tower import TwoTower
from perscen.models.warm_start import warm_start_from
from perscen.models.youtube_dnn import YoutubeDnn
from perscen.schema import Schema
from tests.factories import make_splits, random_events, random_splits
from tests.models.contract import RetrieverContract, item_vectors, train, train_users

pytestmark = pytest.mark.medium  # each is quick, all together are not

EMB = {"dim": 8, "init_std": 0.3}
SHIPPED = {
    "score": "cosine",
    "temperature": 0.1,
    "learn_temperature": True,
    "item_bias": "popularity",
    "shown_sequence": True,
    "exclude_fields": ("user_id",),
}
"""The settings that are no family's own, as the best recipe has them, but for dropout."""
SHIPPED_SINGLE = SHIPPED | {"shown_sequence": False}
"""The same for models of one scenario each: what was shown is not told apart by scenario."""


def dssm(schema: Schema, **choices: Any) -> Dssm:
    return Dssm(schema, DssmConfig.model_validate({"emb": EMB, "widths": (32, 16)} | choices))


def youtube_dnn(schema: Schema, **choices: Any) -> YoutubeDnn:
    return YoutubeDnn(
        schema, YoutubeDnnConfig.model_validate({"emb": EMB, "widths": (32,)} | choices)
    )


class TestDssm(RetrieverContract):
    def make(self, schema: Schema) -> TwoTower:
        return dssm(schema)


class TestDssmWithEveryInput(RetrieverContract):
    """The scenario on both sides, its own clicks, and what the best recipe adds."""

    def make(self, schema: Schema) -> TwoTower:
        return dssm(
            schema, **SHIPPED | {"exclude_fields": ()}, item_scenario=True, use_spec_sequence=True
        )


class TestDssmPerScenario(RetrieverContract):
    lr, steps = 0.03, 30

    def make(self, schema: Schema) -> TwoTower:
        return dssm(schema, form="single", **SHIPPED_SINGLE)


class TestYoutubeDnn(RetrieverContract):
    lr = 0.03

    def make(self, schema: Schema) -> TwoTower:
        return youtube_dnn(schema)


class TestYoutubeDnnPerScenario(RetrieverContract):
    lr = 0.03

    def make(self, schema: Schema) -> TwoTower:
        return youtube_dnn(schema, form="single")


Make = Callable[..., Formed]
BOTH = pytest.mark.parametrize("make", [dssm, youtube_dnn])


def only_scenario(splits: Splits, scenario: int) -> Splits:
    """Return the splits with the training rows of one scenario alone."""
    own = splits.train.scenario == scenario
    columns = {n: getattr(splits.train, n)[own] for n in ("user", "item", "scenario", "time_ms")}
    slices = splits.train_slices
    return replace(
        splits,
        train=replace(splits.train, **columns),
        train_slices=replace(slices, **{n: getattr(slices, n)[own] for n in vars(slices)}),
    )


@BOTH
def test_models_of_one_scenario_share_no_parameter_and_stay_as_they_are_when_another_trains(
    make: Make,
) -> None:
    splits = random_splits()
    model = make(splits.schema, form="single")
    before = item_vectors(model, splits)
    train(model, only_scenario(splits, 0), steps=2, lr=0.01)
    after = item_vectors(model, splits)
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1], before[1])
    assert all(name.startswith("members.") for name, _ in model.named_parameters())


@BOTH
@pytest.mark.parametrize("item_bias", ["popularity", "segments"])
def test_a_model_of_one_scenario_is_the_same_whatever_happens_in_the_others(
    make: Make, item_bias: str
) -> None:
    events = random_events(num_users=12, num_items=20, num_scenarios=2, per_user=24, days=8)
    others = [
        replace(e, item=(e.item + 5) % 20 + 2, clicked=not e.clicked) if e.scenario else e
        for e in events
    ]
    vectors = []
    for log in (events, others):
        splits = make_splits(
            log,
            valid_from_ms=6 * 86_400_000,
            test_from_ms=7 * 86_400_000,
            num_users=12,
            num_items=20,
        )
        torch.manual_seed(0)
        model = make(splits.schema, form="single", **SHIPPED_SINGLE | {"item_bias": item_bias})
        mine = only_scenario(splits, 0)
        train(model, mine, steps=2, lr=0.01)
        vectors.append(
            (model.encode_users(train_users(mine)).vectors_BG, item_vectors(model, splits)[0])
        )
    (users, items), (same_users, same_items) = vectors
    assert torch.equal(users, same_users)
    assert torch.equal(items, same_items)


def test_items_are_the_same_in_all_scenarios_unless_the_item_tower_is_told() -> None:
    splits = random_splits()
    for model in (dssm(splits.schema), youtube_dnn(splits.schema)):
        vectors = item_vectors(model, splits)
        assert torch.equal(vectors[0], vectors[1])
    told = item_vectors(dssm(splits.schema, item_scenario=True), splits)
    assert not torch.allclose(told[0], told[1])


@BOTH
def test_what_a_form_does_not_use_has_no_weights(make: Make) -> None:
    schema = random_splits().schema
    plain = {n: p.numel() for n, p in make(schema).named_parameters()}
    single = {n: p.numel() for n, p in make(schema, form="single").named_parameters()}
    assert not any("scenario" in name for name in single)
    with_clicks = {n: p.numel() for n, p in make(schema, use_spec_sequence=True).named_parameters()}
    grown = {n for n in plain if with_clicks[n] != plain[n]}
    assert with_clicks.keys() == plain.keys()
    assert grown == {"shared.user_tower.first.weight"}


@BOTH
@pytest.mark.parametrize("name", ["use_spec_sequence", "shown_sequence"])
def test_one_models_options_are_refused_in_the_other_form(make: Make, name: str) -> None:
    match = f"{name} has no meaning with form: single, so set it to false: "
    with pytest.raises(ValueError, match=match):
        make(random_splits().schema, form="single", **{name: True})


@BOTH
def test_a_model_of_one_scenario_is_given_that_scenarios_impressions_in_order(make: Make) -> None:
    splits, given = random_splits(), []
    model = make(splits.schema, form="single")
    model.members[1].start_from = given.append
    model.start_from(splits)
    whole, own = splits.impressions, given[0].impressions
    assert not own.scenario.any()
    for user in range(len(splits.users.ids)):
        here = slice(whole.user_offsets[user], whole.user_offsets[user + 1])
        mine = slice(own.user_offsets[user], own.user_offsets[user + 1])
        assert (own.user[mine] == user).all()
        assert own.item[mine].tolist() == whole.item[here][whole.scenario[here] == 1].tolist()


def test_a_field_that_the_data_do_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="'user_idd' is not a field"):
        dssm(random_splits().schema, exclude_fields=("user_idd",))


@BOTH
def test_a_warm_start_finds_each_scenarios_model_where_it_is_now(make: Make) -> None:
    splits = random_splits(num_scenarios=3)
    torch.manual_seed(0)
    old = make(splits.schema, form="single", item_bias="popularity")
    moved = splits.schema.model_copy(update={"scenarios": ("s2", "new", "s0")})
    new = make(moved, form="single", item_bias="popularity")
    before = {name: weight.clone() for name, weight in new.state_dict().items()}
    warm_start_from(
        new,
        old,
        old_vocabularies=splits.vocabularies,
        new_vocabularies=splits.vocabularies,
    )
    ours, theirs = new.state_dict(), old.state_dict()
    for name, weight in ours.items():
        _, number, rest = name.split(".", 2)
        known = {"0": "2", "2": "0"}.get(number)
        expected = before[name] if known is None else theirs[f"members.{known}.{rest}"]
        assert torch.equal(weight, expected), name


@BOTH
@pytest.mark.parametrize(("form", "shipped"), [("multi", SHIPPED), ("single", SHIPPED_SINGLE)])
def test_the_settings_of_the_best_recipe_are_the_families_too(
    make: Make, form: str, shipped: dict[str, Any]
) -> None:
    splits = random_splits()
    model = make(splits.schema, form=form, **shipped, dropout=0.2)
    train(model, splits, steps=2, lr=0.01)
    assert torch.isfinite(item_vectors(model, splits)).all()
    rows = np.arange(3).tolist()
    assert model.encode_users(train_users(splits, rows)).vectors_BG.shape == (3, model.dim)
