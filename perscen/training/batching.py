"""Which training rows make up which step.

Letters: E training rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perscen.config import TrainConfig
from perscen.errors import ConfigError
from perscen.seeding import generator

Longs = NDArray[np.int64]


def plan_batches(
    scenario_E: NDArray[np.int32],
    *,
    positives: Longs,
    shown: Longs,
    config: TrainConfig,
    epoch: int,
) -> list[Longs]:
    """Return the row numbers of each step of an epoch, shuffled by (seed, epoch).

    Rows are dealt evenly over as many batches as the size asks for, so that no step is left with a
    handful of rows that would weigh as much as a full batch.

    Args:
        scenario_E: Of all training rows.
        positives: Rows that come once each.
        shown: Rows without a click, of which as many are drawn anew as ``train.shown.per_click``
            allows.
        config: The ``train`` section.
        epoch: From 1.

    Raises:
        ConfigError: A batch has no room for one positive with its negatives.
    """
    size = positives_per_batch(config)
    rng = generator(config.seed, "batches", epoch)
    num_shown = int(config.shown.per_click * len(positives))
    if len(shown) > num_shown:
        shown = np.sort(rng.choice(shown, num_shown, replace=False))
    rows = np.concatenate([positives, shown])
    if not config.batch.by_scenario:
        return _deal(rng.permutation(rows), size)
    batches = [
        batch
        for scenario in np.unique(scenario_E[rows])
        for batch in _deal(rng.permutation(rows[scenario_E[rows] == scenario]), size)
    ]
    return [batches[place] for place in rng.permutation(len(batches))]


def positives_per_batch(config: TrainConfig) -> int:
    """Return how many positives a full batch holds.

    Raises:
        ConfigError: As :func:`plan_batches`.
    """
    if config.batch.unit == "positives":
        return config.batch.size
    positives = config.batch.size // (config.neg.n + 1)
    if positives == 0:
        raise ConfigError(
            f"train.batch.size: {config.batch.size} pairs have no room for one positive with its "
            f"{config.neg.n} negatives",
            hint=f"give at least {config.neg.n + 1}, or batch.unit: positives",
        )
    return positives


def _deal(rows: Longs, size: int) -> list[Longs]:
    return np.array_split(rows, -(-len(rows) // size)) if len(rows) else []
