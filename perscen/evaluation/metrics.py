"""Recall@K and Hits@K per user: one number per query, so that models compare paired.

Letters: Q queries, K retrieved items, V packed relevant items of all queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perscen.data.splits import Queries, Ragged

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Hits:
    """Where each query's relevant items stand in its list.

    Attributes:
        hit_QK: Whether the item at that place is relevant; each relevant item counts once, at its
            first place.
        num_relevant_Q: Size of each query's relevant set.
    """

    hit_QK: NDArray[np.bool_]
    num_relevant_Q: NDArray[np.int64]

    def recall_at(self, k: int) -> Floats:
        """Return each query's share of its relevant items among the first ``k``, in [0, 1].

        The denominator is the size of the relevant set, not ``min(k, size)``. A query with nothing
        relevant can be neither hit nor missed: NaN, and :func:`mean_over_users` leaves it out.

        Raises:
            ValueError: ``k`` is not within the length of the lists.
        """
        found_Q = self._first(k).sum(axis=1)
        recall_Q = np.full(len(found_Q), np.nan)
        np.divide(found_Q, self.num_relevant_Q, out=recall_Q, where=self.num_relevant_Q > 0)
        return recall_Q

    def hits_at(self, k: int) -> Floats:
        """Return 1.0 for each query with a relevant item among the first ``k``, else 0.0.

        This is the paper's Hits@K, "at least one hit"; NaN for a query with nothing relevant.

        Raises:
            ValueError: ``k`` is not within the length of the lists.
        """
        return np.where(self.num_relevant_Q > 0, self._first(k).any(axis=1), np.nan)

    def _first(self, k: int) -> NDArray[np.bool_]:
        if not 1 <= k <= self.hit_QK.shape[1]:
            raise ValueError(f"k is {k}, but {self.hit_QK.shape[1]} items were retrieved")
        return self.hit_QK[:, :k]


def find_hits(retrieved_QK: NDArray[np.integer], relevant: Ragged) -> Hits:
    """Return which retrieved item rows are relevant; a negative row stands for "nothing retrieved".

    Args:
        retrieved_QK: Item rows, best first.
        relevant: Each query's set of item rows; repeats count once.
    """
    retrieved_QK = np.asarray(retrieved_QK, dtype=np.int64)
    num_queries, width = retrieved_QK.shape
    lengths_Q: NDArray[np.int64] = relevant.offsets[1:] - relevant.offsets[:-1]
    values_V = np.asarray(relevant.values, dtype=np.int64)
    span = int(max(values_V.max(initial=0), retrieved_QK.max(initial=0))) + 1
    # One key per (query, item) turns membership in Q sets into one sorted search.
    relevant_V = np.unique(np.repeat(np.arange(num_queries), lengths_Q) * span + values_V)
    keys_QK = np.arange(num_queries)[:, None] * span + retrieved_QK
    hit_QK = np.zeros((num_queries, width), dtype=np.bool_)
    if len(relevant_V):
        place_QK = np.minimum(np.searchsorted(relevant_V, keys_QK), len(relevant_V) - 1)
        hit_QK = (relevant_V[place_QK] == keys_QK) & (retrieved_QK >= 0)
    places = np.flatnonzero(hit_QK)
    _, first = np.unique(keys_QK.ravel()[places], return_index=True)
    once_QK = np.zeros_like(hit_QK)
    once_QK.ravel()[places[first]] = True
    return Hits(once_QK, np.bincount(relevant_V // span, minlength=num_queries).astype(np.int64))


def relevant_of(queries: Queries, rows_Q: NDArray[np.int64]) -> Ragged:
    """Return the relevant sets of the queries at ``rows_Q``."""
    return take(Ragged(offsets=queries.relevant_offsets, values=queries.relevant), rows_Q)


def take(lists: Ragged, rows_Q: NDArray[np.int64]) -> Ragged:
    """Return the lists at ``rows_Q``, laid end to end."""
    offsets = np.asarray(lists.offsets)
    return gather(np.asarray(lists.values), offsets[rows_Q], offsets[rows_Q + 1])


def gather(
    values: NDArray[np.int32], start_Q: NDArray[np.int64], end_Q: NDArray[np.int64]
) -> Ragged:
    """Return the slices ``[start, end)`` of a flat array as lists laid end to end."""
    lengths_Q = end_Q - start_Q
    offsets = np.concatenate([[0], np.cumsum(lengths_Q)]).astype(np.int64)
    positions = np.arange(offsets[-1]) + np.repeat(start_Q - offsets[:-1], lengths_Q)
    return Ragged(offsets=offsets, values=values[positions])


def mean_over_users(values_Q: Floats) -> float:
    """Return the mean over the users that have something relevant.

    Raises:
        ValueError: No user has, so the mean has no meaning.
    """
    counted = values_Q[~np.isnan(values_Q)]
    if not len(counted):
        raise ValueError("no user has a relevant item: the mean has no meaning")
    return float(counted.mean())


def perplexity(counts_K: NDArray[np.int64]) -> float:
    """Return how many evenly used codes would be as hard to guess: 1 to K, and 0 without rows."""
    if not counts_K.any():
        return 0.0
    shares = counts_K[counts_K > 0] / counts_K.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
