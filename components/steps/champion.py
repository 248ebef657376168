"""Write down the release this run is compared with."""

from __future__ import annotations

import shutil
from pathlib import Path

from components.adapters.registry import Registry
from components.adapters.releases import Release
from components.runner import Task
from perscen.config import PublishConfig
from perscen.manifests import ChampionManifest
from perscen.retrieval.bundle import REPORT


def run(task: Task, *, publish: PublishConfig) -> ChampionManifest:
    """Copy the newest release of an earlier day, whatever serves now.

    A rerun or a backfill is then never compared with itself or with the future.

    Raises:
        ServiceUnavailable: The registry does not answer.
        ArtifactError: The stored copy is not what was released.
    """
    registry = Registry(publish.name)
    release = registry.newest_before(task.logical_date)
    if release is not None:
        copy_release(registry, release, to=task.output)
    return ChampionManifest(
        **task.stamp,
        name=publish.name,
        version=release.version if release else None,
        bundle_id=release.bundle_id if release else None,
        champion_date=release.logical_date if release else None,
    )


def copy_release(registry: Registry, release: Release, *, to: Path) -> None:
    """Write the payload of the champion artifact: the bundle of a release."""
    # The report is for people and differs from run to run; this artifact must not.
    shutil.copytree(
        registry.fetch(release).path,
        to / "bundle",
        ignore=lambda directory, names: [n for n in names if n == REPORT],  # noqa: ARG005
    )
