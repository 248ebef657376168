"""Rankers without a model: floors every candidate must beat, and the ceiling of a synthetic log.

All popularity is counted over the training rows alone, the very clicks the candidate is trained
on; clicks of the validation window and impressions without a click are left out, and nothing
decays with time. Equal scores stand in the order of item rows.

Letters: Q queries, K results, V items (position ``v`` is item row ``v + FIRST_ROW``), L lists,
E training rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perscen.data.segments import Segments
from perscen.data.splits import Queries, Splits
from perscen.errors import ArtifactError
from perscen.schema import FIRST_ROW

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]

NOTHING: Final = -1
"""Stands where a list has no further item."""


class Ranker(Protocol):
    """Anything that answers evaluation queries with lists of item rows."""

    def rank(self, rows_Q: Longs, k: int) -> Longs:
        """Return item rows ``[Q, K]`` of queries ``rows_Q``, best first, then ``NOTHING``."""
        ...


class ListRanker:
    """Answers every query with one of a few lists, such as one per scenario."""

    def __init__(self, list_of_query: NDArray[np.integer], scores: Callable[[int], Floats]) -> None:
        """``scores`` gives the scores ``[V]`` of a list by its number."""
        self._list_of_query = np.asarray(list_of_query, dtype=np.int64)
        self._scores = scores
        self._lists: dict[int, Longs] = {}

    def rank(self, rows_Q: Longs, k: int) -> Longs:
        """Return item rows ``[Q, K]``, as :meth:`Ranker.rank`."""
        wanted_Q = self._list_of_query[rows_Q]
        numbers, place_Q = np.unique(wanted_Q, return_inverse=True)
        lists = [self._list(int(number), k) for number in numbers]
        lists_LK = np.stack(lists) if lists else np.empty((0, k), dtype=np.int64)
        return lists_LK[place_Q]

    def _list(self, number: int, k: int) -> Longs:
        if len(self._lists.get(number, ())) < k:
            self._lists[number] = top_rows(self._scores(number), k)
        return self._lists[number][:k]


class RandomRanker:
    """Answers every query with distinct items drawn uniformly; the same ones for the same seed."""

    def __init__(self, num_items: int, *, seed: int) -> None:
        self._num_items = num_items
        self._seed = seed

    def rank(self, rows_Q: Longs, k: int) -> Longs:
        """Return item rows ``[Q, K]``, as :meth:`Ranker.rank`; whatever the other queries are."""
        drawn = np.full((len(rows_Q), k), NOTHING, dtype=np.int64)
        width = min(k, self._num_items)
        for place, row in enumerate(rows_Q):
            rng = np.random.default_rng((self._seed, int(row)))
            drawn[place, :width] = FIRST_ROW + rng.choice(self._num_items, width, replace=False)
        return drawn


def top_rows(scores_V: Floats, k: int) -> Longs:
    """Return the item rows of the ``k`` largest scores, equal ones by row, then ``NOTHING``."""
    width = min(k, len(scores_V))
    if not width:
        return np.full(k, NOTHING, dtype=np.int64)
    cut = np.partition(scores_V, len(scores_V) - width)[len(scores_V) - width]
    near = np.flatnonzero(scores_V >= cut)
    best = near[np.argsort(-scores_V[near], kind="stable")][:width]
    return np.concatenate([best + FIRST_ROW, np.full(k - width, NOTHING, dtype=np.int64)])


def scenario_counts(splits: Splits) -> Floats:
    """Return the training clicks ``[S, V]`` of every item in every scenario."""
    num_items = splits.schema.num_item_rows - FIRST_ROW
    keys_E = np.asarray(splits.train.scenario, dtype=np.int64) * num_items + (
        np.asarray(splits.train.item, dtype=np.int64) - FIRST_ROW
    )
    num_scenarios = len(splits.schema.scenarios)
    counts = np.bincount(keys_E, minlength=num_scenarios * num_items)
    return counts.reshape(num_scenarios, num_items).astype(np.float64)


def global_popularity(splits: Splits, queries: Queries) -> ListRanker:
    """Return the ranker by training clicks over all scenarios."""
    counts_V = scenario_counts(splits).sum(axis=0)
    return ListRanker(np.zeros(len(queries.user), dtype=np.int64), lambda _: counts_V)


def scenario_popularity(splits: Splits, queries: Queries) -> ListRanker:
    """Return the ranker by training clicks within the query's scenario."""
    counts_SV = scenario_counts(splits)
    return ListRanker(queries.scenario, lambda scenario: counts_SV[scenario])


