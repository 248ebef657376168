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
    scenario_E: NDArray[np.int32], *, num_clicks: int, config: TrainConfig, epoch: int
) -> list[Longs]:
    """Return the row numbers of each step of an epoch, shuffled by (seed, epoch).

    Every click comes once. Of the rows behind the clicks, which were shown without one, as many are
    drawn anew as ``train.shown.per_click`` allows. Rows are dealt evenly over as many batches as
    the size asks for, so that no step is left with a handful of rows that would weigh as much as a
    full batch.

    Raises:
        ConfigError: A batch has no room for one positive with its negatives.
    """
    size = positives_per_batch(config)
    rng = generator(config.seed, "batches", epoch)
    rows = np.arange(len(scenario_E))
    num_shown = int(config.shown.per_click * num_clicks)
    if len(rows) - num_clicks > num_shown:
        drawn = rng.choice(rows[num_clicks:], num_shown, replace=False)
        rows = np.concatenate([rows[:num_clicks], np.sort(drawn)])
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
