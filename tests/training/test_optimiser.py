"""Lazy Adam: plain Adam on the rows a batch meets, nothing on the others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from perscen.config import OptimConfig
from perscen.models.config import EmbeddingConfig
from perscen.models.embedding import FieldTable
from perscen.schema import Field
from perscen.training.optimiser import Optimiser


class Scores(nn.Module):
    """A number for each of six rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = FieldTable([Field(name="item_id", num_rows=7)], config=EmbeddingConfig(dim=3))
        self.out = nn.Linear(3, 1)

    def forward(self, rows: list[int]) -> torch.Tensor:
        return self.out(self.table.rows("item_id", 1 + torch.tensor(rows)))


def trained(*, lazy: bool, rows: list[list[int]], decoupled: bool = False) -> torch.Tensor:
    torch.manual_seed(0)
    model = Scores()
    config = OptimConfig(lr=0.1, weight_decay=0.1, sparse_embeddings=lazy, decoupled=decoupled)
    optimiser = Optimiser(model, config)
    for step in rows:
        optimiser.zero_grad()
        model(step).square().sum().backward()
        optimiser.step()
    return model.table.weight_RD.detach()[1:]


@pytest.mark.parametrize("decoupled", [False, True])
def test_lazy_adam_is_adam_while_every_row_is_met(decoupled):
    rows = [list(range(6))] * 5
    left, right = (trained(lazy=lazy, rows=rows, decoupled=decoupled) for lazy in (True, False))
    torch.testing.assert_close(left, right)


@pytest.mark.parametrize("decoupled", [False, True])
def test_lazy_adam_leaves_the_other_rows_alone_where_adam_goes_on_moving_them(decoupled):
    before = trained(lazy=True, rows=[[0, 1, 2]], decoupled=decoupled)
    after = trained(lazy=True, rows=[[0, 1, 2], [2, 3], [3]], decoupled=decoupled)
    assert torch.equal(before[[0, 1, 4, 5]], after[[0, 1, 4, 5]])
    assert not (before[[2, 3]] == after[[2, 3]]).any()
    dense = trained(lazy=False, rows=[[0, 1, 2], [2, 3], [3]], decoupled=decoupled)
    assert not (before[[0, 1]] == dense[[0, 1]]).any()
