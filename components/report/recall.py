"""Recall of every model per scenario, and what the candidate's differences come to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from components.report import figures
from components.report.figures import Estimate
from components.report.page import Cell, Column, Figure, Section, Table
from components.report.words import DASH, between, count, listed, percent, points, whole
from perscen.manifests import IndexesManifest

DRAWN: Final = ("candidate", "champion", "segment_popularity", "scenario_popularity", "oracle")
"""Models drawn as figures, in this order; the table has all of them."""
MODEL_NAMES: Final = {
    "candidate": "candidate",
    "candidate_exact": "candidate, exact search",
    "champion": "champion",
    "segment_popularity": "segment popularity",
    "scenario_popularity": "scenario popularity",
    "global_popularity": "global popularity",
    "random": "random",
    "oracle": "best possible",
}


def recall_section(
    summary: Mapping[str, Any],
    metrics: Mapping[str, Any],
    *,
    scenarios: Sequence[str],
    indexes: IndexesManifest,
) -> Section:
    """Return the section on recall at the first K, from ``summary.json`` and ``metrics.json``."""
    k: int = summary["ks"][0]
    models = [name for name in MODEL_NAMES if name in summary["models"]]
    paragraphs = [
        f"Share of a user's test clicks among the {k} items retrieved, averaged over users, with "
        f"{percent(summary['interval_level'], digits=0)} intervals. The candidate is measured "
        "through the indexes that would ship."
    ]
    if "champion" not in models:
        paragraphs.append("There is no champion yet, so none is drawn.")
    if columns := summary.get("segment_columns"):
        paragraphs.append(
            f"Segment popularity ranks by clicks within cells of {listed(['scenario', *columns])}."
        )
    paragraphs.append(
        _closeness(metrics, scenarios=scenarios, k=k)
        if "oracle" in models
        else "The best possible recall is known for synthetic logs only."
    )
    tables = [
        _recall_table(metrics, models=models, scenarios=scenarios, k=k, ks=summary["ks"]),
        difference_table(summary.get("differences", {}), scenarios=scenarios),
        _slices(summary.get("slices", []), scenarios=scenarios, k=k),
        _index_table(indexes, summary.get("index_recall", {}), scenarios=scenarios),
    ]
    return Section(
        anchor="recall",
        title="Recall per scenario",
        paragraphs=tuple(paragraphs),
        figures=tuple(
            Figure(figures.recalls(s, _estimates(summary["models"], s, k=k), k=k))
            for s in scenarios
        ),
        tables=tuple(table for table in tables if table is not None),
    )


def share_of_best(metrics: Mapping[str, Any], *, scenario: str, k: int) -> float | None:
    """Return the candidate's recall as a share of the best possible; None where that is unknown."""
    if "oracle" not in metrics:
        return None
    best: float = metrics["oracle"][f"recall_{k}"].get(scenario, 0.0)
    own: float = metrics["candidate"][f"recall_{k}"].get(scenario, 0.0)
    return own / best if best else None


def _closeness(metrics: Mapping[str, Any], *, scenarios: Sequence[str], k: int) -> str:
    shares = [
        f"{percent(share, digits=0)} of it in scenario {s}"
        for s in scenarios
        if (share := share_of_best(metrics, scenario=s, k=k)) is not None
    ]
    return (
        "The log is synthetic, so the best possible recall is known: that of a model that "
        f"knew every user's true taste. The candidate reaches {listed(shares)}."
    )


def _estimates(models: Mapping[str, Any], scenario: str, *, k: int) -> list[Estimate]:
    return [
        Estimate(
            name=MODEL_NAMES[model],
            value=scores[f"recall_{k}"],
            low=scores.get(f"recall_{k}_low"),
            high=scores.get(f"recall_{k}_high"),
            candidate=model == "candidate",
        )
        for model in DRAWN
        if (scores := models.get(model, {}).get(scenario))
    ]


