"""The door: every row is good, quarantined with all the rules it broke, or an exact duplicate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from data_contracts.compile import broken_rows
from data_contracts.contract import TableContract
from data_contracts.parsing import Surroundings, parse_rows, text_columns

BROKEN_RULES: Final = "broken_rules"


@dataclass(frozen=True)
class Checked:
    """What became of the rows of one table or day; ``num_rows = good + quarantined + dropped``."""

    num_rows: int
    good: pa.Table
    """Raw rows that keep every rule, in their order."""
    good_frame: pd.DataFrame
    """The same rows, parsed."""
    quarantined: pa.Table
    """Raw rows that break a rule, whole, with ``broken_rules``: every rule each breaks."""
    dropped: int
    """Exact duplicates of an earlier row."""
    distinct_frame: pd.DataFrame
    """Every row but the duplicates, parsed: what the rules were put to."""
    rule_counts: dict[str, int]
    """Rows that break each rule, over all rules of the contract in its order."""

    @property
    def num_distinct(self) -> int:
        """Rows without the exact duplicates: what shares are shares of."""
        return self.num_rows - self.dropped


def check(rows: pa.Table, contract: TableContract, surroundings: Surroundings) -> Checked:
    """Put every rule of a contract to every row.

    Duplicates go first: of rows equal in all columns the first is judged, the others dropped.
    """
    parsed = parse_rows(rows, contract, surroundings)
    repeats: NDArray[np.bool_] = parsed[text_columns(contract)].duplicated().to_numpy()
    distinct = parsed.loc[~repeats].reset_index(drop=True)
    raw = rows.filter(pa.array(~repeats))
    broken = np.zeros((len(distinct), len(contract.rules)), dtype=np.bool_)
    for position, rule in enumerate(contract.rules):
        broken[:, position] = broken_rows(rule, distinct)
    bad = np.logical_or.reduce(broken, axis=1)
    names = [rule.name for rule in contract.rules]
    reasons = pa.array(
        [[names[position] for position in np.flatnonzero(row)] for row in broken[bad]],
        pa.list_(pa.string()),
    )
    return Checked(
        num_rows=len(rows),
        good=raw.filter(pa.array(~bad)),
        good_frame=distinct.loc[~bad].reset_index(drop=True),
        quarantined=raw.filter(pa.array(bad)).append_column(BROKEN_RULES, reasons),
        dropped=int(repeats.sum()),
        distinct_frame=distinct,
        rule_counts=dict(zip(names, (int(n) for n in broken.sum(axis=0)), strict=True)),
    )
