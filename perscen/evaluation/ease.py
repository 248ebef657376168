"""EASE blended with popularity: which items go together, in closed form, added to a prior.

EASE *(Steck 2019, arXiv:1905.03375, eq. 8)* is the linear map of a user's clicks to items that
reproduces the training clicks best without an item answering for itself. Where histories are short
it is worse than popularity alone, so its scores are added to the log of the item's popularity in
the query's scenario. How strongly the map is regularised and how much it weighs are chosen on the
validation window, among :data:`STRENGTHS` and :data:`WEIGHTS`; the test window is not looked at.

Letters: Q queries, B queries of a block, U users, C items with training clicks, V items (position
``v`` is item row ``v + FIRST_ROW``), S scenarios, K results.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from perscen.data.splits import Queries, Slices, Splits
from perscen.errors import ConfigError
from perscen.evaluation.baselines import NOTHING, Ranker, top_rows
from perscen.evaluation.metrics import mean_over_users
from perscen.evaluation.scoring import Candidates, score, seen_items
from perscen.models.popularity import log_popularity
from perscen.schema import FIRST_ROW

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Longs = NDArray[np.int64]

STRENGTHS: Final = (30.0, 100.0, 300.0, 1_000.0)
"""What is tried as the penalty on the squares of the map's entries."""

WEIGHTS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""What is tried as the weight of the map's scores beside the log of the popularity."""

MAX_ITEMS: Final = 20_000
"""Items with training clicks up to which a dense matrix of all pairs is made (1.6 GB)."""

_SCORES_PER_BLOCK: Final = 1 << 24


@dataclass(frozen=True)
class EaseBlend:
    """A fitted blend.

    Attributes:
        items_C: Positions of the items the map knows.
        map_CC: Score of each item (column) for a click on another (row).
        prior_SV: Log of every item's popularity in every scenario.
        weight: Of the map's scores beside it.
        strength: The penalty the map was fitted with.
        recall: What it reached on the validation window: the mean over scenarios, in [0, 1].
    """

    items_C: Longs
    map_CC: Floats
    prior_SV: Floats
    weight: float
    strength: float
    recall: float


def choose_ease(
    splits: Splits,
    *,
    k: int,
    strengths: tuple[float, ...] = STRENGTHS,
    weights: tuple[float, ...] = WEIGHTS,
) -> EaseBlend:
    """Return the blend of the best Recall@K on the validation window, mean over its scenarios.

    The map and the popularity are of the training clicks alone. Of equal blends the first one
    tried stays.

    Raises:
        ConfigError: As :func:`check_ease`.
    """
    check_ease(splits)
    items_C = clicked_items(splits)
    item_E = np.asarray(splits.train.item, dtype=np.int64) - FIRST_ROW
    clicks_UC = _clicks(
        np.asarray(splits.train.user), item_E, items_C, num_rows=len(splits.users.ids)
    )
    prior_SV = log_popularity(splits).numpy()[FIRST_ROW:].T
    best: EaseBlend | None = None
    for strength in strengths:
        fitted = EaseBlend(items_C, fit_ease(clicks_UC, strength), prior_SV, 0.0, strength, 0.0)
        for weight in weights:
            blend = replace(fitted, weight=weight)
            recall = _validation_recall(blend, splits, k)
            logger.debug(
                "blend tried", extra={"strength": strength, "weight": weight, "recall": recall}
            )
            if best is None or recall > best.recall:
                best = replace(blend, recall=recall)
    assert best is not None, "there is something to try"
    return best


def check_ease(splits: Splits) -> None:
    """Check whether a blend can be fitted to these data and chosen on them.

    Raises:
        ConfigError: The validation window has no click, or too many items have training clicks
            for a matrix of all pairs.
    """
    if not len(splits.valid.user):
        raise ConfigError(
            "the validation window has no click in any scenario, so no blend of EASE and "
            "popularity can be chosen",
            hint="widen split.valid or split.valid_days",
        )
    clicked_items(splits)


