"""Who is compared: candidate, champion, baselines and, for synthetic logs, the best possible."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from perscen.data.segments import Segments
from perscen.data.splits import Splits
from perscen.evaluation.baselines import (
    RandomRanker,
    Ranker,
    global_popularity,
    oracle,
    scenario_popularity,
    segment_popularity,
)
from perscen.evaluation.champion import ChampionRanker
from perscen.retrieval.bundle import Bundle
from perscen.schema import FIRST_ROW

_RANDOM_SEED: Final = 0


def rivals(
    splits: Splits, *, champion: Bundle | None, segments: Segments, truth: Path | None
) -> dict[str, Ranker]:
    """Return everything the candidate is compared with on the test queries, by name.

    Args:
        splits: Today's splits.
        champion: The release to compare with, if any.
        segments: Cells of the segment popularity.
        truth: Directory of a synthetic log's truth, if it has one.
    """
    queries = splits.test
    contenders: dict[str, Ranker] = {}
    if champion is not None:
        contenders["champion"] = ChampionRanker(champion, splits, queries, splits.test_slices)
    contenders["segment_popularity"] = segment_popularity(splits, queries, segments)
    contenders["scenario_popularity"] = scenario_popularity(splits, queries)
    contenders["global_popularity"] = global_popularity(splits, queries)
    contenders["random"] = RandomRanker(splits.schema.num_item_rows - FIRST_ROW, seed=_RANDOM_SEED)
    if truth is not None:
        contenders["oracle"] = oracle(splits, queries, truth)
    return contenders
