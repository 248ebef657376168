"""ADIN: the contract, its statistics, and what each scenario owns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perscen.errors import ConfigError
from perscen.models.adin import Adin
from perscen.models.config import AdinConfig
from perscen.models.domain_norm import EPS, NEW_SHARE, DomainNorm
from perscen.models.two_tower import TwoTower
from perscen.models.warm_start import warm_start_from
from perscen.schema import Schema
from tests.factories import random_splits
from tests.models.contract import RetrieverContract, item_vectors, train
from tests.models.test_forms import SHIPPED

SMALL = {"emb": {"dim": 8, "init_std": 0.3}, "hidden": 16, "widths": (16, 8)}


def adin(schema: Schema, **choices: Any) -> Adin:
    return Adin(schema, AdinConfig.model_validate(SMALL | choices))


class TestAdin(RetrieverContract):
    def make(self, schema: Schema) -> TwoTower:
        return adin(schema)


class TestAdinWithEveryOption(RetrieverContract):
    """Summed fusion, squashed field weights, the scenario's clicks, what the best recipe adds."""

    lr, steps = 0.02, 40

    def make(self, schema: Schema) -> TwoTower:
        return adin(schema, **SHIPPED, fusion="sum", sea_scale="sigmoid", use_spec_sequence=True)


def rows(counts: list[int]) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 4), min_size=6, max_size=6))
def test_a_row_counted_n_times_is_n_rows(counts: list[int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    scenario = torch.tensor([0, 0, 2, 2, 2, 0])
    counted, repeated = DomainNorm(3, 3).double(), DomainNorm(3, 3).double()
    once = counted(x, scenario, torch.tensor(counts))
    many = repeated(x[rows(counts)], scenario[rows(counts)], None)
    torch.testing.assert_close(once[rows(counts)], many)
    for name, buffer in counted.named_buffers():
        torch.testing.assert_close(buffer, dict(repeated.named_buffers())[name])
    weight = torch.tensor(counts, dtype=torch.float64)[:, None]
    (of_once,) = torch.autograd.grad((once.tanh() * weight).sum(), x)
    (of_many,) = torch.autograd.grad(many.tanh().sum(), x)
    torch.testing.assert_close(of_once, of_many)


def test_a_scenarios_rows_have_mean_0_and_variance_1_whatever_the_others_are() -> None:
    norm, x = DomainNorm(2, 4), torch.randn(20, 4) * 3 + 5
    scenario = torch.arange(20) % 2
    out = norm(x, scenario, None)
    torch.testing.assert_close(out[scenario == 0].mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    variance = out[scenario == 0].var(dim=0, unbiased=False)
    torch.testing.assert_close(variance, torch.ones(4), atol=1e-4, rtol=0)
    x[scenario == 1] += 100
    torch.testing.assert_close(norm(x, scenario, None)[scenario == 0], out[scenario == 0])


def test_the_moving_statistics_follow_the_scenarios_that_are_there_and_serve_in_use() -> None:
    norm, x = DomainNorm(2, 3), torch.randn(8, 3) + 2
    only_0 = torch.zeros(8, dtype=torch.int64)
    norm(x, only_0, None)
    torch.testing.assert_close(norm.mean_SW[0], NEW_SHARE * x.mean(dim=0))
    expected = 1 + NEW_SHARE * (x.var(dim=0, unbiased=False) - 1)
    torch.testing.assert_close(norm.variance_SW[0], expected)
    assert torch.equal(norm.mean_SW[1], torch.zeros(3))
    assert torch.equal(norm.variance_SW[1], torch.ones(3))
    served = norm.eval()(x, only_0, None)
    torch.testing.assert_close(served, (x - norm.mean_SW[0]) / (expected + EPS).sqrt())


@pytest.mark.parametrize(
    ("choices", "absent"), [({"dsbn": False}, ".norm."), ({"sea": False}, "field_weights")]
)
def test_what_is_switched_off_has_no_weights(choices: dict[str, Any], absent: str) -> None:
    splits = random_splits(num_users=6)
    model = adin(splits.schema, **choices)
    assert any(absent in name for name in adin(splits.schema).state_dict())
    assert not any(absent in name for name in model.state_dict())
    train(model, splits, steps=1, lr=0.01)
    assert torch.isfinite(item_vectors(model, splits)).all()


@pytest.mark.parametrize("scale", ["relu", "none"])
def test_field_weights_of_every_scale_train(scale: str) -> None:
    splits = random_splits(num_users=6)
    model = adin(splits.schema, sea_scale=scale)
    train(model, splits, steps=2, lr=0.01)
    assert torch.isfinite(item_vectors(model, splits)).all()


def test_a_warm_start_finds_each_scenarios_networks_and_statistics_where_they_are_now() -> None:
    splits = random_splits(num_scenarios=3)
    torch.manual_seed(0)
    old = adin(splits.schema)
    train(old, splits, steps=2, lr=0.01)
    moved = splits.schema.model_copy(update={"scenarios": ("s2", "new", "s0")})
    new = adin(moved)
    warm_start_from(
        new, old, old_vocabularies=splits.vocabularies, new_vocabularies=splits.vocabularies
    )
    vectors, before = item_vectors(new.eval(), splits), item_vectors(old, splits)
    assert torch.equal(vectors[0], before[2])
    assert torch.equal(vectors[2], before[0])


def test_one_scenario_is_refused_before_training() -> None:
    schema = random_splits(num_users=4).schema.model_copy(update={"scenarios": ("s0",)})
    with pytest.raises(
        ConfigError, match=r"adin tells scenarios apart, but .* only 's0'"
    ) as caught:
        adin(schema)
    assert "dssm" in caught.value.hint
