"""Sampled negatives, and samples of a catalogue too large for a softmax over all of it.

Negatives are uniform over a pool, without the items a row must not meet.

Letters: B rows of the batch, E training rows, X excluded items per row, n negatives per positive,
M catalogue items, S scenarios, N items of a sample.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from perscen.config import NegativesConfig
from perscen.errors import ConfigError
from perscen.schema import FIRST_ROW
from perscen.seeding import generator

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]

UNIFORM: Final = 0.5
"""Share of a sample of the catalogue that does not ask for popularity."""


class Positives(Protocol):
    """Training rows as the sampler reads them."""

    @property
    def user(self) -> NDArray[np.int32]:
        """Each row's user."""

    @property
    def item(self) -> NDArray[np.int32]:
        """Each row's item."""


class NegativeSampler:
    """Draws ``n`` items per training row, uniform with replacement, but for what the row excludes.

    Excluded items are not drawn and thrown away: a draw counts positions among the allowed items
    alone, so every allowed item is exactly equally likely, however many a user has clicked.

    Raises:
        ConfigError: The exclusion leaves some row nothing to draw from.
    """

    def __init__(
        self, train: Positives, *, num_item_rows: int, config: NegativesConfig, seed: int
    ) -> None:
        self._config = config
        self._seed = seed
        self._pool = (
            np.arange(FIRST_ROW, num_item_rows, dtype=np.int64)
            if config.pool == "catalogue"
            else np.unique(np.asarray(train.item, dtype=np.int64))
        )
        self._num_rows = len(train.item)
        self._excluded = _excluded(train, self._pool, exclude=config.exclude)
        if int(self._excluded.count_E.max(initial=0)) >= len(self._pool):
            raise ConfigError(
                f"train.neg: with exclude {config.exclude!r} a training row has no negative left "
                f"in the pool {config.pool!r} of {len(self._pool):,} items",
                hint="choose a wider train.neg.pool or a narrower train.neg.exclude",
            )
        self._fixed: tuple[int, Longs] | None = None

    def draw(self, rows_B: Longs, *, epoch: int, step: int) -> Longs:
        """Return item rows ``[B, n]`` for the training rows of one step."""
        if self._config.resample == "step":
            return self._draw(rows_B, generator(self._seed, "negatives", epoch, step))
        # Drawn for every row at once, so that a row's negatives do not depend on its batch.
        key = epoch if self._config.resample == "epoch" else 0
        if self._fixed is None or self._fixed[0] != key:
            everything = np.arange(self._num_rows, dtype=np.int64)
            self._fixed = (key, self._draw(everything, generator(self._seed, "negatives", key)))
        return self._fixed[1][rows_B]

    def _draw(self, rows_B: Longs, rng: np.random.Generator) -> Longs:
        allowed_B = len(self._pool) - self._excluded.count_E[rows_B]
        rank_BN = rng.integers(allowed_B[:, None], size=(len(rows_B), self._config.n))
        return self._pool[self._excluded.skip(rows_B, rank_BN)]


