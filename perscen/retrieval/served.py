"""The users a bundle serves: their features and their histories up to and including its date.

Letters: B queries, R user rows, S scenarios.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perscen.data.batches import Packed, UserBatch, pack
from perscen.data.splits import Columns, FeatureTable, Ints, Longs, Slices, Splits
from perscen.schema import FIRST_ROW, UNKNOWN_ROW


@dataclass(frozen=True)
class ServedHistories(Columns):
    """The item rows that the served slices point into."""

    items: Ints
    spec_items: Ints
    shown_items: Ints


@dataclass(frozen=True)
class ServedUsers:
    """Every known user, and the unknown one at row 0 with an empty history.

    Attributes:
        slices: Histories per (user row, scenario), ``[R * S]``; row ``u * S + s``.
    """

    features: FeatureTable
    histories: ServedHistories
    slices: Slices

    @classmethod
    def of(cls, splits: Splits) -> ServedUsers:
        """Return the users of the splits, with no more of their past than is served."""
        served = splits.served
        reserved = FIRST_ROW * len(splits.schema.scenarios)
        kept, bounds = [], []
        for values, start, end in (
            (splits.histories.items, served.start, served.end),
            (splits.histories.spec_items, served.spec_start, served.spec_end),
            (splits.histories.shown_items, served.shown_start, served.shown_end),
        ):
            items, start, end = _only_served(np.asarray(values), start, end, reserved=reserved)
            kept.append(items)
            bounds += [start, end]
        return cls(splits.users, ServedHistories(*kept), Slices(*bounds))

    def save(self, directory: Path) -> None:
        """Write everything below ``directory``."""
        for name, part in self._parts().items():
            part.save(directory / name)

    @classmethod
    def open(cls, directory: Path) -> ServedUsers:
        """Return the users in ``directory``, arrays memory-mapped read-only."""
        return cls(
            features=FeatureTable.open(directory / "features"),
            histories=ServedHistories.open(directory / "histories"),
            slices=Slices.open(directory / "slices"),
        )

    def rows_of(self, user_ids: list[str]) -> NDArray[np.int64]:
        """Return each user's row; that of the unknown user for ids that are not known."""
        return np.array([self._row_of.get(user, UNKNOWN_ROW) for user in user_ids], np.int64)

    def batch(self, rows_B: NDArray[np.int64], scenario_B: NDArray[np.int64]) -> UserBatch:
        """Return the queries of user rows, each in its scenario."""
        table, slices, flat = self.features, self.slices, self._flat
        num_scenarios = len(slices.start) // len(table.ids)
        places = rows_B * num_scenarios + scenario_B

        def history(name: str, start: Longs, end: Longs) -> Packed:
            return pack(flat[name], start[places], end[places])

        def by_scenario() -> Packed:
            everywhere = (rows_B[:, None] * num_scenarios + np.arange(num_scenarios)).ravel()
            bounds = slices.spec_start[everywhere], slices.spec_end[everywhere]
            return pack(flat["spec_items"], *bounds)

        return UserBatch(
            categorical_BF=_tensor(table.categorical_RF[rows_B]).long(),
            dense_BF=_tensor(table.dense_RF[rows_B]),
            bags=tuple(
                pack(flat[f"bag_{number}"], bag.offsets[rows_B], bag.offsets[rows_B + 1])
                for number, bag in enumerate(table.bags)
            ),
            history=history("items", slices.start, slices.end),
            spec_history=history("spec_items", slices.spec_start, slices.spec_end),
            shown=history("shown_items", slices.shown_start, slices.shown_end),
            scenario_B=_tensor(scenario_B),
            by_scenario=by_scenario,
        )

    @cached_property
    def _flat(self) -> dict[str, Tensor]:
        """All packed values as tensors, read once."""
        histories = {
            f.name: _tensor(getattr(self.histories, f.name)) for f in fields(self.histories)
        }
        bags = enumerate(self.features.bags)
        return histories | {f"bag_{number}": _tensor(bag.values) for number, bag in bags}

    @cached_property
    def _row_of(self) -> dict[str, int]:
        known = self.features.ids[FIRST_ROW:].tolist()
        return {user: row for row, user in enumerate(known, start=FIRST_ROW)}

    def _parts(self) -> dict[str, FeatureTable | Columns]:
        return {"features": self.features, "histories": self.histories, "slices": self.slices}


def _only_served(
    values: Ints, start: Longs, end: Longs, *, reserved: int
) -> tuple[Ints, Longs, Longs]:
    """Return the values within any slice and the slices moved onto them; reserved rows get none."""
    start, end = np.array(start), np.array(end)
    end[:reserved] = start[:reserved]
    depth = np.zeros(len(values) + 1, dtype=np.int64)
    np.add.at(depth, start, 1)
    np.add.at(depth, end, -1)
    kept = np.cumsum(depth)[:-1] > 0
    place = np.concatenate([[0], np.cumsum(kept)])
    return values[kept], place[start], place[end]


def _tensor(values: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.array(values))
