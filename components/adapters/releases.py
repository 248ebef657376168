"""What a version in the registry says of itself, and whether it may become the champion."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Final

from mlflow.entities.model_registry import ModelVersion

from perscen.errors import ArtifactError

CHAMPION: Final = "champion"
PREVIOUS: Final = "previous"
RELEASED: Final = "released"
SPLITS_TAG: Final = "dvc.splits"
REVISION_TAG: Final = "git.revision"


@dataclass(frozen=True)
class Release:
    """One version in the registry."""

    version: str
    bundle_id: str
    logical_date: date
    previous_bundle_id: str | None
    """The release its verdict was judged against."""
    source: str
    released: bool
    """Whether it became the champion or was kept as a backfill."""
    splits_dvc: str | None
    """DVC's hash of its splits, where its run committed them."""
    revision: str | None
    """The git revision it was published by, where that was known."""


@dataclass(frozen=True)
class Promotion:
    """What became of the aliases: the versions they point to, and whether ``champion`` moved."""

    champion: str
    previous: str | None
    moved: bool


def check_unmoved(
    current: Release | None, logical_date: date, *, expected_bundle_id: str | None
) -> None:
    """Check that a verdict of ``logical_date`` was judged against what serves now.

    A champion of the same day that was judged against the same release is fine: the day is run
    again, and a run never compares with itself.

    Raises:
        ArtifactError: It was not.
    """
    serving = current.bundle_id if current else None
    same_day = current is not None and current.logical_date == logical_date
    judged_alike = current is not None and current.previous_bundle_id == expected_bundle_id
    if serving == expected_bundle_id or (same_day and judged_alike):
        return
    now = f"version {current.version} of {current.logical_date}" if current else "no version"
    judged = f"bundle {expected_bundle_id[:12]}" if expected_bundle_id else "no champion"
    raise ArtifactError(
        f"{CHAMPION!r} points to {now}, but the verdict was judged against {judged}; "
        "the alias was not moved",
        hint="run `champion`, `evaluate`, `gate` and `report` again, then `publish`",
    )


def release_of(version: ModelVersion) -> Release:
    """Return the release that a version holds.

    Raises:
        ArtifactError: The version was registered by somebody else.
    """
    tags = version.tags
    try:
        return Release(
            version=str(version.version),
            bundle_id=tags["bundle_id"],
            logical_date=date.fromisoformat(tags["logical_date"]),
            previous_bundle_id=tags.get("previous_bundle_id"),
            source=version.source,
            released=tags.get("state") == RELEASED,
            splits_dvc=tags.get(SPLITS_TAG),
            revision=tags.get(REVISION_TAG),
        )
    except (KeyError, ValueError) as exc:
        raise ArtifactError(
            f"version {version.version} of {version.name!r} is no release of ours: its tags are "
            f"{', '.join(sorted(tags)) or 'none'}, expected bundle_id and logical_date",
            hint="publish under another publish.name, or delete that version",
        ) from exc
