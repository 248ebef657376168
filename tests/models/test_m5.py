"""M5: the contract, the reading of histories, and the split experts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from perscen.data.batches import Packed
from perscen.errors import ConfigError
from perscen.models.attention import SelfAttention, right_aligned
from perscen.models.config import M5Config
from perscen.models.m5 import M5
from perscen.models.two_tower import TwoTower
from perscen.schema import Schema
from tests.factories import random_splits
from tests.models.contract import RetrieverContract, train_users
from tests.models.test_forms import SHIPPED

SMALL = {
    "emb": {"dim": 8, "init_std": 0.3},
    "shared_experts": 2,
    "widths": (16, 8),
    "item_widths": (16,),
}


def m5(schema: Schema, **choices: Any) -> M5:
    return M5(schema, M5Config.model_validate(SMALL | choices))


class TestM5(RetrieverContract):
    def make(self, schema: Schema) -> TwoTower:
        return m5(schema)


class TestM5WithEveryOption(RetrieverContract):
    """The scenario in the item tower, its own clicks, and what the best recipe adds."""

    steps = 40  # with so much to read it soon knows its rows by heart

    def make(self, schema: Schema) -> TwoTower:
        return m5(schema, **SHIPPED, item_scenario=True, use_spec_sequence=True)


def test_the_last_values_of_each_row_stand_at_the_right() -> None:
    packed = Packed(torch.tensor([5, 6, 7, 8, 9]), torch.tensor([0, 3, 3, 5]))
    assert right_aligned(packed, longest=9).tolist() == [[5, 6, 7], [0, 0, 0], [0, 8, 9]]
    assert right_aligned(packed, longest=2).tolist() == [[6, 7], [0, 0], [8, 9]]
    nothing = Packed(torch.tensor([], dtype=torch.int64), torch.tensor([0, 0]))
    assert right_aligned(nothing, longest=9).tolist() == [[0]]


@pytest.mark.parametrize("scaled", [True, False])
def test_attention_is_the_plain_formula_over_the_real_places(scaled: bool) -> None:
    attention, x = SelfAttention(6, heads=2, scaled=scaled), torch.randn(1, 5, 6)
    real = torch.tensor([[False, True, True, False, True]])
    kept = x[:, real[0]]
    heads = []
    for head in (slice(0, 3), slice(3, 6)):
        query, key, value = (part[..., head] for part in attention.read(kept).chunk(3, dim=2))
        logits = query @ key.transpose(1, 2) / (3**0.5 if scaled else 1)
        heads.append(torch.softmax(logits, dim=2) @ value)
    expected = attention.out(torch.cat(heads, dim=2))
    torch.testing.assert_close(attention(x, real)[:, real[0]], expected)
    torch.testing.assert_close(attention(x, real, num_last=1), expected[:, -1:])
    assert torch.isfinite(attention(x, torch.zeros_like(real))).all()


def test_more_padding_changes_nothing_and_the_order_of_clicks_does() -> None:
    model = m5(random_splits().schema)
    reader, scenario = model.clicks, torch.tensor([0, 1])
    clicks, real = torch.randn(2, 3, 8), torch.tensor([[False, True, True], [True, True, True]])
    vector = reader(clicks, real, model.scenario_SD, scenario)
    wider = torch.cat([torch.randn(2, 2, 8), clicks], dim=1)
    more = torch.cat([torch.zeros(2, 2, dtype=torch.bool), real], dim=1)
    torch.testing.assert_close(reader(wider, more, model.scenario_SD, scenario), vector)
    turned = reader(clicks.flip(1), real.flip(1), model.scenario_SD, scenario)
    assert not torch.isclose(turned, vector).all(dim=1).any()


def test_a_history_without_clicks_is_zero_with_a_finite_gradient() -> None:
    model = m5(random_splits().schema)
    clicks = torch.randn(2, 3, 8, requires_grad=True)
    real = torch.tensor([[False] * 3, [True] * 3])
    vector = model.clicks(clicks, real, model.scenario_SD, torch.tensor([1, 0]))
    assert (vector[0] == 0).all()
    vector.square().sum().backward()
    assert clicks.grad is not None
    assert torch.isfinite(clicks.grad).all()
    assert (clicks.grad[0] == 0).all()


def test_the_weights_of_shared_and_own_experts_sum_to_1() -> None:
    own = m5(random_splits().schema).own_experts[1]
    wide = own.gate.in_features
    weights = own.weights(10 * torch.randn(7, wide))
    assert weights.shape == (7, 3)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(7))


def test_a_scenarios_expert_answers_for_its_own_rows_alone() -> None:
    splits = random_splits()
    model, users = m5(splits.schema).eval(), train_users(splits)
    before = model.encode_users(users).vectors_BG
    with torch.no_grad():
        for parameter in model.own_experts[0].parameters():
            parameter += 1
    after = model.encode_users(users).vectors_BG
    of_1 = users.scenario_B == 1
    assert torch.equal(after[of_1], before[of_1])
    assert not torch.isclose(after[~of_1], before[~of_1]).all(dim=1).any()
    whole = model.encode_users(replace(users, scenario_B=torch.zeros_like(users.scenario_B)))
    assert torch.isfinite(whole.vectors_BG).all()


def test_data_without_clicks_are_refused_before_training() -> None:
    schema = random_splits(num_users=4).schema
    no_clicks = schema.model_copy(
        update={"user": schema.user.model_copy(update={"sequence": False})}
    )
    with pytest.raises(ConfigError, match="m5 reads a user's clicks one by one, but"):
        m5(no_clicks)