class CatalogueSampler:
    """Draws the items that a softmax over a large catalogue is estimated from (logQ).

    What is popular in a scenario weighs most in its softmax, so it is drawn more often: an item's
    chance to be in the sample half follows its share of the scenario's rows, is half the same for
    all, and at most 1. A sum over the sample of which each item counts 1 / chance is an unbiased
    estimate of the sum over the catalogue (Horvitz and Thompson 1952). No item is drawn twice
    (systematic sampling, Madow 1949).

    Args:
        item_E: Item rows of the training rows ...
        scenario_E: ... their scenarios ...
        weight_E: ... and what they count in the loss.
        num_item_rows: Rows of the item table.
        size: N, no more than there are catalogue items.
        seed: The training's.
    """

    def __init__(
        self,
        item_E: NDArray[np.int32],
        scenario_E: NDArray[np.int32],
        weight_E: Floats,
        *,
        num_item_rows: int,
        num_scenarios: int,
        size: int,
        seed: int,
    ) -> None:
        self._size, self._seed = size, seed
        num_items = num_item_rows - FIRST_ROW
        place_E = scenario_E.astype(np.int64) * num_items + (item_E - FIRST_ROW)
        count_SM = np.bincount(place_E, weights=weight_E, minlength=num_scenarios * num_items)
        count_SM = count_SM.reshape(num_scenarios, num_items)
        total_S1 = np.maximum(count_SM.sum(axis=1, keepdims=True), 1e-9)
        share_SM = UNIFORM / num_items + (1 - UNIFORM) * count_SM / total_S1
        self._chance_SM = np.stack([_chances(share_M, size) for share_M in share_SM])
        self._end_SM = self._chance_SM.cumsum(axis=1)

    def draw(self, scenario: int, *, epoch: int, step: int) -> tuple[Longs, Floats]:
        """Return ``[N]`` rows of distinct items, ascending, and the log of each one's chance."""
        rng = generator(self._seed, "catalogue", epoch, step, scenario)
        # Chances laid end to end on a line, met at steps of 1 from a random start.
        points_N = rng.random() + np.arange(self._size)
        place_N = np.searchsorted(self._end_SM[scenario], points_N, side="right")
        place_N = np.minimum(place_N, self._end_SM.shape[1] - 1)
        return place_N + FIRST_ROW, np.log(self._chance_SM[scenario, place_N])


def _chances(share_M: Floats, size: int) -> Floats:
    """Return each item's chance: in proportion to its share, at most 1, ``size`` in sum."""
    falling_M = np.sort(share_M)[::-1]
    left_M = falling_M[::-1].cumsum()[::-1]
    certain_M = np.arange(len(share_M))
    # The fewest that are certain, so that nobody after them would be more than certain.
    num_certain = int(np.argmax((size - certain_M) * falling_M <= left_M * (1 + 1e-12)))
    chance_M: Floats = np.minimum(share_M * ((size - num_certain) / left_M[num_certain]), 1.0)
    return chance_M


class _Excluded:
    """Groups of pool positions; each training row excludes one group.

    ``key`` holds ``group * stride + (position - rank)``, ascending, with ``rank`` the number of
    smaller positions in the group: an excluded position lies below the r-th allowed one exactly
    when its ``position - rank`` is at most r.
    """

    def __init__(self, group_E: Longs, group_X: Longs, position_X: Longs, *, stride: int) -> None:
        num_groups = int(max(group_E.max(initial=-1), group_X.max(initial=-1))) + 1
        self._group_E = group_E
        self._stride = stride
        order = np.lexsort((position_X, group_X))
        group_X, position_X = group_X[order], position_X[order]
        count = np.bincount(group_X, minlength=num_groups)
        self._start = np.concatenate([[0], np.cumsum(count)])
        rank_X = np.arange(len(group_X)) - self._start[group_X]
        self._key = group_X * stride + (position_X - rank_X)
        self.count_E: Longs = count[group_E]

    def skip(self, rows_B: Longs, rank_BN: Longs) -> Longs:
        """Return the pool positions of the rank-th allowed items."""
        group_B1 = self._group_E[rows_B][:, None]
        below_BN = np.searchsorted(self._key, group_B1 * self._stride + rank_BN, side="right")
        positions_BN: Longs = rank_BN + (below_BN - self._start[group_B1])
        return positions_BN


def _excluded(train: Positives, pool: Longs, *, exclude: str) -> _Excluded:
    item_E = np.asarray(train.item, dtype=np.int64)
    rows_E = np.arange(len(item_E), dtype=np.int64)
    stride = len(pool) + 1
    if exclude == "none":
        nothing = np.empty(0, dtype=np.int64)
        return _Excluded(np.zeros_like(rows_E), nothing, nothing, stride=stride)
    position_E = np.searchsorted(pool, item_E)
    if exclude == "positive":
        return _Excluded(rows_E, rows_E, position_E, stride=stride)
    # All that the user is a positive with, in any scenario; later windows stay unread.
    user_E = np.asarray(train.user, dtype=np.int64)
    pairs = np.unique(user_E * stride + position_E)
    return _Excluded(user_E, pairs // stride, pairs % stride, stride=stride)
