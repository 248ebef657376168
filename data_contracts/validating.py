"""The whole log through the door: tables first, then day by day, the newest day last."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
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
from data_contracts.parsing import Numbers, Surroundings, interactions_of, typed_rows
from data_contracts.raw_files import RawFiles
from data_contracts.reporting import report_of
from data_contracts.suites import SecondOpinion
from perscen.errors import ArtifactError

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
    tables: dict[str, Tally] = field(default_factory=dict)
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
    window = raw.window(logical_date, window_days)
    found = Validation(logical_date, missing_days=_gaps(window))
    door = _Door(raw, contracts, output, found, SecondOpinion(output / DATA_DOCS), utc_offset_hours)
    door.check_table("users", contracts.users.table)
    door.check_table("items", contracts.items.table)
    for day in window[:-1]:
        door.check_day(day)
    door.check_newest_day(trailing_days)
    door.confirm_days()
    found.report = report_of(found, contracts)
    return found


@dataclass
class _Door:
    """Where rows are checked and written, one table or day after the other."""

    raw: RawFiles
    contracts: Contracts
    output: Path
    found: Validation
    opinion: SecondOpinion
    utc_offset_hours: int
    references: dict[str, pa.Table] = field(default_factory=dict)
    """Good rows of the tables checked so far."""

    def check_table(self, name: str, contract: TableContract) -> None:
        rows = self.raw.read_table(name, contract)
        checked = self._check(rows, contract, np.full(len(rows), np.nan))
        self._confirm(contract, checked, name)
        _write(typed_rows(checked.good_frame, contract), self.output / name)
        _write_quarantine(checked.quarantined, self.output / "quarantine" / name)
        self.found.tables[name] = Tally.of(checked)
        self.found.reasons += tolerance_reasons(contract, checked, what=f"the {name} table")
        self.references[name] = checked.good

    def check_day(self, day: date) -> None:
        contract = self.contracts.log.table
        rows = self.raw.read_day(day, contract)
        checked = self._check(rows, contract, _days_since_1970(day, len(rows)))
        if len(rows):
            self.opinion.confirm_later(
                contract,
                checked.distinct_frame,
                batch=str(day),
                rule_counts=checked.rule_counts,
            )
        self._conclude(day, checked, summarise(checked, contract))

    def check_newest_day(self, trailing_days: int) -> None:
        """Check the newest day with the rows without one; say why the log cannot be used, if so."""
        contract, days = self.contracts.log.table, self.contracts.log.days
        day = self.found.logical_date
        dated, lost = self.raw.read_day(day, contract), self.raw.read_day(None, contract)
        partition_days = np.append(_days_since_1970(day, len(dated)), np.full(len(lost), np.nan))
        checked = self._check(pa.concat_tables([dated, lost]), contract, partition_days)
        # The newest day has a page of its own in the Data Docs.
        self.opinion.confirm_waiting(contract)
        if checked.num_rows:
            self._confirm(contract, checked, str(day))
        kept = list(self.found.kept_days().values())
        scenarios = _scenarios_of(kept, days)
        summary = summarise(
            checked, contract, trailing=kept[-trailing_days:], expected_scenarios=scenarios
        )
        self._conclude(day, checked, summary)
        tally = self.found.days[day]
        self.found.missing_scenarios = sorted(set(scenarios) - set(tally.impressions))
        self.found.reasons += tally.reasons
        if len(self.found.days) > 1 and not kept:
            self.found.reasons.append(
                f"none of the {len(self.found.days) - 1} days before {day} is within the contract, "
                f"so nothing is left to train on"
            )

    def confirm_days(self) -> None:
        """Let Great Expectations see the table of days too, and write its pages."""
        days = self.contracts.log.days
        if days is not None:
            frame = summary_frame(days, [tally.summary for tally in self.found.days.values()])
            counts = {rule.name: int(broken_rows(rule, frame).sum()) for rule in days.rules}
            self.opinion.confirm(days, frame, batch="days", rule_counts=counts)
        self.opinion.write_docs()

    def _check(self, rows: pa.Table, contract: TableContract, partition_days: Numbers) -> Checked:
        around = Surroundings(self.utc_offset_hours, self.references, partition_days)
        return check(rows, contract, around)

    def _confirm(self, contract: TableContract, checked: Checked, batch: str) -> None:
        self.opinion.confirm(
            contract, checked.distinct_frame, batch=batch, rule_counts=checked.rule_counts
        )

    def _conclude(self, day: date, checked: Checked, summary: dict[str, float]) -> None:
        """Judge a day and write its rows, the clean ones only if it is within tolerance."""
        contract, days = self.contracts.log.table, self.contracts.log.days
        reasons = tolerance_reasons(contract, checked, what=str(day))
        if days is not None and checked.num_rows:
            reasons += day_reasons(days, summary)
        scenario = checked.good_frame[contract.canonical("scenario").name]
        clicked = checked.good_frame[contract.canonical("clicked").name] == 1
        self.found.days[day] = Tally.of(
            checked,
            clicks=_counts(scenario[clicked]),
            impressions=_counts(scenario),
            summary=summary,
            reasons=reasons,
        )
        _write_quarantine(checked.quarantined, self.output / "quarantine" / f"date={day}")
        if not reasons:
            rows = interactions_of(checked.good_frame, contract)
            _write(rows, self.output / "interactions" / f"date={day}")
        logger.info(
            "day checked",
            extra={
                "day": str(day),
                "rows": checked.num_rows,
                "quarantined": checked.quarantined.num_rows,
                "dropped": checked.dropped,
                "within_contract": not reasons,
            },
        )


def _gaps(window: Sequence[date]) -> list[date]:
    span = (window[-1] - window[0]).days
    return [day for n in range(span) if (day := window[0] + timedelta(days=n)) not in set(window)]


def _scenarios_of(kept: Sequence[Tally], days: TableContract | None) -> list[str]:
    """Return the scenarios with a share of the window that the newest day must show too."""
    shown: Counter[str] = Counter()
    for tally in kept:
        shown.update(tally.impressions)
    share = float(days.settings.get("scenarioShare", 0.0)) if days else 1.0
    return [name for name, rows in shown.items() if rows >= share * shown.total()]


def _counts(scenario: pd.Series) -> dict[str, int]:
    counts = Counter(scenario.astype(object))
    return {name: counts[name] for name in sorted(counts)}


def _days_since_1970(day: date, num_rows: int) -> Numbers:
    return np.full(num_rows, float((day - _EPOCH).days))


def _write(table: pa.Table, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "part-0.parquet", compression="zstd")


def _write_quarantine(table: pa.Table, folder: Path) -> None:
    if table.num_rows:
        _write(table, folder)
