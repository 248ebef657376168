"""The gates: pure functions ``(evidence, config) -> list[Finding]``.

Each gate looks at one thing and says everything it finds; none of them stops the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal

from perscen.config import GateConfig
from perscen.evaluation.comparison import compare, describe, outcome_of, policy_of
from perscen.evaluation.evidence import Evidence
from perscen.evaluation.verdict import Comparison, Finding, Outcome, Policy
from perscen.manifests import IndexesManifest, ModelManifest, ScoresManifest

Gate = Callable[[Evidence, GateConfig], list[Finding]]

POPULARITY: Final[Literal["scenario_popularity"]] = "scenario_popularity"
CHAMPION: Final[Literal["champion"]] = "champion"


def lineage(evidence: Evidence, _config: GateConfig) -> list[Finding]:
    """Refuse scores, model and indexes that were not made from each other."""
    scores, model, indexes = evidence.scores, evidence.model, evidence.indexes
    pairs = {
        "the scores are of model": (scores.model_digest, model.digest),
        "the scores were measured through indexes": (scores.indexes_digest, indexes.digest),
        "the indexes hold vectors of model": (indexes.model_digest, model.digest),
        "the indexes hold vectors of space": (indexes.fingerprint, model.fingerprint),
        "the scores are on splits": (_splits(scores), _splits(model)),
        "the indexes are over splits": (_splits(indexes), _splits(model)),
    }
    return [
        Finding(
            gate="lineage",
            scenario=None,
            outcome=Outcome.PASS if found == wanted else Outcome.FAIL,
            message=f"{what} {found[:12]}"
            + ("" if found == wanted else f", but {wanted[:12]} is judged here"),
        )
        for what, (found, wanted) in pairs.items()
    ]


def _splits(manifest: ScoresManifest | IndexesManifest | ModelManifest) -> str:
    return manifest.parents.get("splits", f"unknown to the {manifest.kind}")


def completeness(evidence: Evidence, _config: GateConfig) -> list[Finding]:
    """Refuse a release in which a scenario lacks an index, or scores that it is judged by."""
    wanted = ["candidate", POPULARITY, *([CHAMPION] if evidence.has_champion else [])]
    findings = []
    if not evidence.expected_scenarios:
        nothing = "without evidence nothing ships: there is no scenario to judge"
        findings.append(
            Finding(gate="evidence", scenario=None, outcome=Outcome.FAIL, message=nothing)
        )
    for scenario in evidence.expected_scenarios:
        scores = evidence.scenarios.get(scenario)
        missing = [
            f"scores of {name}" for name in wanted if not scores or name not in scores.recall
        ]
        if scenario not in evidence.indexes.indexes:
            missing.append("an index")
        promised = evidence.scores.num_users.get(scenario, 0)
        counted = len(scores.user_U) if scores else 0
        if promised != counted:
            missing.append(f"{promised:,} evaluated users (there are {counted:,})")
        findings.append(
            Finding(
                gate="evidence",
                scenario=scenario,
                outcome=Outcome.FAIL if missing else Outcome.PASS,
                value=float(counted),
                message=f"without evidence nothing ships: there is no {', no '.join(missing)}"
                if missing
                else f"complete over {counted:,} users",
            )
        )
    return findings


def floor(evidence: Evidence, config: GateConfig) -> list[Finding]:
    """Refuse a recall under the absolute floor; the point estimate decides."""
    findings = []
    for scenario, scores in evidence.scenarios.items():
        if "candidate" not in scores.recall:
            continue
        recall = float(scores.recall["candidate"].mean())
        low = recall < config.floor
        findings.append(
            Finding(
                gate="floor",
                scenario=scenario,
                outcome=Outcome.FAIL if low else Outcome.PASS,
                value=recall,
                threshold=config.floor,
                message=f"recall@{config.k} {recall:.2%} is {'under' if low else 'not under'} the "
                f"floor {config.floor:.2%}",
            )
        )
    return findings


def popularity(evidence: Evidence, config: GateConfig) -> list[Finding]:
    """Judge every scenario against its own popularity: a model must at least know what is liked."""
    return _comparison_findings("popularity", compare(evidence, POPULARITY, config), config)


def regression(evidence: Evidence, config: GateConfig) -> list[Finding]:
    """Judge every scenario against the champion; a first release has none, and it is said."""
    if not evidence.has_champion:
        return [
            Finding(
                gate="regression",
                scenario=None,
                outcome=Outcome.WATCH,
                message="there is no champion to compare with: floors and baselines decide alone",
            )
        ]
    return _comparison_findings("regression", compare(evidence, CHAMPION, config), config)


def _comparison_findings(
    gate: str, comparisons: Mapping[str, Comparison], config: GateConfig
) -> list[Finding]:
    findings = []
    for scenario, comparison in comparisons.items():
        outcome = outcome_of(comparison, config)
        findings.append(
            Finding(
                gate=gate,
                scenario=scenario,
                outcome=outcome,
                value=comparison.difference,
                threshold=-comparison.margin,
                message=describe(comparison, outcome, config),
                policy=policy_of(comparison) if outcome is Outcome.INSUFFICIENT else None,
                comparison=comparison,
            )
        )
    return findings


def codebook(evidence: Evidence, config: GateConfig) -> list[Finding]:
    """Refuse a codebook that a scenario hardly uses; a model without one has nothing to show.

    Nothing is concluded from fewer than twice as many queries as there are codes: used evenly, so
    many leave a seventh of the codes without any, and fewer soon more than the floor allows.
    """
    model = evidence.model
    if not model.code_usage:
        return []
    findings = []
    for scenario in evidence.expected_scenarios:
        usage = model.code_usage.get(scenario)
        finding = _share_finding(
            "codebook",
            scenario,
            usage,
            config.code_usage_floor,
            what="share of the codebook in use",
        )
        queries, needed = model.code_queries.get(scenario, 0), 2 * model.num_codes
        if usage is not None and finding.outcome is Outcome.FAIL and queries < needed:
            finding = finding.model_copy(
                update={
                    "outcome": Outcome.INSUFFICIENT,
                    "policy": Policy.SHIP_AND_WATCH,
                    "message": f"{finding.message}, but only {queries} validation queries have "
                    f"clicks in the scenario, {needed} are needed to tell; it ships, watched",
                }
            )
        findings.append(finding)
    return findings


def index(evidence: Evidence, config: GateConfig) -> list[Finding]:
    """Refuse an index that loses too much of the exact top K, on validation or on test queries."""
    findings = []
    for scenario in evidence.expected_scenarios:
        record = evidence.indexes.indexes.get(scenario)
        measured = evidence.index_recall.get(scenario)
        recall = min(record.recall, measured) if record and measured is not None else None
        findings.append(
            _share_finding(
                "index",
                scenario,
                recall,
                config.index_recall_floor,
                what="share of the exact top K that the index returns",
            )
        )
    return findings


def _share_finding(
    gate: str, scenario: str, share: float | None, floor: float, *, what: str
) -> Finding:
    if share is None:
        outcome, message = Outcome.FAIL, f"the {what} was not measured"
    elif share < floor:
        outcome, message = Outcome.FAIL, f"the {what} is {share:.1%}, at least {floor:.1%} is asked"
    else:
        outcome, message = Outcome.PASS, f"the {what} is {share:.1%}"
    return Finding(
        gate=gate,
        scenario=scenario,
        outcome=outcome,
        value=share,
        threshold=floor,
        message=message,
    )


def data(evidence: Evidence, config: GateConfig) -> list[Finding]:
    """Mention days left out of the window and a large quarantine; `validate` has judged them."""
    log = evidence.clean_log
    share = log.rows_quarantined / log.rows_in if log.rows_in else 0.0
    findings = [
        Finding(
            gate="data",
            scenario=None,
            outcome=Outcome.WATCH if share >= config.quarantine_watch else Outcome.PASS,
            value=share,
            threshold=config.quarantine_watch,
            message=f"{log.rows_quarantined:,} of {log.rows_in:,} raw rows ({share:.2%}) are in "
            "quarantine",
        )
    ]
    findings += [
        Finding(
            gate="data",
            scenario=None,
            outcome=Outcome.WATCH,
            message=f"{day} was left out of the window: {reason}",
        )
        for day, reason in sorted(log.excluded_days.items())
    ]
    return findings


GATES: Final[tuple[Gate, ...]] = (
    lineage,
    completeness,
    floor,
    popularity,
    regression,
    codebook,
    index,
    data,
)
"""All gates, in the order of their findings; one more is a function here and its settings."""
