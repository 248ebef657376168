"""ICAN: the contract, its two attentions, and the clicks of every scenario it reads."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perscen.data.batches import ItemSource, UserSource
from perscen.data.splits import Splits
from perscen.errors import ConfigError
from perscen.models.config import IcanConfig
from perscen.models.ican import ContextualAttention, Ican
from perscen.models.two_tower import TwoTower
from perscen.models.warm_start import warm_start_from
from perscen.retrieval.probes import Probes
from perscen.retrieval.served import ServedUsers
from perscen.schema import Schema
from tests.factories import random_splits
from tests.models.contract import RetrieverContract, item_vectors, train, train_users
from tests.models.test_forms import SHIPPED

SMALL = {
    "emb": {"dim": 8, "init_std": 0.3},
    "heads": 2,
    "widths": (32, 16),
    "item_widths": (16,),
    "attributes": ("item_id", "group", "tag"),
}


def ican(schema: Schema, **choices: Any) -> Ican:
    return Ican(schema, IcanConfig.model_validate(SMALL | choices))


class TestIcan(RetrieverContract):
    # The scenario only weighs groups, by at most e squared against each other: too little for the
    # checkerboard, whose users must be answered by one scenario's clicks and not the other's.
    test_the_checkerboard_is_solved_exactly_by_those_who_know_the_scenario = None

    def make(self, schema: Schema) -> TwoTower:
        return ican(schema)


class TestIcanByItemIdOnly(RetrieverContract):
    """Embeddings for items, empty groups masked, and what the best recipe adds."""

    test_the_checkerboard_is_solved_exactly_by_those_who_know_the_scenario = None

    def make(self, schema: Schema) -> TwoTower:
        return ican(
            schema, **SHIPPED | {"exclude_fields": ()}, item_id_only=True, mask_empty_groups=True
        )


def started(splits: Splits, **choices: Any) -> Ican:
    torch.manual_seed(0)
    model = ican(splits.schema, **choices)
    model.start_from(splits)
    return model.eval()


def test_a_group_pools_one_attribute_of_the_clicks_in_one_scenario() -> None:
    splits = random_splits(num_users=6, max_seq_len=4)
    model = started(splits)
    users = train_users(splits)
    group_BMD, counted_BM = model.groups(users)
    clicks, table = users.by_scenario(), model.item_fields.table
    assert table is not None
    bag = splits.items.bags[0]
    for row in range(len(users.scenario_B)):
        for scenario in range(2):
            start, end = clicks.offsets_B1[2 * row + scenario : 2 * row + scenario + 2].tolist()
            items = clicks.values_V[start:end].tolist()
            values = {
                "item_id": items,
                "group": [int(splits.items.categorical_RF[item, 1]) for item in items],
                "tag": [
                    int(tag)
                    for item in items
                    for tag in bag.values[bag.offsets[item] : bag.offsets[item + 1]]
                ],
            }
            for position, (name, found) in enumerate(values.items()):
                group = 3 * scenario + position
                assert bool(counted_BM[row, group]) == bool(found)
                expected = (
                    table.rows(name, torch.tensor(found)).mean(dim=0) if found else torch.zeros(8)
                )
                torch.testing.assert_close(group_BMD[row, group], expected)


@settings(deadline=None, max_examples=20)
@given(scale=st.floats(0.1, 50), groups=st.integers(1, 12))
def test_contextual_weights_sum_to_almost_one(scale: float, groups: int) -> None:
    attention = ContextualAttention(4)
    group_BMD = scale * torch.randn(5, groups, 4)
    total_B = attention(group_BMD, torch.randn(5, 4), None).sum(dim=1)
    assert (total_B < 1).all()
    assert (total_B > 0.99).all()


def test_a_masked_group_gets_no_weight_and_a_user_without_clicks_none_at_all() -> None:
    attention = ContextualAttention(4)
    counted = torch.tensor([[True, False, True], [False, False, False]])
    weights = attention(torch.randn(2, 3, 4), torch.randn(2, 4), counted)
    assert (weights[~counted] == 0).all()
    assert (weights[counted] > 0).all()


def test_the_scenario_asked_for_changes_the_answer_of_users_with_clicks() -> None:
    splits = random_splits()
    model, users = started(splits), train_users(splits)
    other = replace(users, scenario_B=1 - users.scenario_B)
    here, there = (model.encode_users(batch).vectors_BG for batch in (users, other))
    has_clicks = users.history.offsets_B1.diff() > 0
    assert not torch.isclose(here, there).all(dim=1)[has_clicks].any()


def test_clicks_of_another_scenario_reach_the_query_and_other_users_do_not() -> None:
    splits = random_splits()
    model, users = started(splits), train_users(splits)
    whole = model.encode_users(users).vectors_BG
    clicks = users.by_scenario()
    rows = torch.arange(len(users.scenario_B))
    away = 2 * rows + (1 - users.scenario_B)
    keep = torch.ones(len(clicks.values_V), dtype=torch.bool)
    for row in away.tolist():
        keep[clicks.offsets_B1[row] : clicks.offsets_B1[row + 1]] = False
    lengths = clicks.offsets_B1.diff()
    lengths[away] = 0
    fewer = replace(
        clicks,
        values_V=clicks.values_V[keep],
        offsets_B1=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
    )
    without = model.encode_users(replace(users, by_scenario=lambda: fewer)).vectors_BG
    had_some = clicks.offsets_B1.diff()[away] > 0
    assert had_some.any()
    assert not torch.isclose(without, whole).all(dim=1)[had_some].any()
    assert torch.equal(without[~had_some], whole[~had_some])


def test_a_warm_start_leaves_todays_catalogue_as_it_is() -> None:
    splits = random_splits()
    old, new = started(splits), started(splits)
    with torch.no_grad():
        old.user_tower[0][0].bias += 1
        old.catalogue.group_R += 1
    mine = new.catalogue.group_R.clone()
    vocabularies = splits.vocabularies
    warm_start_from(new, old, old_vocabularies=vocabularies, new_vocabularies=vocabularies)
    assert torch.equal(new.catalogue.group_R, mine)
    assert torch.equal(new.user_tower[0][0].bias, old.user_tower[0][0].bias)


def test_attributes_are_loaded_onto_the_models_own_device() -> None:
    saved = started(random_splits()).catalogue.state_dict()
    elsewhere = ican(random_splits().schema).catalogue.to("meta")
    with warnings.catch_warnings(action="ignore"):  # values have no place on this device
        elsewhere.load_state_dict(saved)
    loaded = elsewhere.state_dict()
    assert {name: values.shape for name, values in loaded.items()} == {
        name: values.shape for name, values in saved.items()
    }
    assert all(values.is_meta for values in loaded.values())


def test_a_bundles_users_and_probes_ask_with_the_clicks_that_the_model_was_trained_on(
    tmp_path: Path,
) -> None:
    splits = random_splits(num_users=5, max_seq_len=4)
    model = started(splits)
    user, scenario = (grid.ravel() for grid in np.mgrid[2:7, 0:2])
    rows = user * 2 + scenario
    trained = UserSource(splits).batch(
        np.repeat(np.arange(7, dtype=np.int32), 2),
        np.tile(np.arange(2, dtype=np.int32), 7),
        splits.served,
        rows,
    )
    served = ServedUsers.of(splits).batch(user, scenario)
    vectors = model.encode_users(trained).vectors_BG.detach()
    assert torch.equal(model.encode_users(served).vectors_BG, vectors)
    assert trained.by_scenario().offsets_B1.diff().any()
    few = torch.tensor([7, 2])
    torch.testing.assert_close(model.encode_users(served.take(few)).vectors_BG, vectors[few])
    answers = {"scores_BK": np.zeros((10, 1), np.float32), "items_BK": np.full((10, 1), "v1")}
    Probes(users=served, vectors_BG=vectors, **answers).save(tmp_path / "probes.parquet")
    probes = Probes.open(tmp_path / "probes.parquet")
    assert torch.equal(model.encode_users(probes.users).vectors_BG, vectors)


def test_by_default_a_click_is_read_by_its_id_and_the_usual_attributes_the_data_have() -> None:
    splits = random_splits(num_users=4)
    model = ican(splits.schema, attributes=None, exclude_fields=("tag",))
    assert model.groups(train_users(splits, [0]))[0].shape == (1, 2, 8)
    train(model, splits, steps=1, lr=0.01)
    assert torch.isfinite(item_vectors(model, splits)).all()
    assert ItemSource(splits.items).num_rows == len(splits.items.ids)


@pytest.mark.parametrize(
    ("choices", "match"),
    [
        ({"attributes": ("item_id", "tagg")}, "'tagg' is no categorical or multi-valued item"),
        ({"exclude_fields": ("tag",)}, "model.attributes reads tag, which model.exclude_"),
    ],
)
def test_attributes_that_cannot_be_read_are_refused(choices: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        ican(random_splits(num_users=4).schema, **choices)


def test_clicks_that_are_read_by_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 item"):
        IcanConfig.model_validate(SMALL | {"attributes": ()})


def test_items_have_rows_of_their_own_only_where_their_ids_are_read() -> None:
    schema = random_splits(num_users=4).schema
    tables = [
        ican(schema, attributes=attributes, exclude_fields=excluded, **choices).item_fields.table
        for attributes, excluded, choices in (
            (("tag",), ("item_id",), {}),
            (("tag",), (), {}),
            (("item_id", "tag"), ("item_id",), {}),
            (("tag",), ("item_id",), {"shown_sequence": True}),
            (("tag",), ("item_id",), {"item_id_only": True}),
        )
    ]
    assert ["item_id" in table.starts for table in tables] == [False, True, True, True, True]


def test_heads_that_do_not_share_the_width_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match=r"emb.dim: 8 cannot be shared by heads: 3"):
        IcanConfig.model_validate(SMALL | {"heads": 3})


def test_data_without_clicks_or_with_one_scenario_are_refused_before_training() -> None:
    schema = random_splits(num_users=4).schema
    no_clicks = schema.model_copy(
        update={"user": schema.user.model_copy(update={"sequence": False})}
    )
    with pytest.raises(ConfigError, match="ican reads a user's clicks one by one, but"):
        ican(no_clicks)
    with pytest.raises(ConfigError, match=r"ican tells scenarios apart, but .* only 's0'"):
        ican(schema.model_copy(update={"scenarios": ("s0",)}))
