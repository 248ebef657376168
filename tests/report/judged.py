"""The scores of a run and the verdict on it, small, as the formats say."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perscen.data.splits import Splits
from perscen.evaluation.verdict import (
    Decision,
    Finding,
    Outcome,
    Policy,
    ScenarioVerdict,
    Verdict,
    write_verdict,
)
from perscen.manifests import Manifest, ScoresManifest, VerdictManifest
from tests.report.run import BEST, DAY, SCENARIOS, USERS, Run, write_json


def write_scores(directory: Path, run: Run, splits: Splits, stamp: dict) -> Manifest:
    strengths = {
        "candidate": 0.71,
        "candidate_exact": 0.711,
        "champion": 0.68,
        "segment_popularity": 0.62,
        "scenario_popularity": 0.53,
        "global_popularity": 0.3,
        "random": 0.02,
        "oracle": 1.0,
    }
    if not run.champion:
        del strengths["champion"]
    if not run.truth:
        del strengths["oracle"]
    models, metrics = {}, {}
    for model, strength in strengths.items():
        recall = {s: strength * b for s, b in zip(SCENARIOS, BEST, strict=True)}
        models[model] = {
            s: {
                "num_users": users,
                "recall_50": r,
                "recall_50_low": r - 0.6 / users**0.5 * r**0.5,
                "recall_50_high": r + 0.6 / users**0.5 * r**0.5,
            }
            for (s, r), users in zip(recall.items(), USERS, strict=True)
        }
        macro = float(np.mean(list(recall.values())))
        metrics[model] = {
            "recall_50": {**recall, "macro": macro},
            "hits_50": {**recall, "macro": macro},
            "recall_100": {**{s: 1.4 * r for s, r in recall.items()}, "macro": 1.4 * macro},
        }
    baselines = [m for m in strengths if m not in ("candidate", "candidate_exact", "oracle")]
    differences = {
        b: {
            s: {
                "delta": (d := metrics["candidate"]["recall_50"][s] - metrics[b]["recall_50"][s]),
                "low": d - 0.3 / users**0.5,
                "high": d + 0.3 / users**0.5,
                "relative": d / metrics[b]["recall_50"][s],
            }
            for s, users in zip((*SCENARIOS, "macro"), (*USERS, 1200), strict=True)
        }
        for b in baselines
    }
    slices = [
        {
            "slice": name,
            "value": value,
            "scenario": s,
            "model": model,
            "num_users": users // 3,
            "recall_50": 0.6 * b,
        }
        for name, values in (
            ("new_user", ("yes", "no")),
            ("history_length", ("0-0", "1-4", "20-49", "5-19")),
        )
        for value in values
        for s, b, users in zip(SCENARIOS, BEST, USERS, strict=True)
        for model in ("candidate", "scenario_popularity")
    ]
    write_json(
        directory / "summary.json",
        {
            "ks": [50, 100],
            "interval_level": 0.95,
            "models": models,
            "differences": differences,
            "slices": slices,
            "segment_columns": ["onehot_feat0", "onehot_feat1"],
            "index_recall": dict.fromkeys(SCENARIOS, 0.9987),
        },
    )
    write_json(directory / "metrics.json", metrics)
    return ScoresManifest(
        **stamp,
        model_digest=stamp["parents"]["model"],
        indexes_digest=stamp["parents"]["indexes"],
        champion_bundle_id="b" * 64 if run.champion else None,
        ks=[50, 100],
        num_users=dict(zip(SCENARIOS, USERS, strict=True)),
    )


def write_judgement(directory: Path, run: Run, splits: Splits, stamp: dict) -> Manifest:
    compared = "champion" if run.champion else "scenario_popularity"
    outcomes = [Outcome.PASS, Outcome.PASS, Outcome.INSUFFICIENT, Outcome.WATCH]
    deltas = [0.0031, 0.0071, -0.004, 0.0124]
    if run.refused:
        outcomes[1], deltas[1] = Outcome.FAIL, -0.021
    scenarios, findings = [], []
    for s, best, users, outcome, delta in zip(
        SCENARIOS, BEST, USERS, outcomes, deltas, strict=True
    ):
        margin, half = 0.068 * best, 0.35 / users**0.5
        message = {
            Outcome.PASS: "Recall is not worse than the champion's beyond the margin.",
            Outcome.WATCH: "Recall of new users fell by 0.8 points; that slice is watched.",
            Outcome.INSUFFICIENT: f"263 users cannot tell a loss of {margin * 100:.2f} points "
            "from chance.",
            Outcome.FAIL: "Recall is 2.10 points below the champion's; the margin is "
            f"{margin * 100:.2f}.",
        }[outcome]
        policy = Policy.SHIP_AND_WATCH if outcome is Outcome.INSUFFICIENT else None
        findings.append(
            Finding(gate="champion", scenario=s, outcome=outcome, message=message, policy=policy)
        )
        scenarios.append(
            ScenarioVerdict(
                scenario=s,
                num_users=users,
                candidate_recall=0.71 * best,
                champion_recall=0.71 * best - delta if run.champion else None,
                popularity_recall=0.53 * best,
                compared_with=compared,
                difference=delta,
                low=delta - half,
                high=delta + half,
                margin=margin,
                detectable_effect=1.5 * half,
                users_needed=int(users * (1.5 * half / margin) ** 2),
                outcome=outcome,
                policy=policy,
                reasons=() if outcome is Outcome.PASS else (message,),
            )
        )
    findings.append(
        Finding(
            gate="lineage",
            scenario=None,
            outcome=Outcome.PASS,
            message="Model, indexes and scores belong together.",
        )
    )
    decision = Decision.REFUSE if run.refused else Decision.PROMOTE
    write_verdict(
        Verdict(
            decision=decision,
            logical_date=DAY,
            model_digest=stamp["parents"]["model"],
            indexes_digest=stamp["parents"]["indexes"],
            champion_bundle_id="b" * 64 if run.champion else None,
            k=50,
            alpha=0.05,
            power=0.8,
            scenarios=tuple(scenarios),
            findings=tuple(findings),
            summary="A regression can be seen in scenario 4."
            if run.refused
            else "No scenario is worse than its margin; in one of four the data cannot tell.",
        ),
        directory,
    )
    return VerdictManifest(
        **stamp,
        model_digest=stamp["parents"]["model"],
        indexes_digest=stamp["parents"]["indexes"],
        decision=decision.value,
    )
