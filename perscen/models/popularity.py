"""Where the popularity bias starts: what an item's share of a scenario's clicks is worth by now.

Letters: R item rows, S scenarios, E training rows.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from perscen.data.splits import Splits

HALF_LIFE_DAYS: Final = 7.0
"""A click counts half as much after this long, seen from the end of the training window."""

PRIOR_CLICKS: Final = 200.0
"""Clicks that the global shares are worth in each scenario: what a sparse one is shrunk towards."""

UNIFORM_CLICKS: Final = 0.05
"""Clicks every catalogue item starts with, so that one without any keeps a finite share."""

_MS_PER_DAY: Final = 86_400_000


def log_popularity(splits: Splits) -> Tensor:
    """Return ``[R, S]`` float32: log of each item's shrunk, decayed click share over 1 / R.

    Measured against the uniform share an average item starts near 0, where sampled losses want it;
    within a scenario the difference is a constant and ranks nothing.
    """
    num_rows, num_scenarios = splits.schema.num_item_rows, len(splits.schema.scenarios)
    time_E = np.asarray(splits.train.time_ms)
    age_E = (time_E.max(initial=0) - time_E) / _MS_PER_DAY
    cell_E = np.asarray(splits.train.item, dtype=np.int64) * num_scenarios + splits.train.scenario
    clicks_RS = np.bincount(
        cell_E, weights=0.5 ** (age_E / HALF_LIFE_DAYS), minlength=num_rows * num_scenarios
    ).reshape(num_rows, num_scenarios)
    clicks_R = clicks_RS.sum(axis=1) + UNIFORM_CLICKS
    share_R = clicks_R / clicks_R.sum()
    share_RS = (clicks_RS + PRIOR_CLICKS * share_R[:, None]) / (
        clicks_RS.sum(axis=0) + PRIOR_CLICKS
    )
    return torch.from_numpy(np.log(share_RS * num_rows)).float()
