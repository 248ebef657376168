"""Rows without training: rankers by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from perscen.config import EvaluateConfig
from perscen.data.segments import choose_segments
from perscen.data.splits import Splits
from perscen.evaluation.baselines import (
    ListRanker,
    RandomRanker,
    Ranker,
    global_popularity,
    scenario_popularity,
    segment_popularity,
)
from perscen.evaluation.ease import check_ease, choose_ease, ease_blend
from perscen.models.popularity import PopularityPrior
from perscen.schema import FIRST_ROW

MakeRanker = Callable[[Splits, EvaluateConfig, int], Ranker]


def _by_segment(splits: Splits, config: EvaluateConfig, seed: int) -> Ranker:  # noqa: ARG001
    segments = choose_segments(splits, num_columns=config.segment_columns)
    return segment_popularity(splits, splits.test, segments)


def _by_prior(splits: Splits, config: EvaluateConfig, seed: int) -> Ranker:  # noqa: ARG001
    prior = PopularityPrior(splits.schema, segments=True)
    prior.start_from(splits)
    cell_U = prior.user(torch.from_numpy(np.array(splits.users.categorical_RF))).argmax(dim=1)
    num_scenarios = len(splits.schema.scenarios)
    number_Q = cell_U.numpy()[splits.test.user] * num_scenarios + splits.test.scenario

    def scores(number: int) -> NDArray[np.float64]:
        cell, scenario = divmod(number, num_scenarios)
        of_cell: NDArray[np.float64] = prior.log_share_RSK[FIRST_ROW:, scenario, cell].numpy()
        return of_cell

    return ListRanker(number_Q, scores)


def _by_chance(splits: Splits, config: EvaluateConfig, seed: int) -> Ranker:  # noqa: ARG001
    return RandomRanker(splits.schema.num_item_rows - FIRST_ROW, seed=seed)


def _by_ease(splits: Splits, config: EvaluateConfig, seed: int) -> Ranker:  # noqa: ARG001
    blend = choose_ease(splits, k=config.ks[0])
    return ease_blend(splits, splits.test, splits.test_slices, blend)


RANKERS: Final[Mapping[str, MakeRanker]] = {
    "ease_blend": _by_ease,
    "popularity_prior": _by_prior,
    "segment_popularity": _by_segment,
    "scenario_popularity": lambda splits, _, __: scenario_popularity(splits, splits.test),
    "global_popularity": lambda splits, _, __: global_popularity(splits, splits.test),
    "random": _by_chance,
}
"""Each takes the splits, the ``evaluate`` section and the run's seed, and answers test queries."""


def check_ranker(name: str, splits: Splits) -> None:
    """Check whether a ranker can be made of these data.

    Raises:
        ConfigError: As :func:`perscen.evaluation.ease.check_ease`.
    """
    if name == "ease_blend":
        check_ease(splits)
