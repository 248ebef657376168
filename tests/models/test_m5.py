"""M5: the contract, the reading of histories, and the split experts."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from perscen.data.batches import ItemSource, Packed
from perscen.data.splits import Splits
from perscen.errors import ConfigError
from perscen.models.attention import SelfAttention, right_aligned
from perscen.models.config import M5Config
from perscen.models.m5 import M5
from perscen.models.two_tower import TwoTower
from perscen.models.warm_start import warm_start_from
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


def with_content(splits: Splits) -> M5:
    torch.manual_seed(0)
    model = m5(splits.schema, content=("group", "tag"))
    model.start_from(splits)
    return model.eval()


class TestM5(RetrieverContract):
    def make(self, schema: Schema) -> TwoTower:
        return m5(schema)


class TestM5WithEveryOption(RetrieverContract):
    """The scenario in the item tower, its own clicks, and what the best recipe adds."""

    steps = 40  # with so much to read it soon knows its rows by heart

    def make(self, schema: Schema) -> TwoTower:
        return m5(schema, **SHIPPED, item_scenario=True, use_spec_sequence=True)


class TestM5WithItsContentHalf(RetrieverContract):
    steps = 40

    def make(self, schema: Schema) -> TwoTower:
        return m5(schema, content=("group", "tag"), use_spec_sequence=True)


class TestM5WithMaskedItems(RetrieverContract):
    steps = 40

    def make(self, schema: Schema) -> TwoTower:
        # As good as all are hidden: which are must not depend on how rows are grouped.
        return m5(schema, masked_items={"weight": 0.5, "share": 1 - 1e-12})


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
    reader, scenario = model.by_id.clicks, torch.tensor([0, 1])
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
    vector = model.by_id.clicks(clicks, real, model.scenario_SD, torch.tensor([1, 0]))
    assert (vector[0] == 0).all()
    vector.square().sum().backward()
    assert clicks.grad is not None
    assert torch.isfinite(clicks.grad).all()
    assert (clicks.grad[0] == 0).all()


def test_the_weights_of_shared_and_own_experts_sum_to_1() -> None:
    own = m5(random_splits().schema).by_id.own_experts[1]
    wide = own.gate.in_features
    weights = own.weights(10 * torch.randn(7, wide))
    assert weights.shape == (7, 3)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(7))


def test_a_scenarios_expert_answers_for_its_own_rows_alone() -> None:
    splits = random_splits()
    model, users = m5(splits.schema).eval(), train_users(splits)
    before = model.encode_users(users).vectors_BG
    with torch.no_grad():
        for parameter in model.by_id.own_experts[0].parameters():
            parameter += 1
    after = model.encode_users(users).vectors_BG
    of_1 = users.scenario_B == 1
    assert torch.equal(after[of_1], before[of_1])
    assert not torch.isclose(after[~of_1], before[~of_1]).all(dim=1).any()
    whole = model.encode_users(replace(users, scenario_B=torch.zeros_like(users.scenario_B)))
    assert torch.isfinite(whole.vectors_BG).all()


def test_the_content_of_an_item_is_the_mean_of_what_its_fields_say() -> None:
    splits = random_splits()
    model = with_content(splits)
    table, bag = model.item_fields.table, splits.items.bags[0]
    assert table is not None
    rows = torch.tensor([[3, 0, 5], [5, 2, 4]])
    content = model.content(rows)
    for place in [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]:
        row = int(rows[place])
        group = torch.tensor(splits.items.categorical_RF[row, 1])
        tags = torch.from_numpy(bag.values[bag.offsets[row] : bag.offsets[row + 1]])
        of_tags = [table.rows("tag", tag.long()) for tag in tags] or [torch.zeros(8)]
        expected = (table.rows("group", group.long()) + torch.stack(of_tags).mean(dim=0)) / 2
        torch.testing.assert_close(content[place], expected)


def test_items_that_the_content_half_cannot_tell_apart_differ_by_their_ids_alone() -> None:
    splits = random_splits()
    model = with_content(splits)
    half = model.dim // 2
    items = ItemSource(splits.items).batch(torch.arange(2, 2 + 8))
    content = model.content(items.rows_B)
    with torch.no_grad():
        model.catalogue.group_R[:] = 2
        model.catalogue.tag_R1[:] = 0
    index, scenario = torch.arange(8), torch.zeros(8, dtype=torch.int64)
    vectors = model.encode_items(items, index, scenario)
    assert len(content.unique(dim=0)) > 1
    assert len(vectors[:, half:].unique(dim=0)) == 1
    assert len(vectors[:, :half].unique(dim=0)) == 8


def test_the_score_is_that_of_both_halves_by_a_weight_of_the_user() -> None:
    splits = random_splits()
    model, users = with_content(splits), train_users(splits)
    items = ItemSource(splits.items).batch(torch.arange(2, 2 + 8))
    index, scenario = torch.arange(8), torch.zeros(8, dtype=torch.int64)
    half, item_PG = model.dim // 2, model.encode_items(items, index, scenario)
    mixed = model.encode_users(users).vectors_BG @ item_PG.T
    parts = {}
    for name, bias in (("id", 1e9), ("content", -1e9)):
        only = copy.deepcopy(model)
        with torch.no_grad():
            only.weigh.bias.fill_(bias)
        parts[name] = only.encode_users(users).vectors_BG
    assert (parts["id"][:, half:] == 0).all()
    assert (parts["content"][:, :half] == 0).all()
    both = torch.cat([parts["id"][:, :half], parts["content"][:, half:]], dim=1)
    weight = torch.sigmoid(model.weigh(both))
    expected = weight * (parts["id"] @ item_PG.T) + (1 - weight) * (parts["content"] @ item_PG.T)
    torch.testing.assert_close(mixed, expected)


def test_content_outlives_a_save_and_a_warm_start_keeps_todays(tmp_path: Path) -> None:
    splits = random_splits()
    model, users = with_content(splits), train_users(splits)
    model.save(tmp_path)
    again = M5.load(tmp_path)
    expected = model.encode_users(users).vectors_BG
    assert torch.equal(again.encode_users(users).vectors_BG, expected)
    with torch.no_grad():
        again.catalogue.group_R += 1
        again.weigh.bias += 1
    fresh = with_content(splits)
    names = splits.vocabularies
    warm_start_from(fresh, again, old_vocabularies=names, new_vocabularies=names)
    assert torch.equal(fresh.catalogue.group_R, model.catalogue.group_R)
    assert torch.equal(fresh.weigh.bias, again.weigh.bias)


@pytest.mark.parametrize(
    ("choices", "match"),
    [
        ({"content": ("tagg",)}, r"model.content: 'tagg' is no .* item field; did you mean 'tag'"),
        (
            {"content": ("tag",), "exclude_fields": ("tag",)},
            "model.content reads tag, which model.exclude_fields hides",
        ),
    ],
)
def test_content_that_cannot_be_read_is_refused(choices: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError) as refused:
        m5(random_splits(num_users=4).schema, **choices)
    assert re.search(match, f"{refused.value}; {refused.value.hint}")


def test_data_without_clicks_are_refused_before_training() -> None:
    schema = random_splits(num_users=4).schema
    no_clicks = schema.model_copy(
        update={"user": schema.user.model_copy(update={"sequence": False})}
    )
    with pytest.raises(ConfigError, match="m5 reads a user's clicks one by one, but"):
        m5(no_clicks)


def test_hidden_items_are_told_from_all_that_are_hidden_by_what_is_around_them() -> None:
    splits = random_splits()
    model = m5(splits.schema, masked_items={"weight": 1.0})
    rows = torch.tensor([[0, 3, 5, 4], [5, 2, 6, 7], [0, 0, 0, 3]])
    hidden = torch.tensor([[0, 0, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]]).bool()
    scenario = torch.tensor([1, 0, 1])
    loss = model.masked_items_loss(rows, hidden, scenario)
    reader, embedded = model.by_id.clicks, model.item_rows(torch.arange(8))
    losses = []
    for row, place in [(0, 2), (1, 0), (1, 3)]:
        clicks = torch.where(hidden[row, :, None], model.hidden_D, embedded[rows[row]])
        around = reader.read(clicks[None], rows[[row]] > 0, model.scenario_SD, scenario[[row]])
        logits = {item: embedded[item] @ around[0, place] for item in (5, 7)}
        own = logits[int(rows[row, place])]
        losses.append(torch.logsumexp(torch.stack(list(logits.values())), dim=0) - own)
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    nothing = model.masked_items_loss(rows, torch.zeros_like(hidden), scenario)
    assert nothing == 0


def test_items_are_hidden_while_training_alone_and_only_if_asked_for() -> None:
    splits = random_splits()
    users = train_users(splits)
    model = m5(splits.schema, masked_items={"weight": 2.0, "share": 0.5})
    assert model.encode_users(users).auxiliary_loss > 0
    assert model.eval().encode_users(users).auxiliary_loss == 0
    plain = m5(splits.schema)
    assert "hidden_D" not in plain.state_dict()
    plain.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(
        plain.encode_users(users).vectors_BG, model.encode_users(users).vectors_BG
    ), "what is published sees every click"
