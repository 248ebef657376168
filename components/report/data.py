"""What the contract said of the log, and where everything came from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np

from components.report import figures
from components.report.figures import DayBar
from components.report.page import Cell, Column, Figure, Section, Table
from components.report.words import THIN, count, percent, short_day, whole
from perscen.manifests import Manifest, SplitsManifest

_SHORT = 12
"""Digits of a digest that are shown."""


def data_section(report: Mapping[str, Any], *, source: str, splits: SplitsManifest) -> Section:
    """Return the section on data quality, from the clean log's ``report.json``."""
    rows = report["rows"]
    excluded = [d for d in report["days"] if d["status"] != "ok"]
    paragraphs = [
        f"{whole(rows['in'])} rows of the log ({source}): {whole(rows['good'])} good "
        f"({percent(_share(rows['good'], rows['in']), digits=2)}), {whole(rows['quarantined'])} in "
        f"quarantine, {whole(rows['dropped'])} dropped as exact duplicates. "
        "Every row is in one of the three.",
        "No day was left out."
        if not excluded
        else f"{count(len(excluded), 'day')} left out of the window: "
        + "; ".join(f"{_day(d)} ({d['reason']})" for d in excluded)
        + ".",
        f"Trained on {_window(splits.train)}, validated on {_window(splits.valid)}, tested on "
        f"{_window(splits.test)}; {count(splits.num_users, 'user')} and "
        f"{count(splits.num_items, 'item')}.",
    ]
    tables = [_tables(report["tables"], rows), _rules(report["rules"]), _checks(report)]
    return Section(
        anchor="data",
        title="Data quality",
        paragraphs=tuple(paragraphs),
        figures=_figures(report["days"], splits),
        tables=tuple(table for table in tables if table is not None),
    )


def lineage_section(manifests: Mapping[str, Manifest]) -> Section:
    """Return the section on where the run's artifacts come from."""
    names = {m.digest: name for name, m in manifests.items()}
    return Section(
        anchor="lineage",
        title="Lineage",
        paragraphs=(
            "Digests cover every byte of an artifact and are checked whenever it is read; the "
            "code version is a hash of the step's own files. Rest the pointer on one to see it "
            "whole.",
        ),
        tables=(
            Table(
                "Artifacts of this run",
                tuple(
                    Column(name, numeric=False)
                    for name in ("Artifact", "Made by", "Digest", "Code version", "Made from")
                ),
                tuple(
                    (
                        Cell(name),
                        Cell(m.step),
                        _digest(m.digest),
                        _digest(m.code_version),
                        Cell(_parents(m, names)),
                    )
                    for name, m in manifests.items()
                ),
            ),
        ),
    )


def _digest(digest: str) -> Cell:
    return Cell(digest[:_SHORT], title=digest, code=True)


def _parents(manifest: Manifest, names: Mapping[str, str]) -> str:
    """Say where the inputs come from; a parent that is not this run's shows its digest."""
    parents = [
        name if names.get(digest) == name or not digest else f"{name} {digest[:_SHORT]}"
        for name, digest in manifest.parents.items()
    ]
    return ", ".join(parents) or "outside the run"


def _figures(days: list[Mapping[str, Any]], splits: SplitsManifest) -> tuple[Figure, ...]:
    if not days:
        return ()
    dates = [date.fromisoformat(d["date"]) for d in days]
    bars = [
        DayBar(at, d["good"], d["quarantined"], d["dropped"], excluded=d["status"] != "ok")
        for at, d in zip(dates, days, strict=True)
    ]
    clicks_SD = np.array(
        [[d["clicks"].get(s, 0) for d in days] for s in splits.scenarios], dtype=np.int64
    )
    clicks = figures.clicks(clicks_SD, dates=dates, scenarios=splits.scenarios)
    return Figure(figures.days(bars)), Figure(clicks)


def _tables(tables: Mapping[str, Any], log: Mapping[str, int]) -> Table:
    return Table(
        "Rows by table",
        (
            Column("Table", numeric=False),
            Column("In"),
            Column("Good"),
            Column("Quarantined"),
            Column("Dropped"),
        ),
        tuple(
            (
                Cell(name),
                *(Cell(whole(t[k])) for k in ("in", "good", "quarantined", "dropped")),
            )
            for name, t in {"log": log, **tables}.items()
        ),
    )


def _rules(rules: list[Mapping[str, Any]]) -> Table | None:
    broken = sorted((r for r in rules if r["broken"]), key=lambda r: (-r["broken"], r["name"]))
    kept = len(rules) - len(broken)
    if not rules:
        return None
    caption = "Rules broken" if broken else "No rule was broken"
    if kept:
        caption += f"; {count(kept, 'more rule')} kept by every row" if broken else ""
    return Table(
        caption,
        (
            Column("Rule", numeric=False),
            Column("Table", numeric=False),
            Column("Rows"),
            Column("Share"),
            Column("Tolerance"),
            Column("Meaning", numeric=False),
        ),
        tuple(
            (
                Cell(r["name"], code=True),
                Cell(r["table"]),
                Cell(whole(r["broken"])),
                Cell(
                    percent(r["share"], digits=3),
                    tone="bad"
                    if r["tolerance"] is not None and r["share"] > r["tolerance"]
                    else "",
                ),
                Cell(percent(r["tolerance"], digits=3)),
                Cell(r["description"]),
            )
            for r in broken
        ),
    )


def _checks(report: Mapping[str, Any]) -> Table | None:
    checks = report.get("table_checks", [])
    if not checks:
        return None
    return Table(
        "Checks of whole tables",
        (
            Column("Check", numeric=False),
            Column("Result", numeric=False),
            Column("Observed", numeric=False),
            Column("Expected", numeric=False),
        ),
        tuple(
            (
                Cell(c["name"]),
                _result(c),
                Cell(str(c["observed"])),
                Cell(str(c["expected"])),
            )
            for c in checks
        ),
    )


def _result(check: Mapping[str, Any]) -> Cell:
    if check["passed"]:
        return Cell("passed", tone="good")
    if check.get("severity") == "warning":
        return Cell("warning", tone="warn")
    return Cell("failed", tone="bad")


def _share(part: int, whole_: int) -> float | None:
    return part / whole_ if whole_ else None


def _day(entry: Mapping[str, Any]) -> str:
    return short_day(date.fromisoformat(entry["date"]))


def _window(window: Any) -> str:
    if window.first == window.last:
        return short_day(window.first)
    return f"{short_day(window.first)}{THIN}–{THIN}{short_day(window.last)}"
