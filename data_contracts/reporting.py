"""The validation report: what became of every row, by day, rule and check (``report.json``)."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from data_contracts.contract import Rule, TableContract
from data_contracts.judging import Tally, day_checks

if TYPE_CHECKING:
    from data_contracts.validating import Contracts, Validation


def report_of(found: Validation, contracts: Contracts) -> dict[str, Any]:
    """Return the report as docs/architecture/artifacts.md describes it."""
    days = found.days.values()
    return {
        "rows": {
            key: sum(_rows(day)[key] for day in days)
            for key in ("in", "good", "quarantined", "dropped")
        },
        "days": [
            {
                "date": str(date),
                **_rows(day),
                "status": "excluded" if day.reasons else "ok",
                "reason": "; ".join(day.reasons),
                "rules": {name: broken for name, broken in day.rules.items() if broken},
                "clicks": day.clicks,
                "impressions": day.impressions,
            }
            for date, day in found.days.items()
        ],
        "rules": [
            *_rules(contracts.log.table, _log_counts(found), _log_rows(found)),
            *_table_rules(contracts.users.table, found),
            *_table_rules(contracts.items.table, found),
        ],
        "tables": {name: _rows(tally) for name, tally in found.tables.items()},
        "table_checks": _table_checks(found, contracts),
    }


def _rows(tally: Tally) -> dict[str, int]:
    return {
        "in": tally.num_rows,
        "good": tally.good,
        "quarantined": tally.quarantined,
        "dropped": tally.dropped,
    }


def _log_counts(found: Validation) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for day in found.days.values():
        counts.update(day.rules)
    return counts


def _log_rows(found: Validation) -> int:
    return sum(day.num_distinct for day in found.days.values())


def _table_rules(contract: TableContract, found: Validation) -> list[dict[str, Any]]:
    tally = found.tables[contract.name]
    return _rules(contract, tally.rules, tally.num_distinct)


def _rules(contract: TableContract, counts: dict[str, int], total: int) -> list[dict[str, Any]]:
    return [
        {
            "name": rule.name,
            "table": contract.name,
            "description": rule.description,
            "broken": counts[rule.name],
            "share": counts[rule.name] / total if total else 0.0,
            "tolerance": rule.tolerance,
        }
        for rule in contract.rules
    ]


def _table_checks(found: Validation, contracts: Contracts) -> list[dict[str, Any]]:
    """Return the checks of the newest day as a whole, and whether every day of the window came."""
    summary = found.days[found.logical_date].summary
    checks = [
        _check(rule, kept, _observed(rule, summary[rule.column], found))
        for rule, kept in (day_checks(contracts.log.days, summary) if contracts.log.days else ())
    ]
    missing = ", ".join(map(str, found.missing_days))
    return [
        *checks,
        {
            "name": "days_delivered",
            "passed": not missing,
            "observed": f"missing: {missing}" if missing else "all",
            "expected": "Every day between the first and the newest of the window is there.",
            "severity": "warning",
        },
    ]


def _check(rule: Rule, kept: bool, observed: str) -> dict[str, Any]:
    return {
        "name": rule.name,
        "passed": kept,
        "observed": observed,
        "expected": rule.description,
        "severity": rule.severity,
    }


def _observed(rule: Rule, value: float, found: Validation) -> str:
    if math.isnan(value):
        return "nothing to compare with"
    if rule.column == "missing_scenarios" and found.missing_scenarios:
        return f"missing: {', '.join(found.missing_scenarios)}"
    return f"{value:.4g}"