def clicked_items(splits: Splits) -> Longs:
    """Return the positions ``[C]`` of the items with training clicks, which the map knows.

    Raises:
        ConfigError: They are too many for a matrix of all pairs.
    """
    items_C = np.unique(np.asarray(splits.train.item, dtype=np.int64)) - FIRST_ROW
    if len(items_C) > MAX_ITEMS:
        raise ConfigError(
            f"EASE needs a dense matrix of all pairs of the {len(items_C):,} items with training "
            f"clicks, {4 * len(items_C) ** 2 / 1e9:,.0f} GB; it is made for at most "
            f"{MAX_ITEMS:,} items",
            hint="compare without it on this catalogue",
        )
    return items_C


def ease_blend(splits: Splits, queries: Queries, slices: Slices, blend: EaseBlend) -> Ranker:
    """Return the ranker by the scenario's log-popularity plus what goes with the user's clicks.

    A user's clicks are all those before the queries' window, as far back as the splits reach.
    """
    return _BlendRanker(splits, queries, slices, blend)


def fit_ease(clicks_UC: sparse.csr_matrix, strength: float) -> Floats:
    """Return EASE's map ``[C, C]`` of 0/1 clicks: ``B = I - P / diag(P)`` by columns.

    ``P`` is the inverse of ``X' X + strength I``; the diagonal of ``B`` is zero.
    """
    gram_CC = torch.from_numpy((clicks_UC.T @ clicks_UC).toarray().astype(np.float32, copy=False))
    gram_CC.diagonal().add_(strength)
    inverse_CC = torch.cholesky_inverse(torch.linalg.cholesky(gram_CC))
    map_CC = inverse_CC.div_(-inverse_CC.diagonal().clone())
    map_CC.fill_diagonal_(0)
    fitted: Floats = map_CC.numpy()
    return fitted


class _BlendRanker:
    def __init__(self, splits: Splits, queries: Queries, slices: Slices, blend: EaseBlend) -> None:
        self._blend = blend
        self._scenario_Q = np.asarray(queries.scenario)
        seen = seen_items(splits, queries, slices)
        num_queries = len(queries.user)
        self._clicks_QC = _clicks(
            np.repeat(np.arange(num_queries), np.diff(seen.offsets)),
            np.asarray(seen.values, dtype=np.int64) - FIRST_ROW,
            blend.items_C,
            num_rows=num_queries,
        )

    def rank(self, rows_Q: Longs, k: int) -> Longs:
        """Return item rows ``[Q, K]``, as :meth:`perscen.evaluation.baselines.Ranker.rank`."""
        ranked_QK = np.full((len(rows_Q), k), NOTHING, dtype=np.int64)
        size = max(1, _SCORES_PER_BLOCK // self._blend.prior_SV.shape[1])
        for first in range(0, len(rows_Q), size):
            rows_B = rows_Q[first : first + size]
            for place, scores_V in enumerate(self._scores(rows_B), start=first):
                ranked_QK[place] = top_rows(scores_V, k)
        return ranked_QK

    def _scores(self, rows_B: Longs) -> Floats:
        scores_BV: Floats = self._blend.prior_SV[self._scenario_Q[rows_B]]
        together_BC = self._clicks_QC[rows_B] @ self._blend.map_CC
        scores_BV[:, self._blend.items_C] += self._blend.weight * together_BC
        return scores_BV


def _clicks(
    row_N: NDArray[np.integer], item_N: Longs, items_C: Longs, *, num_rows: int
) -> sparse.csr_matrix:
    """Return 0/1 clicks of rows on the known items; other items are passed over."""
    place_N = np.minimum(np.searchsorted(items_C, item_N), len(items_C) - 1)
    known_N = items_C[place_N] == item_N
    pairs = np.unique(row_N[known_N].astype(np.int64) * len(items_C) + place_N[known_N])
    ones = np.ones(len(pairs), dtype=np.float32)
    return sparse.csr_matrix(
        (ones, (pairs // len(items_C), pairs % len(items_C))), (num_rows, len(items_C))
    )


def _validation_recall(blend: EaseBlend, splits: Splits, k: int) -> float:
    queries = splits.valid
    everything = Candidates(None, blend.prior_SV.shape[1], None)
    ranker = ease_blend(splits, queries, splits.valid_slices, blend)
    recall_Q = score(ranker, queries, everything, ks=(k,)).by_metric[f"recall_{k}"]
    scenario_Q = np.asarray(queries.scenario)
    return float(
        np.mean([mean_over_users(recall_Q[scenario_Q == s]) for s in np.unique(scenario_Q)])
    )
