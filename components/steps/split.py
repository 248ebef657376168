"""The ``split`` step: cut the clean log into leak-free windows per scenario."""

from __future__ import annotations

import logging
import shutil
from datetime import date, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from components.runner import Task
from components.store import Artifact
from perscen.config import SplitConfig
from perscen.data.fields import FieldPlan
from perscen.data.interactions import read_features, read_interactions
from perscen.data.leaks import check_no_leak
from perscen.data.splits import Splits
from perscen.data.splitting import split_log
from perscen.data.windows import Windows, windows_of
from perscen.errors import ArtifactError, ConfigError
from perscen.manifests import CleanLogManifest, SplitsManifest

logger = logging.getLogger(__name__)


def run(task: Task, *, split: SplitConfig) -> SplitsManifest:
    """Write the splits of the clean log, once they have passed the leak checks.

    Raises:
        ConfigError: The windows or scenarios asked for are not in the log.
        ArtifactError: The clean log cannot be split: an empty window or scenario, a missing column.
    """
    clean_log: Artifact[CleanLogManifest] = task.inputs["clean_log"]
    manifest = clean_log.manifest
    _check_date(manifest, task.logical_date)
    windows = windows_of(
        split,
        logical_date=task.logical_date,
        utc_offset_hours=manifest.utc_offset_hours,
        skip=_days_without_rows(manifest),
    )
    _tell_lacking_days(windows, manifest)
    splits = split_log(
        read_interactions(
            clean_log.path,
            spans_ms=[windows.span_ms(name) for name, _ in windows.items()],
            until=task.logical_date,
            utc_offset_hours=manifest.utc_offset_hours,
            day_from=split.day_from,
        ),
        users=read_features(clean_log.path / "users"),
        items=read_features(clean_log.path / "items"),
        plan=_read_plan(clean_log),
        windows=windows,
        config=split,
    )
    check_no_leak(splits, windows)
    splits.save(task.output)
    if (clean_log.path / "truth").is_dir():
        shutil.copytree(clean_log.path / "truth", task.output / "truth")
    return SplitsManifest(
        **task.stamp,
        scenarios=list(splits.schema.scenarios),
        train=windows.train,
        valid=windows.valid,
        test=windows.test,
        num_items=len(splits.vocabularies["items"]),
        num_users=len(np.unique(splits.train.user)),
        rows=_rows(splits, windows),
    )


def _check_date(manifest: CleanLogManifest, logical_date: date) -> None:
    days = sorted({*manifest.days, *manifest.excluded_days})
    if not days or not days[0] <= logical_date <= days[-1]:
        span = f"{days[0]} to {days[-1]}" if days else "no day at all"
        raise ConfigError(
            f"the logical date {logical_date} is outside the clean log, which has {span}",
            hint="run for a day of the log, or import the log of that day first",
        )


def _days_without_rows(manifest: CleanLogManifest) -> set[date]:
    """Return the days since the log began that it lacks; a day that broke the contract is one."""
    first, last = manifest.days[0], manifest.days[-1]
    span = {first + timedelta(days=n) for n in range((last - first).days)}
    return span - set(manifest.days)


def _tell_lacking_days(windows: Windows, manifest: CleanLogManifest) -> None:
    for window, lacking in windows.days_without_rows(manifest.days, manifest.excluded_days).items():
        logger.warning(
            "a window lacks days",
            extra={"window": window, "days": {str(day): why for day, why in lacking.items()}},
        )


def _read_plan(clean_log: Artifact[CleanLogManifest]) -> FieldPlan:
    path = clean_log.path / "fields.json"
    try:
        return FieldPlan.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as exc:
        raise ArtifactError(f"{path} is no field plan: {exc}", hint="run `validate` again") from exc


def _rows(splits: Splits, windows: Windows) -> dict[str, dict[str, int]]:
    """Return the training rows and the clicks of the later windows, per scenario."""
    names = splits.schema.scenarios
    histories = splits.histories
    scenario_N = np.repeat(
        np.arange(len(histories.spec_offsets) - 1) % len(names), np.diff(histories.spec_offsets)
    )
    scenarios: dict[str, NDArray[np.integer[Any]]] = {"train": splits.train.scenario}
    for window in ("valid", "test"):
        first, end = windows.span_ms(window)
        times = histories.spec_times_ms
        scenarios[window] = scenario_N[(times >= first) & (times < end)]
    return {
        window: dict(zip(names, np.bincount(rows, minlength=len(names)).tolist(), strict=True))
        for window, rows in scenarios.items()
    }
