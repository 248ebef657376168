"""The self-attention retriever: the contract, and what its tokens tell."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from perscen.data.batches import Packed, UserBatch
from perscen.errors import ConfigError
from perscen.models.config import SelfAttentionConfig
from perscen.models.self_attention import SelfAttentive
from perscen.models.two_tower import TwoTower
from perscen.schema import Schema
from tests.factories import random_splits
from tests.models.contract import RetrieverContract, item_vectors, train_users
from tests.models.test_forms import SHIPPED

SMALL = {
    "emb": {"dim": 8, "init_std": 0.3},
    "token_width": 8,
    "blocks": 1,
    "widths": (16, 8),
    "item_widths": (16,),
}
SPLITS = random_splits()


def self_attention(schema: Schema, **choices: Any) -> SelfAttentive:
    return SelfAttentive(schema, SelfAttentionConfig.model_validate(SMALL | choices))


class TestSelfAttention(RetrieverContract):
    def make(self, schema: Schema) -> TwoTower:
        return self_attention(schema)


class TestSelfAttentionWithEveryOption(RetrieverContract):
    """Shown items as tokens, the scenario's own clicks, and what the best recipe adds."""

    def make(self, schema: Schema) -> TwoTower:
        return self_attention(schema, **SHIPPED, blocks=2, use_spec_sequence=True)


def made(**choices: Any) -> SelfAttentive:
    torch.manual_seed(0)
    return self_attention(SPLITS.schema, **choices).eval()


def turned(packed: Packed) -> Packed:
    """The same sequences, each the other way round."""
    bounds = packed.offsets_B1.tolist()
    parts = [packed.values_V[a:b].flip(0) for a, b in pairwise(bounds)]
    return Packed(torch.cat(parts), packed.offsets_B1)


def differs(model: SelfAttentive, users: UserBatch, others: UserBatch) -> list[bool]:
    return (~torch.isclose(model.read(users), model.read(others))).any(dim=1).tolist()


def test_what_is_read_depends_on_the_items_their_order_and_the_scenario_asked_for() -> None:
    users, model = train_users(SPLITS), made(shown_sequence=True)
    for name in ("history", "shown"):
        items: Packed = getattr(users, name)
        bounds = items.offsets_B1.tolist()
        lists = [items.values_V[a:b].tolist() for a, b in pairwise(bounds)]
        other = replace(users, **{name: turned(items)})
        assert differs(model, users, other) == [row != row[::-1] for row in lists]
    asked = replace(users, scenario_B=1 - users.scenario_B)
    assert all(differs(model, users, asked))


def test_how_long_the_other_histories_of_a_batch_are_changes_nothing() -> None:
    users, model = train_users(SPLITS), made(shown_sequence=True)
    lengths = users.history.offsets_B1.diff()
    rows = (lengths <= 1).nonzero()[:, 0]
    assert 0 < len(rows) < len(lengths)
    torch.testing.assert_close(model.read(users.take(rows)), model.read(users)[rows])


def test_shown_items_are_tokens_or_one_more_field_as_asked() -> None:
    plain, tokens = made(), made(shown_sequence=True)
    field = made(shown_sequence=True, shown_tokens=False)
    assert plain.shown is None
    assert tokens.shown is not None
    assert tokens.user_width == plain.user_width
    assert field.shown is None
    assert field.user_width == plain.user_width + 8
    users = train_users(SPLITS)
    nothing = Packed(users.shown.values_V[:0], torch.zeros_like(users.shown.offsets_B1))
    blind = replace(users, shown=nothing)
    assert not any(differs(plain, users, blind))
    assert not any(differs(field, users, blind))
    assert any(differs(tokens, users, blind))


def test_items_are_the_same_in_all_scenarios_only_when_the_item_tower_is_not_told() -> None:
    told, not_told = item_vectors(made(), SPLITS), item_vectors(made(item_scenario=False), SPLITS)
    assert not torch.allclose(told[0], told[1])
    assert torch.equal(not_told[0], not_told[1])


def test_heads_that_do_not_share_the_tokens_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="token_width: 8 cannot be shared by heads: 3"):
        made(heads=3)


def test_data_without_clicks_are_refused_before_training() -> None:
    tower = SPLITS.schema.user.model_copy(update={"sequence": False})
    with pytest.raises(ConfigError, match="self_attention reads a user's clicks one by one"):
        self_attention(SPLITS.schema.model_copy(update={"user": tower}))


def test_a_user_without_any_item_is_told_by_fields_and_scenario_with_finite_gradients() -> None:
    users, model = train_users(SPLITS, np.arange(4).tolist()), made(shown_sequence=True)
    nothing = Packed(users.shown.values_V[:0], torch.zeros_like(users.shown.offsets_B1))
    alone = replace(users, history=nothing, shown=nothing)
    vectors = model.encode_users(alone).vectors_BG
    vectors.square().sum().backward()
    assert torch.isfinite(vectors).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