def _recall_table(
    metrics: Mapping[str, Any],
    *,
    models: Sequence[str],
    scenarios: Sequence[str],
    k: int,
    ks: Sequence[int],
) -> Table:
    last = ks[-1]
    columns = [Column("Model", numeric=False)]
    columns += [Column(f"Scenario {s}") for s in scenarios]
    columns.append(Column("Macro"))
    if last != k:
        columns.append(Column(f"Macro@{last}"))
    rows = []
    for model in models:
        recall = metrics[model][f"recall_{k}"]
        cells = [Cell(percent(recall.get(s), digits=2)) for s in (*scenarios, "macro")]
        if last != k:
            cells.append(Cell(percent(metrics[model][f"recall_{last}"].get("macro"), digits=2)))
        rows.append((Cell(MODEL_NAMES[model]), *cells))
    return Table(f"Recall@{k}; macro is the plain mean over scenarios", tuple(columns), tuple(rows))


def difference_table(differences: Mapping[str, Any], *, scenarios: Sequence[str]) -> Table | None:
    """Return the candidate's differences to every baseline; None when there are none."""
    rows = []
    for baseline, by_scenario in differences.items():
        cells = [Cell(MODEL_NAMES.get(baseline, baseline))]
        cells += [_difference(by_scenario.get(s)) for s in (*scenarios, "macro")]
        rows.append(tuple(cells))
    if not rows:
        return None
    columns = (
        Column("Candidate minus", numeric=False),
        *(Column(f"Scenario {s}") for s in scenarios),
    )
    return Table(
        "Differences in percentage points with intervals; coloured where these leave out zero",
        (*columns, Column("Macro")),
        tuple(rows),
    )


def _difference(told: Mapping[str, Any] | None) -> Cell:
    if told is None:
        return Cell(DASH)
    low, high = told["low"], told["high"]
    if low is None or high is None:
        return Cell(points(told["delta"]), note="too few users for an interval")
    tone = "good" if low > 0 else "bad" if high < 0 else ""
    return Cell(points(told["delta"]), note=between(low, high), tone=tone)


def _slices(
    slices: Sequence[Mapping[str, Any]], *, scenarios: Sequence[str], k: int
) -> Table | None:
    order = list(dict.fromkeys(row["slice"] for row in slices))
    own = {
        (row["slice"], str(row["value"]), row["scenario"]): row
        for row in slices
        if row["model"] == "candidate"
    }
    names = sorted(
        dict.fromkeys((slice_name, value) for slice_name, value, _ in own),
        key=lambda pair: (order.index(pair[0]), _leading_number(pair[1]), pair[1]),
    )
    if not names:
        return None
    rows = []
    for slice_name, value in names:
        cells = [Cell(f"{slice_name.replace('_', ' ')}: {value}")]
        for s in scenarios:
            row = own.get((slice_name, value, s))
            cells.append(
                Cell(DASH)
                if row is None
                else Cell(percent(row[f"recall_{k}"]), note=count(row["num_users"], "user"))
            )
        rows.append(tuple(cells))
    return Table(
        f"Recall@{k} of the candidate within slices of users",
        (Column("Slice", numeric=False), *(Column(f"Scenario {s}") for s in scenarios)),
        tuple(rows),
    )


def _leading_number(value: str) -> int:
    digits = re.match(r"\d+", value)
    return int(digits[0]) if digits else 0


def _index_table(
    indexes: IndexesManifest, recall: Mapping[str, float], *, scenarios: Sequence[str]
) -> Table:
    return Table(
        "Indexes that would ship, and the share of the exact top they return",
        (
            Column("Scenario", numeric=False),
            Column("Kind", numeric=False),
            Column("Items"),
            Column("On validation"),
            Column("On test"),
        ),
        tuple(
            (
                Cell(s),
                Cell(record.kind),
                Cell(whole(record.num_items)),
                Cell(percent(record.recall)),
                Cell(percent(recall.get(s))),
            )
            for s in scenarios
            if (record := indexes.indexes.get(s))
        ),
    )
