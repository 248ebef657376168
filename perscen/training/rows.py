"""What a model is trained on: clicks, items shown without one, and what other scenarios say.

Letters: E rows, C of them clicks, S scenarios.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perscen.config import ShownConfig
from perscen.data.sequences import slices_before
from perscen.data.splits import Slices, Splits
from perscen.models.popularity import Seen

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]

_COLUMNS: Final = ("user", "item", "scenario", "time_ms")


@dataclass(frozen=True)
class TrainingRows:
    """All rows: the clicks of the splits in their order, what else was shown, then candidates.

    A candidate is a click as if it had been in another scenario, with the same user and time; a
    training may take it for a positive (:mod:`perscen.training.self_training`).

    Attributes:
        seen: Who met what, where and when.
        slices: Each row's histories, strictly before it.
        weight_E: What a row counts in the loss: 1 for a click and for a candidate.
        num_clicks: C; the first C rows are clicks.
        num_met: How many rows happened; those from here on are candidates.
    """

    seen: Seen
    slices: Slices
    weight_E: Floats
    num_clicks: int
    num_met: int

    @classmethod
    def of(cls, splits: Splits, config: ShownConfig, *, candidates: bool = False) -> TrainingRows:
        """Return the clicks of the training window, and its other impressions if they count."""
        train, shown = splits.train, splits.impressions
        num_clicks = len(train.item)
        own = np.flatnonzero(~np.asarray(shown.clicked)) if config.weight else _no_rows()
        num_met = num_clicks + len(own)
        row_K, scenario_K = elsewhere(splits) if candidates else (_no_rows(), _no_rows())

        def column(name: str) -> NDArray[Any]:
            clicks, others = np.asarray(getattr(train, name)), np.asarray(getattr(shown, name))
            guessed = scenario_K.astype(clicks.dtype) if name == "scenario" else clicks[row_K]
            return np.concatenate([clicks, others[own], guessed])

        columns = {name: column(name) for name in _COLUMNS}
        before = slices_before(
            splits.histories,
            columns["user"][num_clicks:],
            columns["scenario"][num_clicks:],
            columns["time_ms"][num_clicks:],
            max_seq_len=splits.schema.max_seq_len,
            spec_seq_source=splits.schema.spec_seq_source,
        )
        weight_E = np.ones(num_met + len(row_K))
        weight_E[num_clicks:num_met] = config.weight
        return cls(
            seen=Seen(**columns, clicked=np.arange(len(weight_E)) < num_clicks),
            slices=Slices(
                *(
                    np.concatenate([getattr(splits.train_slices, f.name), getattr(before, f.name)])
                    for f in fields(Slices)
                )
            ),
            weight_E=weight_E,
            num_clicks=num_clicks,
            num_met=num_met,
        )

    @property
    def clicks(self) -> Longs:
        """Numbers of the rows that are clicks."""
        return np.arange(self.num_clicks)

    @property
    def shown(self) -> Longs:
        """Numbers of the rows that were shown without a click."""
        return np.arange(self.num_clicks, self.num_met)

    @property
    def candidates(self) -> Longs:
        """Numbers of the rows that are clicks of other scenarios."""
        return np.arange(self.num_met, len(self.weight_E))

    @property
    def met(self) -> Seen:
        """The rows that happened."""
        return Seen(*(getattr(self.seen, f.name)[: self.num_met] for f in fields(Seen)))


def elsewhere(splits: Splits) -> tuple[Longs, Longs]:
    """Return clicks, by row of the training window, each with another scenario.

    Scenario by scenario, in the order of the clicks; what the user clicked there too is left out.
    """
    train, num_scenarios = splits.train, len(splits.schema.scenarios)
    pair_C = np.asarray(train.user, np.int64) * splits.schema.num_item_rows + np.asarray(train.item)
    key_SC = pair_C * num_scenarios + np.arange(num_scenarios)[:, None]
    clicked_C = pair_C * num_scenarios + np.asarray(train.scenario)
    scenario_K, row_K = np.nonzero(~np.isin(key_SC, clicked_C))
    return row_K, scenario_K


def _no_rows() -> Longs:
    return np.zeros(0, dtype=np.int64)
