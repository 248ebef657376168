"""A splits artifact of few users, and rows that train in a second or two."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from components.store import open_artifact, write_manifest
from perscen.experiments.making import PinnedSplits
from perscen.manifests import SplitsManifest, Window
from tests.factories import random_splits

DAY = date(2022, 5, 5)


def pinned(directory: Path) -> PinnedSplits:
    """Return splits as a comparison knows them that begins now."""
    return PinnedSplits(directory, open_artifact(directory, kind="splits").manifest.digest)


def write_splits(
    directory: Path, *, num_users: int = 60, num_items: int = 40, num_scenarios: int = 2
) -> Path:
    """Write random splits with their manifest."""
    splits = random_splits(num_users=num_users, num_items=num_items, num_scenarios=num_scenarios)
    splits.save(directory)
    window = Window(first=DAY, last=DAY)
    write_manifest(
        directory,
        SplitsManifest(
            step="split",
            logical_date=DAY,
            code_version="0" * 64,
            config_digest="0" * 64,
            parents={},
            scenarios=list(splits.schema.scenarios),
            train=window,
            valid=window,
            test=window,
            num_items=num_items,
            num_users=num_users,
            rows={},
        ),
    )
    return directory
