"""Per-user recall and hits of any ranker, block by block, over the items that may be recommended.

Letters: Q queries, K results, V items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perscen.config import EvaluateConfig
from perscen.data.splits import Queries, Ragged, Slices, Splits
from perscen.errors import ConfigError
from perscen.evaluation.baselines import NOTHING, Ranker
from perscen.evaluation.metrics import find_hits, gather, relevant_of, take
from perscen.schema import FIRST_ROW

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]

_RESULTS_PER_BLOCK: Final = 1 << 20


@dataclass(frozen=True)
class Candidates:
    """Which items may be recommended to a query.

    Attributes:
        allowed_R: Whether an item row is in the pool; None for the whole catalogue.
        num_items: Size of the catalogue.
        seen: Item rows each query's user clicked before the window, when those are left out.
    """

    allowed_R: NDArray[np.bool_] | None
    num_items: int
    seen: Ragged | None


@dataclass(frozen=True)
class QueryScores:
    """Scores ``[Q]`` of one ranker by metric, ``recall_50`` and the like; fractions."""

    by_metric: dict[str, Floats]


def candidates_of(
    splits: Splits, queries: Queries, slices: Slices, config: EvaluateConfig
) -> Candidates:
    """Return the candidate pool the settings ask for.

    Raises:
        ConfigError: The pool has fewer items than the largest K.
    """
    allowed_R = None
    num_items = num_allowed = splits.schema.num_item_rows - FIRST_ROW
    if config.candidates == "train_items":
        allowed_R = np.zeros(splits.schema.num_item_rows, dtype=np.bool_)
        allowed_R[splits.train.item] = True
        allowed_R[:FIRST_ROW] = False
        num_allowed = int(allowed_R.sum())
    if max(config.ks) > num_allowed:
        raise ConfigError(
            f"evaluate.ks asks for {max(config.ks):,} items, but evaluate.candidates: "
            f"{config.candidates} has {num_allowed:,}",
            hint="make every K smaller than the catalogue; recall over all of it is always 1",
        )
    seen = seen_items(splits, queries, slices) if config.exclude_seen else None
    return Candidates(allowed_R, num_items, seen)


def seen_items(splits: Splits, queries: Queries, slices: Slices) -> Ragged:
    """Return every item row each query's user clicked before the window, in any kept scenario."""
    start_Q, end_Q = seen_bounds(splits, queries, slices)
    return gather(np.asarray(splits.histories.items), start_Q, end_Q)


def seen_bounds(splits: Splits, queries: Queries, slices: Slices) -> tuple[Longs, Longs]:
    """Return the bounds of each query's whole history within ``histories.items``.

    A query's slice ends where its history does but starts at most T clicks before; the user's
    offset is where it truly starts.
    """
    end_Q = np.asarray(slices.end, dtype=np.int64)
    empty_Q = end_Q == np.asarray(slices.start)
    start_Q = np.asarray(splits.histories.user_offsets, dtype=np.int64)[queries.user]
    return np.where(empty_Q, end_Q, start_Q), end_Q


def score(
    ranker: Ranker, queries: Queries, candidates: Candidates, *, ks: Sequence[int]
) -> QueryScores:
    """Return the recall and hits of every query at every K, whatever the order of the queries."""
    num_queries = len(queries.user)
    by_metric = {f"{name}_{k}": np.empty(num_queries) for k in ks for name in ("recall", "hits")}
    # Blocks of one scenario: a ranker then keeps one scenario's items at a time.
    for scenario in np.unique(queries.scenario):
        rows = np.flatnonzero(np.asarray(queries.scenario) == scenario)
        for rows_Q in _blocks(rows, max(ks)):
            retrieved_QK = retrieve(ranker, rows_Q, max(ks), candidates)
            hits = find_hits(retrieved_QK, relevant_of(queries, rows_Q))
            for k in ks:
                by_metric[f"recall_{k}"][rows_Q] = hits.recall_at(k)
                by_metric[f"hits_{k}"][rows_Q] = hits.hits_at(k)
    return QueryScores(by_metric)


def retrieve(ranker: Ranker, rows_Q: Longs, k: int, candidates: Candidates) -> Longs:
    """Return the first ``k`` item rows ``[Q, K]`` of each query that may be recommended.

    Rankers know nothing of the pool: those whose list is not full yet are asked for twice as many
    items, until the catalogue is used up.
    """
    if candidates.allowed_R is None and candidates.seen is None:
        return ranker.rank(rows_Q, k)
    found_QK = np.full((len(rows_Q), k), NOTHING, dtype=np.int64)
    open_Q, fetch = np.arange(len(rows_Q)), min(2 * k, candidates.num_items)
    while len(open_Q):
        short = []
        for part_Q in _blocks(open_Q, fetch):
            wide_QK = ranker.rank(rows_Q[part_Q], fetch)
            kept_QK = _may_recommend(wide_QK, rows_Q[part_Q], candidates)
            first_QK = np.argsort(~kept_QK, axis=1, kind="stable")[:, :k]
            wide_QK = np.where(kept_QK, wide_QK, NOTHING)
            found_QK[part_Q, : first_QK.shape[1]] = np.take_along_axis(wide_QK, first_QK, axis=1)
            short.append(part_Q[kept_QK.sum(axis=1) < k])
        if fetch == candidates.num_items:
            break
        open_Q, fetch = np.concatenate(short), min(2 * fetch, candidates.num_items)
    return found_QK


def _blocks(rows: Longs, width: int) -> Iterator[Longs]:
    """Yield the rows in blocks whose lists of ``width`` items stay within bounded memory."""
    size = max(1, _RESULTS_PER_BLOCK // width)
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _may_recommend(retrieved_QK: Longs, rows_Q: Longs, candidates: Candidates) -> NDArray[np.bool_]:
    kept_QK: NDArray[np.bool_] = retrieved_QK != NOTHING
    if candidates.allowed_R is not None:
        kept_QK &= candidates.allowed_R[retrieved_QK]
    if candidates.seen is not None:
        kept_QK &= ~find_hits(retrieved_QK, take(candidates.seen, rows_Q)).hit_QK
    return kept_QK
