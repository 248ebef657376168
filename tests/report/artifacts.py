"""A whole run's artifacts, small, written as the formats say, for the report to read."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from components.store import write_manifest
from perscen.data.fields import KUAIRAND
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
from perscen.manifests import (
    ChampionManifest,
    CleanLogManifest,
    IndexesManifest,
    IndexRecord,
    Manifest,
    ModelManifest,
    ScoresManifest,
    SplitsManifest,
    VerdictManifest,
    Window,
)
from perscen.models.config import ModelConfig
from perscen.models.families import make_model
from perscen.schema import Field
from perscen.seeding import seed_torch
from tests.factories import random_splits

DAY = date(2022, 5, 5)
SCENARIOS = ("1", "4", "2", "<script>alert(0)</script>")
_BEST = (0.104, 0.236, 0.175, 0.412)
"""Best possible recall per scenario."""
_USERS = (4812, 1105, 263, 341)
_EPOCHS = 9


@dataclass(frozen=True)
class Run:
    """Which run to write: what a first release, a real log or a plain model leave out."""

    champion: bool = True
    truth: bool = True
    codebook: int = 10
    fusion: str = "glu"
    refused: bool = False


def write_run(root: Path, run: Run | None = None) -> dict[str, Path]:
    """Write the artifacts and return their directories by name."""
    run = run or Run()
    splits = make_splits()
    writers = {
        "clean_log": _clean_log,
        "splits": _splits,
        "champion": _champion,
        "model": _model,
        "indexes": _indexes,
        "scores": _scores,
        "verdict": _verdict,
    }
    parents: dict[str, str] = {}
    for name, write in writers.items():
        directory = root / name
        directory.mkdir(parents=True)
        stamp = {
            "step": name,
            "logical_date": DAY,
            "code_version": f"{len(name):02x}" * 32,
            "config_digest": "c" * 64,
            "parents": dict(parents),
        }
        parents[name] = write_manifest(directory, write(directory, run, splits, stamp)).digest
    return {name: root / name for name in writers}


def make_splits() -> Splits:
    """Return random splits in four scenarios with KuaiRand's user fields and telling user ids."""
    splits = random_splits(num_users=60, num_items=80, num_scenarios=len(SCENARIOS), per_user=40)
    rng = np.random.default_rng(7)
    ids = np.array(["", "", *(f"person-{n:06d}" for n in range(60))])
    names, dense = KUAIRAND.user.categorical, KUAIRAND.user.dense
    categorical_RF = rng.integers(2, 8, (62, len(names))).astype(np.int32)
    categorical_RF[:, 0] = np.arange(62)
    categorical_RF[0] = 0
    dense_RF = rng.standard_normal((62, len(dense))).astype(np.float32)
    sizes = (62, *(8 for _ in names[1:]))
    schema = splits.schema.model_copy(
        update={
            "scenarios": SCENARIOS,
            "user": splits.schema.user.model_copy(
                update={
                    "categorical": tuple(
                        Field(name=n, num_rows=r) for n, r in zip(names, sizes, strict=True)
                    ),
                    "dense": dense,
                }
            ),
        }
    )
    return replace(
        splits,
        schema=schema,
        users=replace(splits.users, ids=ids, categorical_RF=categorical_RF, dense_RF=dense_RF),
        valid=replace(splits.valid, user_id=ids[splits.valid.user]),
        test=replace(splits.test, user_id=ids[splits.test.user]),
        vocabularies={**splits.vocabularies, "users": ids[2:].tolist()},
        scalers={f"user/{n}": (0.0, 1.0) for n in dense} | {"item/dense": (0.0, 1.0)},
    )


