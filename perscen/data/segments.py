"""Which user columns make the segments of segment popularity: chosen on training clicks alone.

The score of a set of columns is the log-likelihood of the training clicks, each predicted by the
*other* clicks of its cell shrunk towards the other clicks of its scenario. Leaving the click itself
out makes small cells pay for their noise, so columns are added only while they predict.

Letters: E distinct (user, scenario, item) triples of the training rows, R user rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perscen.data.splits import Splits

Longs = NDArray[np.int64]

MAX_VALUES: Final = 64
"""A column of more vocabulary rows than this is no segment."""
_STRENGTHS: Final = (10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0)


@dataclass(frozen=True)
class Segments:
    """The chosen columns, and every user's cell.

    Attributes:
        columns: User columns, the most informative one first; empty when none predicts anything.
        cell_of_user: Cell number of each user row ``[R]``, from 0.
        num_cells: Number of cells that some user is in.
        strengths: Clicks' worth of its own distribution with which each scenario shrinks its cells.
    """

    columns: tuple[str, ...]
    cell_of_user: Longs
    num_cells: int
    strengths: tuple[float, ...]


def choose_segments(splits: Splits, *, num_columns: int) -> Segments:
    """Return the cells of the best ``num_columns`` low-cardinality user columns, added one by one.

    Adding stops early when no further column makes the training clicks more likely. The user's id
    is never a column.
    """
    table_RF = np.asarray(splits.users.categorical_RF, dtype=np.int64)
    candidates = {
        field.name: table_RF[:, place]
        for place, field in enumerate(splits.schema.user.categorical)
        if field.name != "user_id" and field.num_rows <= MAX_VALUES
    }
    clicks = _Clicks.of(splits)
    cell_R = np.zeros(len(table_RF), dtype=np.int64)
    columns: tuple[str, ...] = ()
    best, strengths = clicks.log_likelihood(cell_R)
    while candidates and len(columns) < num_columns:
        finer = {name: _refine(cell_R, column_R) for name, column_R in candidates.items()}
        scores = {name: clicks.log_likelihood(cells_R) for name, cells_R in finer.items()}
        name = max(scores, key=lambda column: scores[column][0])
        if scores[name][0] <= best:
            break
        best, strengths = scores[name]
        cell_R, columns = finer[name], (*columns, name)
        del candidates[name]
    return Segments(columns, cell_R, int(cell_R.max(initial=0)) + 1, strengths)


@dataclass(frozen=True)
class _Clicks:
    user_E: Longs
    scenario_E: Longs
    item_E: Longs
    num_scenarios: int
    prior_E: NDArray[np.float64]
    """Probability of each click's item given the other clicks of its scenario, smoothed by one."""

    @classmethod
    def of(cls, splits: Splits) -> _Clicks:
        # A user's repeats would let the copy predict the click that is left out.
        triples_E3 = np.unique(
            np.stack([splits.train.user, splits.train.scenario, splits.train.item], axis=1), axis=0
        ).astype(np.int64)
        user_E, scenario_E, item_E = triples_E3.T
        num_items = splits.schema.num_item_rows
        same_item_E = _occurrences(scenario_E * num_items + item_E)
        prior_E = same_item_E / (_occurrences(scenario_E) - 1 + num_items)
        return cls(user_E, scenario_E, item_E, len(splits.schema.scenarios), prior_E)

    def log_likelihood(self, cell_R: Longs) -> tuple[float, tuple[float, ...]]:
        """Return the best log-likelihood over the strengths, and the best strength per scenario."""
        cell_E = cell_R[self.user_E] * self.num_scenarios + self.scenario_E
        in_cell_E = _occurrences(cell_E) - 1
        with_item_E = _occurrences(cell_E * (int(self.item_E.max(initial=0)) + 1) + self.item_E) - 1
        by_strength = [
            np.bincount(
                self.scenario_E,
                weights=np.log((with_item_E + m * self.prior_E) / (in_cell_E + m)),
                minlength=self.num_scenarios,
            )
            for m in _STRENGTHS
        ]
        best_S = np.argmax(by_strength, axis=0)
        return float(np.max(by_strength, axis=0).sum()), tuple(_STRENGTHS[m] for m in best_S)


def _refine(cell_R: Longs, column_R: Longs) -> Longs:
    """Return the cells of both, numbered without gaps."""
    keys_R = cell_R * (int(column_R.max(initial=0)) + 1) + column_R
    cells_R: Longs = np.unique(keys_R, return_inverse=True)[1].astype(np.int64)
    return cells_R


def _occurrences(keys_E: Longs) -> Longs:
    """Return how often each element's value occurs."""
    _, place_E, counts = np.unique(keys_E, return_inverse=True, return_counts=True)
    occurrences: Longs = counts.astype(np.int64)[place_E]
    return occurrences
