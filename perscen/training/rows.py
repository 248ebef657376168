"""What a model is trained on: clicks, and items shown without one as positives of less weight.

Letters: E rows, C of them clicks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perscen.config import ShownConfig
from perscen.data.sequences import slices_before
from perscen.data.splits import Slices, Splits
from perscen.models.popularity import Seen

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrainingRows:
    """All rows: the clicks of the splits in their order, then what else was shown.

    Attributes:
        seen: Who met what, where and when.
        slices: Each row's histories, strictly before it.
        weight_E: What a row counts in the loss: 1 for a click.
        num_clicks: C; the first C rows are clicks.
    """

    seen: Seen
    slices: Slices
    weight_E: Floats
    num_clicks: int

    @classmethod
    def of(cls, splits: Splits, config: ShownConfig) -> TrainingRows:
        """Return the clicks of the training window, and its other impressions if they count."""
        train, shown = splits.train, splits.impressions
        num_clicks = len(train.item)
        own = np.flatnonzero(~np.asarray(shown.clicked)) if config.weight else np.zeros(0, np.int64)

        def column(of: Callable[[Any], Any]) -> NDArray[Any]:
            return np.concatenate([np.asarray(of(train)), np.asarray(of(shown))[own]])

        seen = Seen(
            user=column(lambda rows: rows.user),
            item=column(lambda rows: rows.item),
            scenario=column(lambda rows: rows.scenario),
            time_ms=column(lambda rows: rows.time_ms),
            clicked=np.arange(num_clicks + len(own)) < num_clicks,
        )
        before = slices_before(
            splits.histories,
            seen.user[num_clicks:],
            seen.scenario[num_clicks:],
            seen.time_ms[num_clicks:],
            max_seq_len=splits.schema.max_seq_len,
            spec_seq_source=splits.schema.spec_seq_source,
        )
        return cls(
            seen=seen,
            slices=Slices(
                *(
                    np.concatenate([getattr(splits.train_slices, f.name), getattr(before, f.name)])
                    for f in fields(Slices)
                )
            ),
            weight_E=np.where(seen.clicked, 1.0, config.weight),
            num_clicks=num_clicks,
        )
