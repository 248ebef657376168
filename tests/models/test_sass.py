"""SASS: the contract, and its gates against the formulas."""

from __future__ import annotations

from typing import Any

import torch

from perscen.models.config import SassConfig
from perscen.models.sass import Sass, SassLayer, SassTower
from perscen.models.two_tower import TwoTower
from perscen.schema import Schema
from tests.models.contract import RetrieverContract
from tests.models.test_forms import SHIPPED

SMALL = {"emb": {"dim": 8, "init_std": 0.3}, "widths": (16, 12), "out_dim": 8}


def sass(schema: Schema, **choices: Any) -> Sass:
    return Sass(schema, SassConfig.model_validate(SMALL | choices))


class TestSass(RetrieverContract):
    def make(self, schema: Schema) -> TwoTower:
        return sass(schema)


class TestSassWithEveryOption(RetrieverContract):
    lr = 0.03

    def make(self, schema: Schema) -> TwoTower:
        return sass(schema, **SHIPPED, use_spec_sequence=True)


def plain(tower: SassTower, x: torch.Tensor, e_s: torch.Tensor, scenario: int) -> torch.Tensor:
    """The tower of one row, gate by gate."""
    shared = state = x
    for layer, own in zip(tower.shared, tower.branches[scenario].layers, strict=True):
        assert isinstance(own, SassLayer)
        shared = torch.relu(layer(shared))
        proposal = torch.relu(own.state(state))
        gates = own.gates(torch.cat([shared, proposal]))
        r, z = torch.sigmoid(gates[: len(gates) // 2]), torch.sigmoid(gates[len(gates) // 2 :])
        c = torch.tanh(own.candidate(torch.cat([r * shared, proposal])))
        state = (1 - z) * proposal + z * c
    kappa = tower.bias(e_s)
    whole = torch.cat([tower.state_out.weight, tower.bias_out.weight], dim=1)
    return whole @ torch.cat([state, kappa]) + tower.state_out.bias


def test_the_tower_is_the_plain_one_row_by_row() -> None:
    torch.manual_seed(0)
    tower = SassTower(6, 3, SassConfig.model_validate(SMALL))
    x, e_s = torch.randn(4, 6), torch.randn(3, 8)
    index, scenario = torch.tensor([3, 0, 0, 2, 1, 3]), torch.tensor([1, 0, 1, 0, 1, 0])
    found = tower(x, e_s, index, scenario)
    expected = [
        plain(tower, x[i], e_s[s], s) for i, s in zip(index, scenario.tolist(), strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected))
