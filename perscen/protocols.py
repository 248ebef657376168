"""Protocols: which days, users and scenarios of a data set a comparison is made on, and at which K.

``slice`` counts its windows back from the logical date, as a daily run does. The others are those
of Du et al. 2025 (arXiv:2506.18382), for the whole archives; what they must come to is Table 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any, Final, NamedTuple

import numpy as np

from perscen.config import (
    Config,
    DataConfig,
    EvaluateConfig,
    GateConfig,
    IndexConfig,
    RunConfig,
    SplitConfig,
)
from perscen.data.splits import Splits
from perscen.errors import ConfigError, unknown_name
from perscen.models.config import GnnConfig, VqConfig
from perscen.recipes import recipe_named


class Counts(NamedTuple):
    """What Table 1 says of a data set: users and clicks are those that the filters leave.

    ``shares`` are the scenarios' shares of the clicks in [0, 1], by falling volume.
    """

    num_scenarios: int
    num_users: int
    num_items: int
    num_interactions: int
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Protocol:
    """Settings that belong to a data set, whatever the model.

    Attributes:
        logical_date: Last day of the test window.
        window_days: All three windows together.
        ks: The two K of recall and hits; the larger one is watched in training.
        exact_below: Catalogues smaller than this are searched exactly.
        perscen: PERSCEN's own settings for this data under the recipe ``paper`` (Table 6).
        paper: What the paper counts; None where it says nothing.
    """

    logical_date: date
    split: SplitConfig
    window_days: int = 11
    ks: tuple[int, int] = (50, 100)
    exact_below: int = 200_000
    perscen: tuple[tuple[str, Any], ...] = ()
    paper: Counts | None = None


SLICE: Final = Protocol(
    logical_date=date(2022, 5, 5),
    split=SplitConfig(train_days=7, valid_days=2, test_days=2),
)

PAPER_KUAIRAND: Final = Protocol(
    logical_date=date(2022, 5, 8),
    window_days=31,
    split=SplitConfig(
        train=(date(2022, 4, 8), date(2022, 4, 21)),
        valid=(date(2022, 4, 22), date(2022, 4, 28)),
        test=(date(2022, 4, 29), date(2022, 5, 8)),
        day_from="log_date",
        min_interactions_scope="all",
    ),
    paper=Counts(4, 24_122, 7_583, 650_283, (0.84, 0.09, 0.04, 0.03)),
)

PAPER_ALIMAMA: Final = Protocol(
    logical_date=date(2017, 5, 13),
    window_days=8,
    split=SplitConfig(
        train=(date(2017, 5, 6), date(2017, 5, 11)),
        valid=(date(2017, 5, 12), date(2017, 5, 12)),
        test=(date(2017, 5, 13), date(2017, 5, 13)),
        min_interactions_scope="all",
    ),
    ks=(500, 1000),
    exact_below=1_000_000,
    perscen=(("gnn", GnnConfig(layers=1)), ("vq", VqConfig(codebook_size=5))),
    paper=Counts(4, 138_622, 846_811, 933_633, (0.45, 0.25, 0.20, 0.10)),
)

PROTOCOLS: Final[dict[str, Protocol]] = {
    "slice": SLICE,
    "paper-kuairand": PAPER_KUAIRAND,
    "paper-alimama": PAPER_ALIMAMA,
}


def protocol_named(name: str) -> Protocol:
    """Return a protocol.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, sorted(PROTOCOLS))
    return PROTOCOLS[name]


def config_of(
    protocol: Protocol, *, recipe: str, family: str, logical_date: date | None = None
) -> Config:
    """Return every setting of a run: the protocol's, and a recipe's of a family.

    Raises:
        ConfigError: There is no such recipe or family, or the protocol's windows are of fixed days
            and do not end on the logical date.
    """
    model, train = recipe_named(recipe, family=family)
    if recipe == "paper" and family == "perscen":
        model = model.model_copy(update=dict(protocol.perscen))
    fixed = protocol.split.test
    if fixed and logical_date not in (None, fixed[1]):
        raise ConfigError(
            f"the protocol's test window ends on {fixed[1]}, not on {logical_date}",
            hint="leave --logical-date out",
        )
    low_k, high_k = protocol.ks
    return Config(
        run=RunConfig(logical_date=logical_date or protocol.logical_date),
        data=DataConfig(window_days=protocol.window_days),
        split=protocol.split,
        model=model,
        train=train.model_copy(update={"monitor_k": high_k}),
        index=IndexConfig(flat_below=protocol.exact_below, recall_k=high_k),
        evaluate=EvaluateConfig(ks=protocol.ks),
        gate=GateConfig(k=low_k),
    )


def count(splits: Splits) -> Counts:
    """Return what Table 1 counts, of splits: users and clicks of all three windows together."""
    num_scenarios = len(splits.schema.scenarios)
    clicks_RS = np.diff(splits.histories.spec_offsets).reshape(-1, num_scenarios)
    clicks_S = clicks_RS.sum(axis=0)
    return Counts(
        num_scenarios=num_scenarios,
        num_users=int(clicks_RS.any(axis=1).sum()),
        num_items=len(splits.vocabularies["items"]),
        num_interactions=int(clicks_S.sum()),
        shares=tuple(sorted((clicks_S / clicks_S.sum()).tolist(), reverse=True)),
    )
