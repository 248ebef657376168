"""Batches as tensors: columnar, gathered by index, sequences packed end to end.

Letters: B rows of the batch, F fields, V packed values of all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perscen.data.sequences import clicks_by_scenario
from perscen.data.splits import FeatureTable, Ragged, Slices, Splits


@dataclass(frozen=True)
class Packed:
    """Sequences laid end to end: row ``b`` is ``values_V[offsets_B1[b]:offsets_B1[b + 1]]``."""

    values_V: Tensor
    offsets_B1: Tensor

    def take(self, rows_K: Tensor) -> Packed:
        """Return some of the rows, in the order asked for."""
        return _pack(self.values_V, self.offsets_B1[rows_K], self.offsets_B1[rows_K + 1])


@dataclass(frozen=True)
class ItemBatch:
    """Item rows with their features; scenario-free."""

    rows_B: Tensor
    """Rows of the item table, int64."""
    categorical_BF: Tensor
    dense_BF: Tensor
    bags: tuple[Packed, ...]

    def take(self, rows_K: Tensor) -> ItemBatch:
        """Return some of the items, in the order asked for."""
        return ItemBatch(
            rows_B=self.rows_B[rows_K],
            categorical_BF=self.categorical_BF[rows_K],
            dense_BF=self.dense_BF[rows_K],
            bags=tuple(bag.take(rows_K) for bag in self.bags),
        )


def _not_given() -> Packed:
    raise LookupError("these queries came without their clicks by scenario")


@dataclass(frozen=True)
class UserBatch:
    """Queries: a user's features and histories in one scenario each."""

    categorical_BF: Tensor
    dense_BF: Tensor
    bags: tuple[Packed, ...]
    history: Packed
    """Multi-scenario clicks before the query, oldest first."""
    spec_history: Packed
    """The scenario's own clicks before the query, oldest first."""
    shown: Packed
    """Items shown to the user before the query and not clicked, oldest first."""
    scenario_B: Tensor
    by_scenario: Callable[[], Packed] = _not_given
    """Makes each query's clicks of every scenario, at most T each, oldest first: query ``b``'s of
    scenario ``s`` are row ``b * S + s``. Few models read them, so nobody else pays for them."""

    def take(self, rows_K: Tensor) -> UserBatch:
        """Return some of the queries, in the order asked for."""

        def by_scenario() -> Packed:
            whole = self.by_scenario()
            num = (len(whole.offsets_B1) - 1) // max(len(self.scenario_B), 1)
            places_KS = rows_K[:, None] * num + torch.arange(num, device=rows_K.device)
            return whole.take(places_KS.flatten())

        return UserBatch(
            categorical_BF=self.categorical_BF[rows_K],
            dense_BF=self.dense_BF[rows_K],
            bags=tuple(bag.take(rows_K) for bag in self.bags),
            history=self.history.take(rows_K),
            spec_history=self.spec_history.take(rows_K),
            shown=self.shown.take(rows_K),
            scenario_B=self.scenario_B[rows_K],
            by_scenario=by_scenario,
        )


class ItemSource:
    """Gathers item batches from the catalogue."""

    def __init__(self, items: FeatureTable, *, device: torch.device | str = "cpu") -> None:
        self._table = _TableOnDevice(items, device=device)
        self.num_rows = len(items.ids)

    def batch(self, rows_B: Tensor) -> ItemBatch:
        """Return the features of item rows ``[B]``."""
        categorical, dense, bags = self._table.gather(rows_B)
        return ItemBatch(rows_B=rows_B, categorical_BF=categorical, dense_BF=dense, bags=bags)


class UserSource:
    """Gathers user batches from user rows and history slices."""

    def __init__(self, splits: Splits, *, device: torch.device | str = "cpu") -> None:
        self._table = _TableOnDevice(splits.users, device=device)
        self._items = torch.from_numpy(np.array(splits.histories.items)).to(device)
        self._spec_items = torch.from_numpy(np.array(splits.histories.spec_items)).to(device)
        self._shown_items = torch.from_numpy(np.array(splits.histories.shown_items)).to(device)
        self._histories = splits.histories
        self._max_seq_len = splits.schema.max_seq_len
        self._device = torch.device(device)

    def batch(
        self,
        user_B: NDArray[np.int32],
        scenario_B: NDArray[np.int32],
        slices: Slices,
        rows_B: NDArray[np.int64],
    ) -> UserBatch:
        """Return the queries at ``rows_B`` of a table: its users, scenarios and slices."""
        users = torch.from_numpy(np.asarray(user_B[rows_B], dtype=np.int64)).to(self._device)
        categorical, dense, bags = self._table.gather(users)

        def by_scenario() -> Packed:
            bounds = clicks_by_scenario(
                self._histories,
                user_B[rows_B],
                slices.start[rows_B],
                slices.end[rows_B],
                max_seq_len=self._max_seq_len,
            )
            return pack(self._spec_items, *bounds)

        return UserBatch(
            categorical_BF=categorical,
            dense_BF=dense,
            bags=bags,
            history=pack(self._items, slices.start[rows_B], slices.end[rows_B]),
            spec_history=pack(self._spec_items, slices.spec_start[rows_B], slices.spec_end[rows_B]),
            shown=pack(self._shown_items, slices.shown_start[rows_B], slices.shown_end[rows_B]),
            scenario_B=torch.from_numpy(np.asarray(scenario_B[rows_B], dtype=np.int64)).to(
                self._device
            ),
            by_scenario=by_scenario,
        )


def pack(flat: Tensor, start_B: NDArray[np.int64], end_B: NDArray[np.int64]) -> Packed:
    """Return slices ``[start, end)`` of a flat array laid end to end, without a loop."""
    start, end = (torch.from_numpy(np.asarray(bound)) for bound in (start_B, end_B))
    return _pack(flat, start.to(flat.device), end.to(flat.device))


def _pack(flat: Tensor, start_B: Tensor, end_B: Tensor) -> Packed:
    lengths = end_B - start_B
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64, device=flat.device)
    torch.cumsum(lengths, 0, out=offsets[1:])
    positions = torch.arange(int(offsets[-1]), device=flat.device) + torch.repeat_interleave(
        start_B - offsets[:-1], lengths
    )
    return Packed(values_V=flat[positions].long(), offsets_B1=offsets)


class _TableOnDevice:
    def __init__(self, table: FeatureTable, *, device: torch.device | str) -> None:
        self._categorical_RF = torch.from_numpy(np.array(table.categorical_RF)).to(device)
        self._dense_RF = torch.from_numpy(np.array(table.dense_RF)).to(device)
        self._bags = table.bags
        self._bag_values = [torch.from_numpy(np.array(bag.values)).to(device) for bag in table.bags]

    def gather(self, rows_B: Tensor) -> tuple[Tensor, Tensor, tuple[Packed, ...]]:
        rows = rows_B.cpu().numpy()
        return (
            self._categorical_RF[rows_B].long(),
            self._dense_RF[rows_B],
            tuple(
                _gather_bag(bag, values, rows)
                for bag, values in zip(self._bags, self._bag_values, strict=True)
            ),
        )


def _gather_bag(bag: Ragged, values: Tensor, rows: NDArray[np.int64]) -> Packed:
    return pack(values, np.asarray(bag.offsets)[rows], np.asarray(bag.offsets)[rows + 1])
