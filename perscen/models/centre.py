"""What a tower's vectors have in common within a scenario, taken off them.

In a fresh tower of several gated layers all users look alike, and so do all items: what there is to
tell apart is a small part of a vector's length, and normalising does not change that. Measured
before the first step and trained from there, a centre is a bias of the output that starts where the
data are, as in data-dependent initialisation (Salimans & Kingma 2016, arXiv:1602.07868).

Letters: P output rows, S scenarios, G width of the vectors.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from perscen.data.batches import ItemBatch, ItemSource, UserBatch, UserSource
from perscen.data.splits import Splits
from perscen.models.gather import spread
from perscen.schema import FIRST_ROW
from perscen.seeding import generator

SAMPLE: Final = 2048
"""Clicks of each scenario, and items, that a centre is measured on at most."""


class Centre(nn.Module):
    """Takes a centre off vectors ``[P, G]``, zero until it is measured.

    Args:
        num_scenarios: With a centre of their own; 1 for one that all scenarios share.
        width: Of the vectors.
    """

    def __init__(self, num_scenarios: int, width: int) -> None:
        super().__init__()
        self.mean_SG = nn.Parameter(torch.zeros(num_scenarios, width))

    def forward(self, vector_PG: Tensor, scenario_P: Tensor) -> Tensor:
        """Return the vectors as seen from their scenario's centre."""
        return vector_PG - self._of_each(scenario_P)

    @torch.no_grad()
    def measure(self, vector_PG: Tensor, scenario_P: Tensor) -> None:
        """Put each scenario's centre at the mean of its vectors; without any, at that of all."""
        for scenario, mean_G in enumerate(self.mean_SG):
            own_PG = vector_PG[scenario_P == scenario]
            shared = len(self.mean_SG) == 1 or not len(own_PG)
            mean_G.copy_((vector_PG if shared else own_PG).mean(dim=0))

    def _of_each(self, scenario_P: Tensor) -> Tensor:
        return self.mean_SG if len(self.mean_SG) == 1 else spread(self.mean_SG, scenario_P)


def sample_users(splits: Splits) -> UserBatch:
    """Return the queries of some clicks of each scenario of the training window."""
    scenario_E = np.asarray(splits.train.scenario)
    rows = [
        _some(np.flatnonzero(scenario_E == scenario), "centre of users", scenario)
        for scenario in range(len(splits.schema.scenarios))
    ]
    source = UserSource(splits)
    return source.batch(
        splits.train.user, splits.train.scenario, splits.train_slices, np.concatenate(rows)
    )


def sample_items(splits: Splits) -> ItemBatch:
    """Return some items of the catalogue."""
    source = ItemSource(splits.items)
    rows = _some(np.arange(FIRST_ROW, source.num_rows), "centre of items")
    return source.batch(torch.from_numpy(rows))


def _some(rows: NDArray[np.int64], purpose: str, *keys: int) -> NDArray[np.int64]:
    if len(rows) <= SAMPLE:
        return rows
    return np.sort(generator(0, purpose, *keys).choice(rows, SAMPLE, replace=False))
