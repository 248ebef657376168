"""What holds of pooled sequences, fusion, both towers and the score (eqs. 2, 13-17)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from perscen.data.batches import ItemSource, Packed, UserBatch
from perscen.models.config import (
    EmbeddingConfig,
    GluConfig,
    GnnConfig,
    ItemTowerConfig,
    PerscenConfig,
)
from perscen.models.embedding import FieldTable
from perscen.models.fusion import FUSIONS
from perscen.models.gather import gather, pooled_sum, spread
from perscen.models.perscen import Perscen
from perscen.models.popularity import log_popularity
from perscen.schema import FIRST_ROW, Field
from tests.factories import random_splits
from tests.models.contract import item_vectors, train_users

pytestmark = pytest.mark.medium  # each is quick, all together are not

few = settings(max_examples=20, deadline=None)
bags = st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=5)
poolings = st.sampled_from(["mean", "sum", "max"])
SMALL = PerscenConfig(emb=EmbeddingConfig(dim=4, init_std=0.5), gnn=GnnConfig(layers=2), out_dim=6)


def packed(rows: list[list[int]]) -> Packed:
    lengths = [len(row) for row in rows]
    flat = [value for row in rows for value in row]
    return Packed(
        torch.tensor(flat, dtype=torch.int64), torch.tensor([0, *np.cumsum(lengths)]).long()
    )


def table() -> FieldTable:
    torch.manual_seed(0)
    fields = (Field(name="other", num_rows=4), Field(name="item", num_rows=10))
    return FieldTable(fields, config=EmbeddingConfig(dim=3, init_std=1)).double()


@given(bags, poolings)
@few
def test_a_pooled_sequence_is_its_rows_pooled_and_an_empty_one_is_zero(rows, how) -> None:
    items = table()
    pooled = items.pool("item", packed(rows), how=how)
    for row, got in zip(rows, pooled, strict=True):
        vectors = items.weight_RD[torch.tensor(row, dtype=torch.int64) + items.starts["item"]]
        pools = {"mean": vectors.mean(dim=0), "sum": vectors.sum(dim=0)}
        expected = (
            torch.zeros(3).double()
            if not row
            else (vectors.amax(dim=0) if how == "max" else pools[how])
        )
        torch.testing.assert_close(got, expected)
    pooled.sum().backward()
    assert torch.isfinite(items.weight_RD.grad).all()


@given(bags, poolings, st.randoms(use_true_random=False), st.integers(0, 3))
@few
def test_padding_and_order_of_a_sequence_change_nothing(rows, how, random, padding) -> None:
    items = table()
    shuffled = [[0] * padding + random.sample(row, len(row)) + [0] for row in rows]
    torch.testing.assert_close(
        items.pool("item", packed(shuffled), how=how), items.pool("item", packed(rows), how=how)
    )


@given(bags)
@few
def test_the_fast_gather_has_the_gradient_of_torchs_own(rows) -> None:
    together = packed([*rows, [0, 3]])
    values, offsets = together.values_V, together.offsets_B1
    weights = torch.randn(10, 3, dtype=torch.float64, requires_grad=True)

    def gradient(out: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        scale = torch.randn(out.shape, dtype=out.dtype, generator=generator)
        return torch.autograd.grad((out * scale).sum(), weights)[0]

    expected = [
        (gather(weights, values), F.embedding(values, weights, padding_idx=0)),
        (spread(weights, values), F.embedding(values, weights)),
        (
            pooled_sum(torch.cat([torch.zeros(1, 3).double(), weights[1:]]), values, offsets),
            F.embedding_bag(
                values, weights, offsets, mode="sum", include_last_offset=True, padding_idx=0
            ),
        ),
    ]
    for ours, torchs in expected:
        torch.testing.assert_close(ours, torchs)
        torch.testing.assert_close(gradient(ours), gradient(torchs))


def model_and_users(config: PerscenConfig = SMALL) -> tuple[Perscen, UserBatch]:
    splits = random_splits()
    torch.manual_seed(0)
    return Perscen(splits.schema, config).eval(), train_users(splits)


def test_padding_and_untouched_rows_get_no_gradient_from_the_data() -> None:
    model, users = model_and_users()
    users = replace(users, categorical_BF=users.categorical_BF * (users.categorical_BF != 5))
    model.encode_users(users).vectors_BG.square().sum().backward()
    rows = model.user_fields.table
    touched = {0} | {
        int(row) + start
        for column, start in enumerate(rows.starts.values())
        for row in users.categorical_BF[:, column].unique()
        if row > 0
    }
    untouched = [r for r in range(len(rows.weight_RD)) if r not in touched - {0}]
    assert (rows.weight_RD.grad[untouched] == 0).all()
    assert (rows.weight_RD[0] == 0).all()
    assert (rows.weight_RD.grad[sorted(touched - {0})] != 0).any(dim=1).all()


@pytest.mark.parametrize("fusion", ["glu", "gru", "direct"])
def test_with_a_scalar_gate_the_output_lies_between_state_and_preference(fusion: Any) -> None:
    config = SMALL.model_copy(update={"fusion": fusion})
    torch.manual_seed(0)
    module, hidden = FUSIONS[fusion](8, 6, config), [torch.randn(5, 8) for _ in range(3)]
    preference = torch.randn(5, 6)
    fused = module(hidden, preference)
    assert ((fused.alpha > 0) & (fused.alpha < 1)).all()
    state = (fused.vector_PG - (1 - fused.alpha) * preference) / fused.alpha
    low, high = torch.minimum(state, preference), torch.maximum(state, preference)
    assert (fused.vector_PG >= low - 1e-5).all()
    assert (fused.vector_PG <= high + 1e-5).all()


@pytest.mark.parametrize("fusion", list(FUSIONS))
@pytest.mark.parametrize("width", ["out", "fields"])
def test_spreading_items_over_pairs_is_the_fusion_of_each_pair(fusion: Any, width: Any) -> None:
    config = SMALL.model_copy(update={"fusion": fusion, "glu": GluConfig(width=width)})
    torch.manual_seed(0)
    broad = 8 if width == "fields" and fusion == "glu" else 6
    module = FUSIONS[fusion](8, broad, config)
    hidden, preference = [torch.randn(4, 8) for _ in range(3)], torch.randn(3, broad)
    item, scenario = torch.tensor([0, 3, 3, 1, 0]), torch.tensor([2, 0, 1, 1, 2])
    spread_out = module(hidden, preference, item, scenario).vector_PG
    each = module([h[item] for h in hidden], preference[scenario]).vector_PG
    torch.testing.assert_close(spread_out, each)


def test_both_towers_give_vectors_of_one_width() -> None:
    for config in (SMALL, SMALL.model_copy(update={"item_bias": "popularity"})):
        model, users = model_and_users(config)
        vectors = model.encode_users(users).vectors_BG
        assert vectors.shape[1] == item_vectors(model, random_splits()).shape[2] == model.dim


def test_an_item_depends_on_the_scenario_exactly_when_the_tower_is_aware_of_it() -> None:
    blind = SMALL.model_copy(update={"item_tower": ItemTowerConfig(scenario_aware=False)})
    splits = random_splits()
    of_blind = item_vectors(model_and_users(blind)[0], splits)
    torch.testing.assert_close(of_blind[0], of_blind[1])
    of_aware = item_vectors(model_and_users()[0], splits)
    assert (of_aware[0] != of_aware[1]).any(dim=1).all()


def test_hidden_states_do_not_depend_on_the_scenario() -> None:
    model, users = model_and_users()
    other = replace(users, scenario_B=1 - users.scenario_B, spec_history=users.history)
    for before, after in zip(
        model.inspect(users).adjacency_BNN, model.inspect(other).adjacency_BNN, strict=True
    ):
        assert torch.equal(before, after)
    assert not torch.equal(
        model.encode_users(users).vectors_BG, model.encode_users(other).vectors_BG
    )


@given(st.permutations(range(12)))
@few
def test_permuting_the_batch_permutes_the_vectors(order) -> None:
    splits = random_splits()
    model, _ = model_and_users()
    vectors = model.encode_users(train_users(splits, list(range(12)))).vectors_BG
    permuted = model.encode_users(train_users(splits, list(order))).vectors_BG
    torch.testing.assert_close(permuted, vectors[list(order)])


@pytest.mark.parametrize("score", ["dot", "cosine"])
def test_the_published_inner_product_is_the_score_with_temperature_and_bias(score: Any) -> None:
    update = {"score": score, "temperature": 0.5, "item_bias": "popularity"}
    model, users = model_and_users(SMALL.model_copy(update=update))
    plain, _ = model_and_users(SMALL)
    splits = random_splits()
    model.start_from(splits)
    weights = model.state_dict().items()
    plain.load_state_dict({k: v for k, v in weights if not k.startswith("score.prior.")})
    user = plain.encode_users(users).vectors_BG
    items = item_vectors(plain, splits)[1]
    expected = (
        F.cosine_similarity(user[:, None], items, dim=2) if score == "cosine" else user @ items.T
    )
    got = model.encode_users(users).vectors_BG @ item_vectors(model, splits)[1].T
    torch.testing.assert_close(got, expected / 0.5 + log_popularity(splits)[FIRST_ROW:, 1])


def test_sources_give_what_the_item_tower_reads() -> None:
    splits = random_splits()
    model, _ = model_and_users()
    batch = ItemSource(splits.items).batch(torch.arange(FIRST_ROW, 8))
    nodes = model.item_fields(batch.categorical_BF, batch.dense_BF, batch.bags)
    assert nodes.shape == (6, len(model.item_fields.names), 4)
