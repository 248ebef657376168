"""Score candidate, champion and baselines per user, through the index that will ship."""

from __future__ import annotations

import json
from pathlib import Path

from components.runner import Task
from components.store import Artifact
from perscen.config import EvaluateConfig
from perscen.data.segments import choose_segments
from perscen.data.splits import Splits
from perscen.errors import ArtifactError
from perscen.evaluation.contenders import rivals
from perscen.evaluation.evaluate import check_test, score_all
from perscen.evaluation.rankers import candidate_rankers, overlap
from perscen.evaluation.summary import metrics_of, recall_plot, summarise
from perscen.manifests import ChampionManifest, IndexesManifest, ModelManifest, ScoresManifest
from perscen.models.families import load_model
from perscen.retrieval.bundle import Bundle, open_bundle


def run(task: Task, *, evaluate: EvaluateConfig) -> ScoresManifest:
    """Put the test queries to every contender, and write scores per user with their summary.

    Raises:
        ArtifactError: Model and indexes do not belong together, a scenario has no test user, or the
            champion's bundle is not the one that was written down.
        ConfigError: A K is larger than the candidate pool.
    """
    model, indexes = task.inputs["model"], task.inputs["indexes"]
    check_pair(model.manifest, indexes.manifest)
    champion = _open_champion(task.inputs["champion"])
    splits = Splits.open(task.inputs["splits"].path)
    check_test(splits, evaluate)
    segments = choose_segments(splits, num_columns=evaluate.segment_columns)
    candidate, exact = candidate_rankers(
        load_model(model.path),
        splits,
        splits.test,
        splits.test_slices,
        indexes=indexes.path,
        fingerprint=model.manifest.fingerprint,
    )
    truth = task.inputs["splits"].path / "truth"
    others = rivals(
        splits,
        champion=champion,
        segments=segments,
        truth=truth if truth.is_dir() else None,
    )
    per_user = score_all(
        {"candidate": candidate, "candidate_exact": exact, **others}, splits, config=evaluate
    )
    index_recall = {
        name: overlap(candidate, exact, splits.test, scenario, k=evaluate.ks[0])
        for scenario, name in enumerate(splits.schema.scenarios)
    }
    metrics = metrics_of(per_user)
    per_user.write_parquet(task.output / "per_user.parquet")
    _write_json(task.output / "metrics.json", metrics)
    summary = summarise(
        per_user,
        ks=evaluate.ks,
        segment_columns=segments.columns,
        index_recall=index_recall,
    )
    _write_json(task.output / "summary.json", summary)
    _write_json(task.output / "plots" / "recall.json", recall_plot(metrics, evaluate.ks))
    return ScoresManifest(
        **task.stamp,
        model_digest=model.manifest.digest,
        indexes_digest=indexes.manifest.digest,
        champion_bundle_id=champion.manifest.bundle_id if champion else None,
        ks=list(evaluate.ks),
        num_users={
            name: level["num_users"] for name, level in summary["models"]["candidate"].items()
        },
    )


def check_pair(model: ModelManifest, indexes: IndexesManifest) -> None:
    """Check that the indexes were built from this model, on the same splits.

    Raises:
        ArtifactError: They were not.
    """
    if (indexes.model_digest, indexes.fingerprint) != (model.digest, model.fingerprint):
        raise ArtifactError(
            f"the indexes were built from model {indexes.model_digest[:12]} (space "
            f"{indexes.fingerprint[:12]}), but model {model.digest[:12]} (space "
            f"{model.fingerprint[:12]}) is evaluated",
            hint="run `index` again on this model",
        )


def _open_champion(artifact: Artifact[ChampionManifest]) -> Bundle | None:
    expected = artifact.manifest.bundle_id
    if expected is None:
        return None
    bundle = open_bundle(artifact.path / "bundle")
    if bundle.manifest.bundle_id != expected:
        raise ArtifactError(
            f"the champion was written down as {expected[:12]}, but its bundle is "
            f"{bundle.manifest.bundle_id[:12]}",
            hint="run `champion` again",
        )
    return bundle


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
