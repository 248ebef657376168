"""Reads a run's artifacts and says what stands on its page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from typing import Any

from components.report.data import data_section, lineage_section
from components.report.inside import graphs_section, look_inside, preferences_section
from components.report.page import Fact, Page
from components.report.recall import recall_section, share_of_best
from components.report.training import codes_section, training_section
from components.report.verdict import verdict_view
from components.report.words import count, day, percent, points, whole
from components.store import Artifact
from perscen.data.splits import Splits
from perscen.diagnostics.looking import history_codes
from perscen.evaluation.verdict import Verdict, read_verdict
from perscen.models.families import load_model


def page_of(artifacts: Mapping[str, Artifact[Any]], *, logical_date: date) -> Page:
    """Return the page about the run that made the artifacts.

    Args:
        artifacts: The report step's inputs by name.
        logical_date: The day the run is for.

    Raises:
        ArtifactError: The verdict or the model cannot be read.
    """
    splits = Splits.open(artifacts["splits"].path)
    scenarios = splits.schema.scenarios
    model = artifacts["model"].manifest
    epochs = _read(artifacts["model"], "epochs.json", default=[])
    counts = _read(artifacts["model"], "code_counts.json", default={})
    summary = _read(artifacts["scores"], "summary.json")
    metrics = _read(artifacts["scores"], "metrics.json")
    clean = artifacts["clean_log"]
    report = _read(clean, "report.json")
    verdict = read_verdict(artifacts["verdict"].path)
    towers = load_model(artifacts["model"].path)
    look = look_inside(towers, splits)
    coded = towers.num_codes and len(splits.valid.user)
    seen = history_codes(towers, splits, window="valid") if coded else None
    return Page(
        title=f"{verdict.decision.value.capitalize()} · perscen, {day(logical_date)}",
        day=day(logical_date),
        verdict=verdict_view(
            verdict,
            scenarios=scenarios,
            facts=_facts(verdict, metrics=metrics, report=report, artifacts=artifacts),
        ),
        sections=(
            recall_section(
                summary,
                metrics,
                scenarios=scenarios,
                indexes=artifacts["indexes"].manifest,
            ),
            training_section(epochs, model=model, scenarios=scenarios),
            codes_section(epochs, counts, model=model, scenarios=scenarios, seen=seen),
            graphs_section(look, family=model.family),
            preferences_section(look, scenarios=scenarios, family=model.family),
            data_section(report, source=clean.manifest.source, splits=artifacts["splits"].manifest),
            lineage_section({name: a.manifest for name, a in artifacts.items()}),
        ),
    )


def _facts(
    verdict: Verdict,
    *,
    metrics: Mapping[str, Any],
    report: Mapping[str, Any],
    artifacts: Mapping[str, Artifact[Any]],
) -> list[Fact]:
    own, popular = (
        metrics.get(name, {}).get(f"recall_{verdict.k}", {}).get("macro")
        for name in ("candidate", "scenario_popularity")
    )
    champion = artifacts["champion"].manifest
    facts = [
        Fact(
            f"Macro recall@{verdict.k}",
            percent(own),
            f"scenario popularity {percent(popular)}",
        )
    ]
    if "champion" in metrics:
        theirs = metrics["champion"][f"recall_{verdict.k}"]["macro"]
        facts.append(
            Fact(
                "Against the champion",
                f"{points(own - theirs)}",
                f"points; version {champion.version} has {percent(theirs)}",
            )
        )
    else:
        facts.append(Fact("Champion", "none", "this is a first release"))
    share = share_of_best(metrics, scenario="macro", k=verdict.k)
    if share is not None:
        facts.append(
            Fact("Of the best possible", percent(share, digits=0), "on this synthetic log")
        )
    facts.append(
        Fact(
            "Test users",
            whole(sum(s.num_users for s in verdict.scenarios)),
            f"summed over {count(len(verdict.scenarios), 'scenario')}",
        )
    )
    rows = report["rows"]
    facts.append(
        Fact(
            "Rows checked",
            whole(rows["in"]),
            f"{percent(rows['good'] / rows['in'] if rows['in'] else None, digits=2)} of them good",
        )
    )
    return facts


def _read(artifact: Artifact[Any], name: str, *, default: Any = None) -> Any:
    """Return a JSON file of an artifact; ``default`` where a model family does not write it."""
    path = artifact.path / name
    if default is not None and not path.exists():
        return default
    return json.loads(path.read_text(encoding="utf-8"))
