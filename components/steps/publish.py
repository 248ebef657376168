"""Release tower and indexes together, if the verdict allows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from components.adapters.mlflow_client import without_secrets
from components.adapters.registry import Registry
from components.adapters.releases import (
    CHAMPION,
    PREVIOUS,
    REVISION_TAG,
    SPLITS_TAG,
    Promotion,
    Release,
)
from components.revision import revision
from components.runner import Task
from components.store import MANIFEST_NAME
from perscen.config import PublishConfig
from perscen.data.splits import Splits
from perscen.errors import ArtifactError, ReleaseRefused
from perscen.evaluation.verdict import VERDICT_NAME, Decision, Verdict, read_verdict
from perscen.manifests import ReleaseManifest
from perscen.retrieval.bundle import Bundle, Lineage, write_bundle


def run(task: Task, *, publish: PublishConfig) -> ReleaseManifest:
    """Register the bundle, verify the stored copy, and move the alias last; each safe to repeat.

    Raises:
        ReleaseRefused: The verdict did not pass.
        ArtifactError: Verdict, model, indexes, splits and champion do not belong together, or the
            champion moved since the verdict.
        ServiceUnavailable: The registry did not answer.
    """
    verdict = read_verdict(task.inputs["verdict"].path)
    _check_lineage(task, verdict)
    if verdict.decision is Decision.REFUSE:
        raise ReleaseRefused(verdict.reasons_by_scenario)
    registry = Registry(publish.name)
    registry.check_champion(task.logical_date, verdict.champion_bundle_id)
    # Inside the scratch directory, so that a killed run leaves no copy behind.
    bundle = _write(task, publish, directory=task.output / "bundle")
    release = registry.find(bundle.manifest.bundle_id)
    release = release or registry.register(bundle, origin=_origin(task))
    registry.verify(release)
    promotion = registry.promote(release, expected_bundle_id=verdict.champion_bundle_id)
    shutil.rmtree(bundle.path)
    _write_release(task.output / "release.json", registry, release, promotion)
    task.notes.update(version=release.version, bundle_id=release.bundle_id, released=True)
    return ReleaseManifest(
        **task.stamp,
        bundle_id=release.bundle_id,
        fingerprint=task.inputs["model"].manifest.fingerprint,
    )


def _check_lineage(task: Task, verdict: Verdict) -> None:
    manifest = {name: artifact.manifest for name, artifact in task.inputs.items()}
    model, indexes, splits = manifest["model"], manifest["indexes"], manifest["splits"]
    for what, judged, given, step in (
        ("verdict judges model", verdict.model_digest, model.digest, "gate"),
        ("verdict judges indexes", verdict.indexes_digest, indexes.digest, "gate"),
        ("indexes hold items of model", indexes.model_digest, model.digest, "index"),
        ("model was trained on splits", model.parents.get("splits", ""), splits.digest, "train"),
        (
            "verdict was judged against champion",
            verdict.champion_bundle_id or "none",
            manifest["champion"].bundle_id or "none",
            "gate",
        ),
    ):
        if judged != given:
            raise ArtifactError(
                f"the {what} {judged[:12]}, but {given[:12]} was given",
                hint=f"run `{step}` again on what you want to publish",
            )


def _write(task: Task, publish: PublishConfig, *, directory: Path) -> Bundle:
    inputs = task.inputs
    model = inputs["model"].manifest
    directory.mkdir()
    return write_bundle(
        directory,
        model=inputs["model"].path,
        indexes=inputs["indexes"].path,
        fingerprint=model.fingerprint,
        splits=Splits.open(inputs["splits"].path),
        lineage=Lineage(
            logical_date=task.logical_date,
            splits_digest=inputs["splits"].manifest.digest,
            model_digest=model.digest,
            indexes_digest=inputs["indexes"].manifest.digest,
            verdict_digest=inputs["verdict"].manifest.digest,
            code_version=model.code_version,
            config_digest=model.config_digest,
            previous_bundle_id=inputs["champion"].manifest.bundle_id,
        ),
        num_probes=publish.probes,
        include_users=publish.include_users,
        report=(
            inputs["report"].path / inputs["report"].manifest.page,
            inputs["verdict"].path / VERDICT_NAME,
        ),
        # A page for people is no part of what a release is.
        manifests={n: a.path / MANIFEST_NAME for n, a in inputs.items() if n != "report"},
    )


def _origin(task: Task) -> dict[str, str]:
    """Return where what the release was made with is to be found, as far as that is known."""
    try:
        record = json.loads((task.inputs["splits"].path / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        record = {}  # DVC keeps no run.json: there, the hash stands in dvc.lock
    known = {SPLITS_TAG: record.get("dvc"), REVISION_TAG: revision()}
    return {tag: value for tag, value in known.items() if value}


def _write_release(path: Path, registry: Registry, release: Release, promotion: Promotion) -> None:
    record = {
        "name": registry.name,
        "version": release.version,
        "bundle_id": release.bundle_id,
        "tracking_address": without_secrets(registry.tracking_uri),
        "moved": promotion.moved,
        "aliases": {CHAMPION: promotion.champion, PREVIOUS: promotion.previous},
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
