"""How two vectors become a score that is one inner product, eq. (16), with its options.

Letters: B queries, P (item, scenario) pairs, G width of the towers, F categorical user fields.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perscen.models.config import TwoTowerConfig
from perscen.models.popularity import PopularityPrior
from perscen.schema import Schema


class Score(nn.Module):
    """The last touch on both towers' vectors.

    The temperature divides the user's vector, cosine normalises both, and the popularity prior is
    one or more further dimensions of both.
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
        self.prior = (
            PopularityPrior(schema, segments=config.item_bias == "segments")
            if config.item_bias != "none"
            else None
        )
        self.dim = width + (self.prior.num_cells if self.prior else 0)

    def user(self, vector_BG: Tensor, categorical_BF: Tensor) -> Tensor:
        """Return the query vectors as they are published."""
        if self._cosine:
            vector_BG = F.normalize(vector_BG, dim=1)
        if self.log_temperature is not None:
            vector_BG = vector_BG * torch.exp(-self.log_temperature)
        elif self._temperature != 1:
            vector_BG = vector_BG / self._temperature
        if self.prior is None:
            return vector_BG
        return torch.cat([vector_BG, self.prior.user(categorical_BF)], dim=1)

    def item(self, vector_PG: Tensor, row_P: Tensor, scenario_P: Tensor) -> Tensor:
        """Return the item vectors as they are published."""
        if self._cosine:
            vector_PG = F.normalize(vector_PG, dim=1)
        if self.prior is None:
            return vector_PG
        return torch.cat([vector_PG, self.prior.item(row_P, scenario_P)], dim=1)
