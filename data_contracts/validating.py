"""The whole log through the door: tables first, then day by day, the newest day last."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.checking import Checked, check
from data_contracts.compile import broken_rows
from data_contracts.contract import Contract, TableContract, load_contract
from data_contracts.judging import (
    Tally,
    day_reasons,
    summarise,
    summary_frame,
    tolerance_reasons,
)
from data_contracts.parsing import Surroundings, interactions_of, typed_rows
from data_contracts.raw_files import RawFiles
from data_contracts.reporting import report_of
from data_contracts.suites import SecondOpinion
from perscen.errors import ArtifactError, ConfigError

logger = logging.getLogger(__name__)

DATA_DOCS: Final = "data_docs"
_EPOCH: Final = date(1970, 1, 1)


@dataclass(frozen=True)
class Contracts:
    """The three contracts of a source."""

    log: Contract
    users: Contract
    items: Contract

    @classmethod
    def of(cls, raw: RawFiles) -> Contracts:
        """Return the contracts a raw layout names for its tables.

        Raises:
            ArtifactError: It names none for a table.
            ConfigError: It names one there is not.
        """
        names = raw.manifest.contracts
        if missing := {"log", "users", "items"} - set(names):
            raise ArtifactError(
                f"{raw.directory}: source.json names no contract for {', '.join(sorted(missing))}",
                hint="import the log again with `perscen data`",
            )
        return cls(*(load_contract(names[table]) for table in ("log", "users", "items")))


@dataclass
class Validation:
    """What was found, ready to be reported; ``reasons`` is empty when the log may be used."""

    logical_date: date
    days: dict[date, Tally] = field(default_factory=dict)
    tables: dict[str, Checked] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    missing_days: list[date] = field(default_factory=list)
    missing_scenarios: list[str] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)

    def kept_days(self) -> dict[date, Tally]:
        """Return the days before the newest that are within tolerance."""
        return {
            day: tally
            for day, tally in self.days.items()
            if day != self.logical_date and not tally.reasons
        }


def validate_log(
    raw: RawFiles,
    output: Path,
    *,
    logical_date: date,
    window_days: int,
    trailing_days: int,
    utc_offset_hours: int,
) -> Validation:
    """Check the days up to the logical date; write the clean log and its Data Docs.

    Rows without a day are judged with the newest one. The caller must not use the output when the
    returned validation has reasons: the newest day, or a feature table, is beyond tolerance.

    Raises:
        ConfigError: The logical date lies outside the log's days.
        ArtifactError: A file is missing, changed or unreadable, or the day was not delivered.
        ContractBreach: A file does not have the contract's columns.
    """
    contracts = Contracts.of(raw)
    window = _window(raw.days(), logical_date, window_days)
    found = Validation(logical_date, missing_days=_gaps(window))
    opinion = SecondOpinion(output / DATA_DOCS)
    around = Surroundings(utc_offset_hours, references={}, partition_days=np.empty(0))
    for name, contract in (("users", contracts.users.table), ("items", contracts.items.table)):
        rows = raw.read_table(name, contract)
        around = replace(around, partition_days=np.full(len(rows), np.nan))
        checked = check(rows, contract, around)
        opinion.confirm(
            contract, checked.distinct_frame, batch=name, rule_counts=checked.rule_counts
        )
        _write(typed_rows(checked.good_frame, contract), output / name)
        _write_quarantine(checked.quarantined, output / "quarantine" / name)
        found.tables[name] = checked
        found.reasons += tolerance_reasons(contract, checked, what=f"the {name} table")
        around = replace(around, references={**around.references, name: checked.good})
    for day in window:
        _validate_day(
            day, raw, contracts.log, around, opinion, found, output, trailing_days=trailing_days
        )
    found.reasons += found.days[logical_date].reasons
    if len(window) > 1 and not found.kept_days():
        found.reasons.append(
            f"none of the {len(window) - 1} days before {logical_date} is within the contract, so "
            f"nothing is left to train on"
        )
    _confirm_days(contracts.log, opinion, found)
    opinion.write_docs()
    found.report = report_of(found, contracts)
    return found


def _window(days: Sequence[date], logical_date: date, window_days: int) -> list[date]:
    if not days:
        raise ArtifactError(
            "the raw log has no day at all", hint="import a log with `perscen data`"
        )
    if not days[0] <= logical_date <= days[-1]:
        raise ConfigError(
            f"run.logical_date {logical_date} lies outside the log, whose days are {days[0]} to "
            f"{days[-1]}",
            hint="give a --logical-date that the log has",
        )
    if logical_date not in days:
        raise ArtifactError(
            f"the log has no partition for {logical_date}, though it has days from {days[0]} to "
            f"{days[-1]}",
            hint="wait for the day's delivery, or run for another day",
        )
    first = logical_date - timedelta(days=window_days - 1)
    return [day for day in days if first <= day <= logical_date]


def _gaps(window: Sequence[date]) -> list[date]:
    span = (window[-1] - window[0]).days
    return [day for n in range(span) if (day := window[0] + timedelta(days=n)) not in set(window)]


def _validate_day(
    day: date,
    raw: RawFiles,
    contract: Contract,
    around: Surroundings,
    opinion: SecondOpinion,
    found: Validation,
    output: Path,
    *,
    trailing_days: int,
) -> None:
    table = contract.table
    newest = day == found.logical_date
    parts = [(raw.read_day(day, table), float((day - _EPOCH).days))]
    if newest:
        parts.append((raw.read_day(None, table), np.nan))
    rows = pa.concat_tables([part for part, _ in parts])
    partition_days = np.concatenate([np.full(len(part), value) for part, value in parts])
    checked = check(rows, table, replace(around, partition_days=partition_days))
    if newest:
        # The newest day has a page of its own in the Data Docs.
        opinion.confirm_waiting(table)
    if len(rows):
        confirm = opinion.confirm if newest else opinion.confirm_later
        confirm(table, checked.distinct_frame, batch=str(day), rule_counts=checked.rule_counts)
    kept = list(found.kept_days().values())
    expected = _expected_scenarios(kept, contract.days) if newest else None
    tally = _tally(checked, table)
    if newest and expected:
        found.missing_scenarios = sorted(set(expected) - set(tally.impressions))
    reasons = tolerance_reasons(table, checked, what=str(day))
    if contract.days is not None:
        summary = summarise(
            checked,
            table,
            trailing=kept[-trailing_days:] if newest else (),
            expected_scenarios=expected,
        )
        tally.summary.update(summary)
        reasons += day_reasons(contract.days, summary) if len(rows) else []
    tally.reasons.extend(reasons)
    found.days[day] = tally
    _write_quarantine(checked.quarantined, output / "quarantine" / f"date={day}")
    if not reasons:
        _write(interactions_of(checked.good_frame, table), output / "interactions" / f"date={day}")
    logger.info(
        "day checked",
        extra={
            "day": str(day),
            "rows": tally.num_rows,
            "quarantined": tally.quarantined,
            "dropped": tally.dropped,
            "within_contract": not reasons,
        },
    )


def _expected_scenarios(kept: Sequence[Tally], days: TableContract | None) -> list[str]:
    """Return the scenarios with a share of the window that the newest day must show too."""
    shown: Counter[str] = Counter()
    for tally in kept:
        shown.update(tally.impressions)
    share = float(days.settings.get("scenarioShare", 0.0)) if days else 1.0
    return [name for name, rows in shown.items() if rows >= share * shown.total()]


def _tally(checked: Checked, contract: TableContract) -> Tally:
    scenario = checked.good_frame[contract.canonical("scenario").name]
    clicked = checked.good_frame[contract.canonical("clicked").name] == 1
    return Tally(
        num_rows=checked.num_rows,
        good=checked.good.num_rows,
        quarantined=checked.quarantined.num_rows,
        dropped=checked.dropped,
        rules=checked.rule_counts,
        clicks=_counts(scenario[clicked]),
        impressions=_counts(scenario),
    )


def _counts(scenario: Any) -> dict[str, int]:
    counts = Counter(scenario.astype(object))
    return {name: counts[name] for name in sorted(counts)}


def _confirm_days(contract: Contract, opinion: SecondOpinion, found: Validation) -> None:
    """Let Great Expectations see the table of days too."""
    if contract.days is None:
        return
    frame = summary_frame(contract.days, [tally.summary for tally in found.days.values()])
    counts = {rule.name: int(broken_rows(rule, frame).sum()) for rule in contract.days.rules}
    opinion.confirm(contract.days, frame, batch="days", rule_counts=counts)


def _write(table: pa.Table, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "part-0.parquet", compression="zstd")


def _write_quarantine(table: pa.Table, folder: Path) -> None:
    if table.num_rows:
        _write(table, folder)