def _clean_log(directory: Path, run: Run, splits: Splits, stamp: dict) -> Manifest:
    rng = np.random.default_rng(3)
    days = []
    for n in range(11):
        good, quarantined, dropped = int(rng.integers(14000, 18000)), 120 + 13 * n, 400 - 7 * n
        excluded = n == 2
        if excluded:
            quarantined = 2600
        days.append(
            {
                "date": (DAY - timedelta(days=10 - n)).isoformat(),
                "in": good + quarantined + dropped,
                "good": good,
                "quarantined": quarantined,
                "dropped": dropped,
                "status": "excluded" if excluded else "ok",
                "reason": "15.1 % of rows break the contract; at most 5 % may" if excluded else "",
                "rules": {"user_id_present": quarantined},
                "clicks": {
                    s: int(good * share * rng.uniform(0.9, 1.1))
                    for s, share in zip(SCENARIOS, (0.35, 0.04, 0.015, 0.009), strict=True)
                },
                "impressions": dict.fromkeys(SCENARIOS, good // 4),
            }
        )
    rows = {key: sum(d[key] for d in days) for key in ("in", "good", "quarantined", "dropped")}
    rules = [
        ("user_id_present", "log", "user_id is not empty", 2600, 0.01),
        ("time_in_window", "log", "time_ms lies within the day the row is filed under", 1189, 0.02),
        ("play_time_not_negative", "log", "play_time_ms is zero or more", 402, 0.01),
        ("known_item", "log", "video_id is in the catalogue", 96, 0.001),
        ("scenario_known", "log", "tab is one of 0 to 14", 0, 0.01),
        ("user_unique", "users", "one row per user", 0, 0.0),
    ]
    report = {
        "rows": rows,
        "days": days,
        "rules": [
            {
                "name": name,
                "table": table,
                "description": meaning,
                "broken": broken,
                "share": broken / rows["in"],
                "tolerance": tolerance,
            }
            for name, table, meaning, broken, tolerance in rules
        ],
        "tables": {
            "users": {"in": 27285, "good": 27285, "quarantined": 0, "dropped": 0},
            "items": {"in": 7583, "good": 7581, "quarantined": 2, "dropped": 0},
        },
        "table_checks": [
            {
                "name": "rows against the trailing days",
                "passed": True,
                "observed": "16,902",
                "expected": "at least 7,800",
                "severity": "error",
            },
            {
                "name": "every scenario present",
                "passed": False,
                "observed": "1, 4, 2",
                "expected": "1, 4, 2, 0",
                "severity": "error",
            },
        ],
    }
    _write(directory / "report.json", report)
    return CleanLogManifest(
        **stamp,
        source="kuairand-pure",
        rows_in=rows["in"],
        rows_good=rows["good"],
        rows_quarantined=rows["quarantined"],
        rows_dropped=rows["dropped"],
        rule_counts={name: broken for name, _, _, broken, _ in rules},
        days=[date.fromisoformat(d["date"]) for d in days],
        excluded_days={},
    )


def _splits(directory: Path, run: Run, splits: Splits, stamp: dict) -> Manifest:
    splits.save(directory)
    return SplitsManifest(
        **stamp,
        scenarios=list(SCENARIOS),
        train=Window(first=DAY - timedelta(days=10), last=DAY - timedelta(days=4)),
        valid=Window(first=DAY - timedelta(days=3), last=DAY - timedelta(days=2)),
        test=Window(first=DAY - timedelta(days=1), last=DAY),
        num_items=80,
        num_users=60,
        rows={w: dict.fromkeys(SCENARIOS, 10) for w in ("train", "valid", "test")},
    )


def _champion(directory: Path, run: Run, splits: Splits, stamp: dict) -> Manifest:
    return ChampionManifest(
        **stamp,
        name="perscen",
        version="12" if run.champion else None,
        bundle_id="b" * 64 if run.champion else None,
        champion_date=DAY - timedelta(days=1) if run.champion else None,
    )


def _model(directory: Path, run: Run, splits: Splits, stamp: dict) -> Manifest:
    seed_torch(1, "model")
    config = ModelConfig.model_validate(
        {"vq": {"codebook_size": run.codebook}, "fusion": run.fusion, "emb": {"init_std": 0.5}}
    )
    model = make_model(splits.schema, config)
    model.save(directory)
    rng = np.random.default_rng(5)
    epochs = []
    for n in range(1, _EPOCHS + 1):
        grown = 1 - np.exp(-n / 2) - 0.012 * max(0, n - 6)
        recall = {s: b * 0.75 * grown for s, b in zip(SCENARIOS, _BEST, strict=True)}
        epochs.append(
            {
                "epoch": n,
                "loss": 6.2 * float(np.exp(-n / 4)) + 3,
                "task_loss": 6 * float(np.exp(-n / 4)) + 3,
                "auxiliary_loss": 0.2,
                "recall": recall,
                "macro_recall": float(np.mean(list(recall.values()))),
                "code_usage": {
                    s: min(1.0, 0.3 + 0.1 * n - 0.08 * i) for i, s in enumerate(SCENARIOS)
                }
                if run.codebook
                else {},
                "code_perplexity": dict.fromkeys(SCENARIOS, 6.2) if run.codebook else {},
            }
        )
    _write(directory / "epochs.json", epochs)
    counts = {
        s: (rng.dirichlet(np.full(run.codebook, 0.6)) * users).astype(int).tolist()
        for s, users in zip(SCENARIOS, _USERS, strict=True)
    }
    _write(directory / "code_counts.json", counts if run.codebook else {})
    return ModelManifest(
        **stamp,
        family="perscen",
        recipe_digest="d" * 64,
        fingerprint="f" * 64,
        num_parameters=sum(p.numel() for p in model.parameters()),
        best_epoch=6,
        epochs=_EPOCHS,
        valid_recall=epochs[5]["recall"],
        code_usage=epochs[5]["code_usage"],
    )


def _indexes(directory: Path, run: Run, splits: Splits, stamp: dict) -> Manifest:
    return IndexesManifest(
        **stamp,
        model_digest=stamp["parents"]["model"],
        fingerprint="f" * 64,
        dim=65,
        indexes={
            s: IndexRecord(kind="flat", parameters={}, num_items=7581, recall=1.0)
            for s in SCENARIOS
        },
    )


def _scores(directory: Path, run: Run, splits: Splits, stamp: dict) -> Manifest:
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
        recall = {s: strength * b for s, b in zip(SCENARIOS, _BEST, strict=True)}
        models[model] = {
            s: {
                "num_users": users,
                "recall_50": r,
                "recall_50_low": r - 0.6 / users**0.5 * r**0.5,
                "recall_50_high": r + 0.6 / users**0.5 * r**0.5,
            }
            for (s, r), users in zip(recall.items(), _USERS, strict=True)
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
            for s, users in zip((*SCENARIOS, "macro"), (*_USERS, 1200), strict=True)
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
        for s, b, users in zip(SCENARIOS, _BEST, _USERS, strict=True)
        for model in ("candidate", "scenario_popularity")
    ]
    _write(
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
    _write(directory / "metrics.json", metrics)
    return ScoresManifest(
        **stamp,
        model_digest=stamp["parents"]["model"],
        indexes_digest=stamp["parents"]["indexes"],
        champion_bundle_id="b" * 64 if run.champion else None,
        ks=[50, 100],
        num_users=dict(zip(SCENARIOS, _USERS, strict=True)),
    )


def _verdict(directory: Path, run: Run, splits: Splits, stamp: dict) -> Manifest:
    compared = "champion" if run.champion else "scenario_popularity"
    outcomes = [Outcome.PASS, Outcome.PASS, Outcome.INSUFFICIENT, Outcome.WATCH]
    deltas = [0.0031, 0.0071, -0.004, 0.0124]
    if run.refused:
        outcomes[1], deltas[1] = Outcome.FAIL, -0.021
    scenarios, findings = [], []
    for s, best, users, outcome, delta in zip(
        SCENARIOS, _BEST, _USERS, outcomes, deltas, strict=True
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


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")
