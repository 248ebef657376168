"""A whole run's artifacts, small, written as the formats say, for the report to read."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from components.store import write_manifest
from perscen.data.fields import KUAIRAND
from perscen.data.splits import Splits
from perscen.manifests import (
    ChampionManifest,
    CleanLogManifest,
    IndexesManifest,
    IndexRecord,
    Manifest,
    ModelManifest,
    SplitsManifest,
    Window,
)
from perscen.models.config import PerscenConfig
from perscen.models.families import make_model
from perscen.schema import Field
from perscen.seeding import seed_torch
from tests.factories import random_splits
from tests.report.judged import write_judgement, write_scores
from tests.report.run import BEST, DAY, SCENARIOS, USERS, Run, write_json

_EPOCHS = 9


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
        "scores": write_scores,
        "verdict": write_judgement,
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
    write_json(directory / "report.json", report)
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
        utc_offset_hours=8,
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
    config = PerscenConfig.model_validate(
        {"vq": {"codebook_size": run.codebook}, "fusion": run.fusion, "emb": {"init_std": 0.5}}
    )
    model = make_model(splits.schema, config)
    model.save(directory)
    rng = np.random.default_rng(5)
    epochs = []
    for n in range(1, _EPOCHS + 1):
        grown = 1 - np.exp(-n / 2) - 0.012 * max(0, n - 6)
        recall = {s: b * 0.75 * grown for s, b in zip(SCENARIOS, BEST, strict=True)}
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
    write_json(directory / "epochs.json", epochs)
    counts = {
        s: (rng.dirichlet(np.full(run.codebook, 0.6)) * users).astype(int).tolist()
        for s, users in zip(SCENARIOS, USERS, strict=True)
    }
    write_json(directory / "code_counts.json", counts if run.codebook else {})
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
