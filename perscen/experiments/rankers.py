"""Rows without training: rankers by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from perscen.config import EvaluateConfig
from perscen.data.splits import Splits
from perscen.evaluation.baselines import (
    RandomRanker,
    Ranker,
    global_popularity,
    scenario_popularity,
    segment_popularity,
)
from perscen.evaluation.ease import choose_ease, ease_blend
from perscen.evaluation.segments import choose_segments
from perscen.schema import FIRST_ROW

MakeRanker = Callable[[Splits, EvaluateConfig, int], Ranker]


def _by_segment(splits: Splits, config: EvaluateConfig, seed: int) -> Ranker:  # noqa: ARG001
    segments = choose_segments(splits, num_columns=config.segment_columns)
    return segment_popularity(splits, splits.test, segments)


def _by_chance(splits: Splits, config: EvaluateConfig, seed: int) -> Ranker:  # noqa: ARG001
    return RandomRanker(splits.schema.num_item_rows - FIRST_ROW, seed=seed)


def _by_ease(splits: Splits, config: EvaluateConfig, seed: int) -> Ranker:  # noqa: ARG001
    blend = choose_ease(splits, k=config.ks[0])
    return ease_blend(splits, splits.test, splits.test_slices, blend)


RANKERS: Final[Mapping[str, MakeRanker]] = {
    "ease_blend": _by_ease,
    "segment_popularity": _by_segment,
    "scenario_popularity": lambda splits, _, __: scenario_popularity(splits, splits.test),
    "global_popularity": lambda splits, _, __: global_popularity(splits, splits.test),
    "random": _by_chance,
}
"""Each takes the splits, the ``evaluate`` section and the run's seed, and answers test queries."""
