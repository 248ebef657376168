"""What is popular, as a prior for the towers to correct: in a scenario, and with a cell of users.

Items that were shown without a click count too, for less: what a recommender shows in a scenario
is most of what can be clicked there, and a sparse scenario has many more impressions than clicks.

Letters: R item rows, S scenarios, K cells of users (cell 0 is everybody else), F user columns that
make the cells, B queries, P (item, scenario) pairs, E training rows, U user rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from perscen.data.segments import choose_segments
from perscen.data.splits import Splits
from perscen.schema import Schema

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

HALF_LIFE_DAYS: Final = 7.0
"""An impression counts half as much after this long, seen from the end of the training window."""

SHOWN_WORTH: Final = 0.25
"""What an impression without a click is worth, measured in clicks."""

PRIOR_CLICKS: Final = 200.0
"""Clicks that the global shares are worth in each scenario: what a sparse one is shrunk towards."""

UNIFORM_CLICKS: Final = 0.05
"""Clicks every catalogue item starts with, so that one without any keeps a finite share."""

NUM_CELLS: Final = 16
"""Cells of users with shares of their own, the one of everybody else among them."""

SEGMENT_COLUMNS: Final = 2
"""User columns that make the cells."""

_MS_PER_DAY: Final = 86_400_000


@dataclass(frozen=True)
class Seen:
    """Rows of the training window: who saw what, where, when, and whether it was clicked."""

    user: Ints
    item: Ints
    scenario: Ints
    time_ms: Longs
    clicked: NDArray[np.bool_]


@dataclass(frozen=True)
class Popularity:
    """The training window's impressions, counted by item, scenario and cell, and what they say.

    Attributes:
        end_ms: When the newest of them was.
        cell_U: Each user row's cell.
        strength_S: Clicks that a scenario's shares are worth in each of its cells.
        worth_KSR: Decayed clicks, with impressions at their worth; of cell 0 nothing is counted.
        worth_SR: The same over all users.
    """

    end_ms: int
    cell_U: Longs
    strength_S: Floats
    worth_KSR: Floats
    worth_SR: Floats

    @classmethod
    def of(cls, splits: Splits, cell_U: Longs, strength_S: Floats, *, num_cells: int) -> Self:
        """Count the impressions of the training window."""
        num_rows, num_scenarios = splits.schema.num_item_rows, len(splits.schema.scenarios)
        seen = splits.impressions
        end_ms = int(np.asarray(seen.time_ms).max(initial=0))
        key_N = np.asarray(seen.scenario, dtype=np.int64) * num_rows + seen.item
        worth_N = _worth(np.asarray(seen.time_ms), np.asarray(seen.clicked), end_ms)
        size = num_scenarios * num_rows
        cell_N = cell_U[seen.user]
        worth_KSR = np.bincount(
            cell_N * size + key_N, weights=worth_N * (cell_N > 0), minlength=num_cells * size
        ).reshape(num_cells, num_scenarios, num_rows)
        worth_SR = np.bincount(key_N, weights=worth_N, minlength=size).reshape(-1, num_rows)
        return cls(
            end_ms, cell_U, strength_S, worth_KSR.astype(np.float64), worth_SR.astype(np.float64)
        )

    def log_shares(self) -> Floats:
        """Return ``[K, S, R]``: log of each item's share of its cell's clicks over 1 / R.

        Measured against the uniform share an average item starts near 0, where sampled losses want
        it; within a scenario the difference is a constant and ranks nothing.
        """
        return self._log_share(
            self.worth_SR.sum(axis=0),
            self.worth_SR,
            self.worth_SR.sum(axis=1)[:, None],
            self.worth_KSR,
            self.worth_KSR.sum(axis=2)[:, :, None],
            self.strength_S[:, None],
            own=np.zeros(()),
        )

    def own_contribution(self, seen: Seen) -> Floats:
        """Return ``[E]``: what a row itself adds to the log share of its item in its cell, >= 0."""
        cell, scenario, item = self.cell_U[seen.user], seen.scenario, seen.item
        counts = (
            self.worth_SR.sum(axis=0)[item],
            self.worth_SR[scenario, item],
            self.worth_SR.sum(axis=1)[scenario],
            self.worth_KSR[cell, scenario, item],
            self.worth_KSR.sum(axis=2)[cell, scenario],
            self.strength_S[scenario],
        )
        own = _worth(seen.time_ms, seen.clicked, self.end_ms)
        return self._log_share(*counts, own=np.zeros(())) - self._log_share(*counts, own=own)

    def _log_share(
        self,
        of_item: Floats,
        in_scenario: Floats,
        scenario: Floats,
        in_cell: Floats,
        cell: Floats,
        strength: Floats,
        *,
        own: Floats,
    ) -> Floats:
        """Return the log share from counts of which each has lost ``own``."""
        num_rows = self.worth_SR.shape[1]
        of_item, in_scenario, scenario, in_cell, cell = (
            np.maximum(count - own, 0) for count in (of_item, in_scenario, scenario, in_cell, cell)
        )
        everything = np.maximum(self.worth_SR.sum() - own, 0)
        share = (of_item + UNIFORM_CLICKS) / (everything + UNIFORM_CLICKS * num_rows)
        share = (in_scenario + PRIOR_CLICKS * share) / (scenario + PRIOR_CLICKS)
        share = (in_cell + strength * share) / (cell + strength)
        log_share: Floats = np.log(share * num_rows)
        return log_share


class PopularityPrior(nn.Module):
    """What popularity adds to a score: K dimensions of both vectors, so one inner product stays.

    A user's are 1 at the cell he is in, an item's are its log shares in the scenario. Nothing
    trains it: it is counted anew from each training window.

    Args:
        schema: The data's fields.
        segments: Whether there are cells of users; otherwise all are in cell 0.
    """

    log_share_RSK: Tensor
    columns_F: Tensor
    rows_KF: Tensor

    def __init__(self, schema: Schema, *, segments: bool) -> None:
        super().__init__()
        self.num_cells = NUM_CELLS if segments and schema.user.categorical else 1
        shape = (schema.num_item_rows, len(schema.scenarios), self.num_cells)
        self.register_buffer("log_share_RSK", torch.zeros(shape))
        self.register_buffer("columns_F", torch.zeros(SEGMENT_COLUMNS, dtype=torch.int64))
        # What a user has in these columns in each cell; no user has row -1.
        no_user = torch.full((self.num_cells, SEGMENT_COLUMNS), -1)
        self.register_buffer("rows_KF", no_user)
        self._popularity: Popularity | None = None

    @torch.no_grad()
    def start_from(self, splits: Splits) -> None:
        """Choose the cells and count, in the training window alone."""
        cell_U = np.zeros(len(splits.users.ids), dtype=np.int64)
        strength_S = np.ones(len(splits.schema.scenarios))
        if self.num_cells > 1:
            cell_U, strength_S = self._choose_cells(splits)
        counted = Popularity.of(splits, cell_U, strength_S, num_cells=self.num_cells)
        self.log_share_RSK.copy_(torch.from_numpy(counted.log_shares().transpose(2, 1, 0)))
        self._popularity = counted

    def user(self, categorical_BF: Tensor) -> Tensor:
        """Return ``[B, K]``, 1 at each user's cell and 0 elsewhere."""
        if self.num_cells == 1:
            return self.log_share_RSK.new_ones(len(categorical_BF), 1)
        rows_B1F = categorical_BF[:, self.columns_F][:, None]
        in_cell_BK = (rows_B1F == self.rows_KF).all(dim=2)
        nowhere_B1 = ~in_cell_BK.any(dim=1, keepdim=True)
        in_cell_BK = torch.cat([nowhere_B1, in_cell_BK[:, 1:]], dim=1)
        return in_cell_BK.to(self.log_share_RSK.dtype)

    def item(self, row_P: Tensor, scenario_P: Tensor) -> Tensor:
        """Return ``[P, K]``, the log shares of items in scenarios."""
        return self.log_share_RSK[row_P, scenario_P]

    def own_contribution(self, seen: Seen) -> Floats:
        """Return ``[E]``: what each row of the training window adds to the score of its own item.

        A click is counted in the very share that it is then predicted from. Unless that is taken
        off while training, the prior looks better than it is, most of all in small cells. Nothing
        before :meth:`start_from`.
        """
        if self._popularity is None:
            return np.zeros(len(seen.item))
        return self._popularity.own_contribution(seen)

    def _choose_cells(self, splits: Splits) -> tuple[Longs, Floats]:
        """Return each user's cell and each scenario's strength; cells are the largest segments."""
        segments = choose_segments(splits, num_columns=SEGMENT_COLUMNS)
        names = [field.name for field in splits.schema.user.categorical]
        columns = [names.index(name) for name in segments.columns]
        if not columns:
            self.rows_KF.fill_(-1)
            return np.zeros(len(splits.users.ids), dtype=np.int64), np.array(segments.strengths)
        columns += columns[-1:] * (SEGMENT_COLUMNS - len(columns))
        clicks = np.bincount(segments.cell_of_user[splits.train.user], minlength=segments.num_cells)
        kept = np.argsort(-clicks, kind="stable")[: self.num_cells - 1]
        cell_of_segment = np.zeros(segments.num_cells, dtype=np.int64)
        cell_of_segment[kept] = np.arange(1, len(kept) + 1)
        _, somebody = np.unique(segments.cell_of_user, return_index=True)
        rows_UF = np.asarray(splits.users.categorical_RF)[:, columns].astype(np.int64)
        self.columns_F.copy_(torch.tensor(columns))
        self.rows_KF.fill_(-1)
        self.rows_KF[1 : len(kept) + 1] = torch.from_numpy(rows_UF[somebody[kept]])
        return cell_of_segment[segments.cell_of_user], np.array(segments.strengths)


def log_popularity(splits: Splits) -> Tensor:
    """Return ``[R, S]`` float32: log of each item's share of a scenario, shrunk, over 1 / R."""
    nobody = np.zeros(len(splits.users.ids), dtype=np.int64)
    alike = np.ones(len(splits.schema.scenarios))
    counted = Popularity.of(splits, nobody, alike, num_cells=1)
    return torch.from_numpy(counted.log_shares()[0].T).float()


def _worth(time_ms: Longs, clicked: NDArray[np.bool_], end_ms: int) -> Floats:
    age = (end_ms - time_ms) / _MS_PER_DAY
    worth: Floats = 0.5 ** (age / HALF_LIFE_DAYS) * np.where(clicked, 1.0, SHOWN_WORTH)
    return worth
