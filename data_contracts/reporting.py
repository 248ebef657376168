"""The validation report: what became of every row, by day, rule and check (``report.json``)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from data_contracts.contract import Rule, TableContract
from data_contracts.judging import day_checks

if TYPE_CHECKING:
    from data_contracts.validating import Contracts, Validation


def report_of(found: Validation, contracts: Contracts) -> dict[str, Any]:
    """Return the report as docs/architecture/artifacts.md describes it."""
    days = found.days.values()
    return {
        "rows": {
            "in": sum(day.num_rows for day in days),
            "good": sum(day.good for day in days),
            "quarantined": sum(day.quarantined for day in days),
            "dropped": sum(day.dropped for day in days),
        },
        "days": [
            {
                "date": str(date),
                "in": day.num_rows,
                "good": day.good,
                "quarantined": day.quarantined,
                "dropped": day.dropped,
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
        "tables": {
            name: {
                "in": checked.num_rows,
                "good": checked.good.num_rows,
                "quarantined": checked.quarantined.num_rows,
                "dropped": checked.dropped,
            }
            for name, checked in found.tables.items()
        },
        "table_checks": _table_checks(found, contracts),
    }


def _log_counts(found: Validation) -> dict[str, int]:
    counts: dict[str, int] = {}
    for day in found.days.values():
        for name, broken in day.rules.items():
            counts[name] = counts.get(name, 0) + broken
    return counts


def _log_rows(found: Validation) -> int:
    return sum(day.num_distinct for day in found.days.values())


def _table_rules(contract: TableContract, found: Validation) -> list[dict[str, Any]]:
    checked = found.tables[contract.name]
    return _rules(contract, checked.rule_counts, checked.num_distinct)


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
