"""The examiner: every contender answers the same frozen queries, and each user's score is kept.

Letters: Q queries, U user rows.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perscen.config import EvaluateConfig
from perscen.data.splits import Queries, Slices, Splits
from perscen.errors import ArtifactError
from perscen.evaluation.baselines import Ranker
from perscen.evaluation.scoring import Candidates, QueryScores, candidates_of, score, seen_bounds

logger = logging.getLogger(__name__)


def score_all(
    rankers: Mapping[str, Ranker], splits: Splits, *, config: EvaluateConfig
) -> pl.DataFrame:
    """Return the per-user scores of every ranker on the test queries, one row per query and model.

    The columns are those of ``per_user.parquet`` (docs/architecture/artifacts.md).

    Args:
        rankers: Contenders by the name they have in the scores.
        splits: The test queries, and what is known about their users and items.
        config: The Ks and the candidate pool.

    Raises:
        ArtifactError: A scenario has no test user.
        ConfigError: A K is larger than the candidate pool.
    """
    candidates = check_test(splits, config)
    queries, slices = splits.test, splits.test_slices
    facts = _facts(splits, queries, slices)
    # Scenario by scenario, in the order that all tables and pages have them.
    order_Q = np.argsort(queries.scenario, kind="stable")
    frames = []
    for name, ranker in rankers.items():
        scores = score(ranker, queries, candidates, ks=config.ks)
        frames.append(_frame(name, scores, facts)[order_Q])
        logger.info("model scored", extra={"model": name, "queries": len(queries.user)})
    return pl.concat(frames)


def check_test(splits: Splits, config: EvaluateConfig) -> Candidates:
    """Return the candidate pool, after checking that every scenario has a test user.

    Raises:
        ArtifactError: A scenario has no test user: nothing could be said about it.
        ConfigError: A K is larger than the candidate pool.
    """
    scenarios = splits.schema.scenarios
    users_S = np.bincount(splits.test.scenario, minlength=len(scenarios))
    if empty := [name for name, num in zip(scenarios, users_S, strict=True) if num == 0]:
        raise ArtifactError(
            f"no user clicked in scenario {', '.join(empty)} during the test window; "
            "without test users a scenario cannot be judged",
            hint="make the test window longer (split.test_days, split.test), or leave the scenario "
            "out (split.scenarios, split.num_scenarios)",
        )
    return candidates_of(splits, splits.test, splits.test_slices, config)


def _facts(splits: Splits, queries: Queries, slices: Slices) -> pl.DataFrame:
    """Return what does not depend on the model, one row per query."""
    offsets = np.asarray(queries.relevant_offsets)
    warm_V = np.zeros(splits.schema.num_item_rows, dtype=np.bool_)
    warm_V[splits.train.item] = True
    cold_sum = np.concatenate([[0], np.cumsum(~warm_V[queries.relevant])])
    start_Q, end_Q = seen_bounds(splits, queries, slices)
    return pl.DataFrame(
        {
            "scenario": np.array(splits.schema.scenarios)[queries.scenario].tolist(),
            "user_id": np.asarray(queries.user_id).tolist(),
            "num_relevant": np.diff(offsets).astype(np.int32),
            "new_user": ~_clicked_in_training(splits)[queries.user],
            "history_length": (end_Q - start_Q).astype(np.int32),
            "cold_items": (cold_sum[offsets[1:]] - cold_sum[offsets[:-1]]).astype(np.int32),
        },
        schema_overrides={"scenario": pl.String, "user_id": pl.String},
    )


def _clicked_in_training(splits: Splits) -> NDArray[np.bool_]:
    """Return whether each user row clicked in the training window, kept for training or not."""
    seen = splits.impressions
    clicked_U = np.zeros(len(splits.users.ids), dtype=np.bool_)
    clicked_U[np.asarray(seen.user)[np.asarray(seen.clicked)]] = True
    clicked_U[splits.train.user] = True
    clicked_U[0] = False  # the row that all unknown users share
    return clicked_U


def _frame(model: str, scores: QueryScores, facts: pl.DataFrame) -> pl.DataFrame:
    metrics = [pl.Series(name, values) for name, values in scores.by_metric.items()]
    return facts.select(
        "scenario",
        "user_id",
        "num_relevant",
        pl.lit(model).alias("model"),
        *metrics,
        "new_user",
        "history_length",
        "cold_items",
    )
