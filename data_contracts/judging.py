"""Is a day within the contract's tolerances? Every reason why not, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from data_contracts.checking import Checked
from data_contracts.compile import broken_rows
from data_contracts.contract import Rule, TableContract


@dataclass(frozen=True)
class Tally:
    """What became of the rows of one day or feature table, in numbers."""

    num_rows: int
    good: int
    quarantined: int
    dropped: int
    rules: dict[str, int]
    """Rows that break each rule."""
    clicks: dict[str, int] = field(default_factory=dict)
    """Of a log, good rows with a click, per scenario."""
    impressions: dict[str, int] = field(default_factory=dict)
    """Of a log, good rows, per scenario."""
    summary: dict[str, float] = field(default_factory=dict)
    """The day's row of the contract's table of days; NaN for what does not apply to it."""
    reasons: list[str] = field(default_factory=list)
    """Why it is beyond tolerance; empty when it is not."""

    @classmethod
    def of(cls, checked: Checked, **more: Any) -> Tally:
        """Return the numbers of checked rows."""
        return cls(
            num_rows=checked.num_rows,
            good=checked.good.num_rows,
            quarantined=checked.quarantined.num_rows,
            dropped=checked.dropped,
            rules=checked.rule_counts,
            **more,
        )

    @property
    def num_distinct(self) -> int:
        """Rows without the exact duplicates."""
        return self.num_rows - self.dropped


def tolerance_reasons(contract: TableContract, checked: Checked, *, what: str) -> list[str]:
    """Return why a table or day breaks its contract beyond tolerance; empty when it does not.

    Args:
        contract: Whose tolerances.
        checked: The rows.
        what: How to call them in the reasons.
    """
    total = checked.num_distinct
    if not total:
        return [f"{what} has no rows"]
    bad = checked.quarantined.num_rows
    worst, most = max(checked.rule_counts.items(), key=lambda item: item[1])
    reasons = []
    if bad > contract.tolerance * total:
        reasons.append(
            f"{bad:,} of {total:,} rows of {what} ({bad / total:.1%}) break the contract "
            f"{contract.contract!r}, at most {contract.tolerance:.1%} may; worst rule: {worst} "
            f"({most:,} rows)"
        )
    for rule in contract.rules:
        broken = checked.rule_counts[rule.name]
        if broken > rule.tolerance * total:
            reasons.append(
                f"{broken:,} of {total:,} rows of {what} ({broken / total:.1%}) break rule "
                f"{rule.name!r}, at most {rule.tolerance:.1%} may ({rule.description})"
            )
    return reasons


def summarise(
    checked: Checked,
    contract: TableContract,
    *,
    trailing: Sequence[Tally] = (),
    expected_scenarios: Sequence[str] | None = None,
) -> dict[str, float]:
    """Return a day's row of the contract's table of days.

    Args:
        checked: The day's rows.
        contract: Contract of the rows.
        trailing: The days its row count is compared with; none when it is not compared.
        expected_scenarios: Scenarios that must be there; ``None`` when that is not asked.
    """
    good = checked.good_frame
    columns = set(good.columns)
    values = {
        "rows_over_trailing": float("nan"),
        "missing_scenarios": float("nan"),
        "duplicate_share": checked.dropped / checked.num_rows if checked.num_rows else 0.0,
    }
    if trailing:
        mean = sum(day.num_distinct for day in trailing) / len(trailing)
        values["rows_over_trailing"] = checked.num_distinct / mean
    if expected_scenarios is not None:
        present = set(good[contract.canonical("scenario").name].unique())
        values["missing_scenarios"] = float(len(set(expected_scenarios) - present))
    if "days_from_partition" in columns:
        values["day_before_share"] = (
            float((good["days_from_partition"] < 0).mean()) if len(good) else 0.0
        )
    if "has_features" in columns:
        values["no_features_share"] = (
            float((good["has_features"] == 0).mean()) if len(good) else 0.0
        )
    return values


def day_checks(days: TableContract, summary: Mapping[str, float]) -> list[tuple[Rule, bool]]:
    """Return each rule about a whole day with whether it is kept; one that does not apply is."""
    frame = summary_frame(days, [summary])
    return [(rule, not broken_rows(rule, frame)[0]) for rule in days.rules]


def summary_frame(days: TableContract, summaries: Sequence[Mapping[str, float]]) -> pd.DataFrame:
    """Return the table of days as a parsed frame."""
    names = [column.name for column in days.columns]
    return pd.DataFrame(
        [[row[name] for name in names] for row in summaries], columns=names, dtype=float
    )


def day_reasons(days: TableContract, summary: Mapping[str, float]) -> list[str]:
    """Return why a whole day is beyond the contract; warnings are no reason."""
    return [
        f"{rule.name}: {rule.column} is {summary[rule.column]:.3g} ({rule.description})"
        for rule, kept in day_checks(days, summary)
        if not kept and rule.severity == "error"
    ]