def segment_popularity(splits: Splits, queries: Queries, segments: Segments) -> ListRanker:
    """Return the ranker by training clicks of the query's cell, shrunk towards its scenario.

    A cell is a scenario times the values of the segment's user columns. An item's score is its
    clicks in the cell plus the scenario's strength times its share of the scenario's clicks; a
    cell without training clicks is answered by the scenario alone.
    """
    counts_SV = scenario_counts(splits)
    num_items = counts_SV.shape[1]
    share_SV = counts_SV / np.maximum(counts_SV.sum(axis=1, keepdims=True), 1)
    num_scenarios = len(counts_SV)
    train, cell_R = splits.train, segments.cell_of_user
    list_E = np.asarray(cell_R[train.user] * num_scenarios + train.scenario)
    order = np.argsort(list_E, kind="stable")
    edges = np.searchsorted(list_E[order], np.arange(segments.num_cells * num_scenarios + 1))
    items_E = np.asarray(train.item, dtype=np.int64)[order] - FIRST_ROW

    def scores(number: int) -> Floats:
        scenario = number % num_scenarios
        mine = items_E[edges[number] : edges[number + 1]]
        clicks_V = np.bincount(mine, minlength=num_items).astype(np.float64)
        shrunk_V: Floats = clicks_V + segments.strengths[scenario] * share_SV[scenario]
        return shrunk_V

    return ListRanker(cell_R[queries.user] * num_scenarios + queries.scenario, scores)


def oracle(splits: Splits, queries: Queries, truth: Path) -> ListRanker:
    """Return the ranker by the true click probability of the user's group in the scenario.

    Only synthetic logs have it. A user without a group is answered by the mean over the groups.

    Raises:
        ArtifactError: The truth does not name this log's scenarios.
    """
    affinity = pl.read_parquet(truth / "affinity.parquet").with_columns(
        pl.col("group", "scenario", "item_id").cast(pl.String)
    )
    group_of = dict(pl.read_parquet(truth / "users.parquet").cast(pl.String).rows())
    groups = sorted(affinity["group"].unique())
    scenarios = splits.schema.scenarios
    if missing := sorted(set(scenarios) - set(affinity["scenario"])):
        raise ArtifactError(
            f"{truth / 'affinity.parquet'} says nothing of scenario {', '.join(missing)}",
            hint="make the synthetic log again with `perscen data synthetic`",
        )
    likes_LV = np.zeros((len(groups) + 1, len(scenarios), len(splits.items.ids) - FIRST_ROW))
    known = affinity.filter(
        pl.col("item_id").is_in(splits.items.ids[FIRST_ROW:].tolist())
        & pl.col("scenario").is_in(list(scenarios))
    )
    likes_LV[
        _positions(known["group"].to_list(), groups),
        _positions(known["scenario"].to_list(), scenarios),
        _positions(known["item_id"].to_list(), splits.items.ids[FIRST_ROW:].tolist()),
    ] = known["probability"].to_numpy()
    likes_LV[-1] = likes_LV[:-1].mean(axis=0)
    number = {group: place for place, group in enumerate(groups)}
    group_Q = np.array(
        [number.get(group_of.get(user, ""), len(groups)) for user in queries.user_id.tolist()],
        dtype=np.int64,
    )
    flat_LV: Floats = likes_LV.reshape(-1, likes_LV.shape[2])
    return ListRanker(group_Q * len(scenarios) + queries.scenario, lambda place: flat_LV[place])


def _positions(values: Sequence[str], known: Sequence[str]) -> Longs:
    place = {value: position for position, value in enumerate(known)}
    return np.array([place[value] for value in values], dtype=np.int64)
