"""The judge: runs every gate and turns their findings into one verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from perscen.config import GateConfig
from perscen.evaluation.evidence import Evidence
from perscen.evaluation.gates import CHAMPION, GATES, POPULARITY
from perscen.evaluation.verdict import (
    Decision,
    Finding,
    Outcome,
    Policy,
    ScenarioVerdict,
    Verdict,
)

_GRAVITY: Final = (Outcome.PASS, Outcome.WATCH, Outcome.INSUFFICIENT, Outcome.FAIL)


def judge(evidence: Evidence, config: GateConfig) -> Verdict:
    """Return the verdict of all gates together: one finding that blocks refuses the candidate."""
    findings = tuple(finding for gate in GATES for finding in gate(evidence, config))
    refused = any(finding.blocks for finding in findings)
    decision = Decision.REFUSE if refused else Decision.PROMOTE
    scenarios = tuple(
        _scenario_verdict(scenario, evidence, findings) for scenario in evidence.expected_scenarios
    )
    return Verdict(
        decision=decision,
        logical_date=evidence.logical_date,
        model_digest=evidence.model.digest,
        indexes_digest=evidence.indexes.digest,
        champion_bundle_id=evidence.scores.champion_bundle_id,
        k=config.k,
        alpha=config.alpha,
        power=config.power,
        scenarios=scenarios,
        findings=findings,
        summary=_summary(decision, findings, evidence),
    )


def _scenario_verdict(
    scenario: str, evidence: Evidence, findings: Sequence[Finding]
) -> ScenarioVerdict:
    mine = [finding for finding in findings if finding.scenario == scenario]
    compared_with = CHAMPION if evidence.has_champion else POPULARITY
    by_baseline = {f.comparison.baseline: f.comparison for f in mine if f.comparison}
    comparison = by_baseline.get(compared_with)
    scores = evidence.scenarios.get(scenario)
    means = {name: float(recall.mean()) for name, recall in scores.recall.items()} if scores else {}
    policies = [finding.policy for finding in mine if finding.policy]
    return ScenarioVerdict(
        scenario=scenario,
        num_users=len(scores.user_U) if scores else 0,
        candidate_recall=means.get("candidate"),
        champion_recall=means.get(CHAMPION),
        popularity_recall=means.get(POPULARITY),
        compared_with=compared_with,
        difference=comparison.difference if comparison else None,
        low=comparison.low if comparison else None,
        high=comparison.high if comparison else None,
        margin=comparison.margin if comparison else None,
        detectable_effect=comparison.detectable_effect if comparison else None,
        users_needed=comparison.users_needed if comparison else None,
        outcome=max((finding.outcome for finding in mine), key=_GRAVITY.index),
        policy=Policy.HOLD if Policy.HOLD in policies else next(iter(policies), None),
        reasons=tuple(f.message for f in mine if f.outcome is not Outcome.PASS),
    )


def _summary(decision: Decision, findings: Sequence[Finding], evidence: Evidence) -> str:
    against = (
        f"against champion {evidence.scores.champion_bundle_id[:12]}"
        if evidence.scores.champion_bundle_id
        else "without a champion: floors and baselines decided alone"
    )
    if decision is Decision.REFUSE:
        blocking = [finding for finding in findings if finding.blocks]
        found = "1 finding blocks" if len(blocking) == 1 else f"{len(blocking)} findings block"
        return f"refused {against}; {found} it, in {_places([f.scenario for f in blocking])}"
    unsure = [f.scenario for f in findings if f.outcome is Outcome.INSUFFICIENT]
    watched = f"; ships watched in {_places(unsure)}" if unsure else ""
    return f"promoted {against}{watched}"


def _places(scenarios: Sequence[str | None]) -> str:
    """Return where findings were made: "scenarios 1, 4 and the whole release"."""
    named = list(dict.fromkeys(name for name in scenarios if name is not None))
    places = [f"scenario{'s' if len(named) > 1 else ''} {', '.join(named)}"] if named else []
    places += ["the whole release"] if None in scenarios else []
    return " and ".join(places)
