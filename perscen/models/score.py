"""How two vectors become a score that is one inner product, eq. (16), with its options.

Letters: B queries, P (item, scenario) pairs, G width of the towers, R item rows, S scenarios.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perscen.models.config import TwoTowerConfig
from perscen.schema import Schema


class Score(nn.Module):
    """The last touch on both towers' vectors.

    The temperature divides the user's vector, cosine normalises both, and the popularity bias is
    one more dimension: 1 on the user's side, the bias of (item, scenario) on the item's.
    """

    def __init__(self, schema: Schema, config: TwoTowerConfig, *, width: int) -> None:
        super().__init__()
        self._cosine = config.score == "cosine"
        self._temperature = config.temperature
        self.log_temperature = (
            nn.Parameter(torch.tensor(math.log(config.temperature)))
            if config.learn_temperature
            else None
        )
        self.bias_RS = (
            nn.Parameter(torch.zeros(schema.num_item_rows, len(schema.scenarios)))
            if config.item_bias == "popularity"
            else None
        )
        self.dim = width + (config.item_bias == "popularity")

    def user(self, vector_BG: Tensor) -> Tensor:
        """Return the query vectors as they are published."""
        if self._cosine:
            vector_BG = F.normalize(vector_BG, dim=1)
        if self.log_temperature is not None:
            vector_BG = vector_BG * torch.exp(-self.log_temperature)
        elif self._temperature != 1:
            vector_BG = vector_BG / self._temperature
        return vector_BG if self.bias_RS is None else F.pad(vector_BG, (0, 1), value=1.0)

    def item(self, vector_PG: Tensor, row_P: Tensor, scenario_P: Tensor) -> Tensor:
        """Return the item vectors as they are published."""
        if self._cosine:
            vector_PG = F.normalize(vector_PG, dim=1)
        if self.bias_RS is None:
            return vector_PG
        return torch.cat([vector_PG, self.bias_RS[row_P, scenario_P][:, None]], dim=1)
