"""A backfill of the daily DAG in an Airflow of its own, and one finished day run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from bench.replay.world import Plan, World
from components.adapters.registry import Registry
from components.pipeline import PIPELINE
from tests.airflow.server import Airflow, airflow_standalone

_DAILY, _REFRESH = "perscen_daily", "perscen_refresh"
_DAY_S = 3600
"""How long one day may take on a slow machine."""


@dataclass(frozen=True)
class Replay:
    """What the scheduler says became of the days."""

    states: Mapping[date, Mapping[str, str]]
    """State of each task, for each day."""
    num_releases: int
    num_refreshes: int
    changed_by_rerun: tuple[str, ...]
    """Artifacts with another digest, and what else the registry holds, after the second run."""


def run(world: World, plan: Plan, *, again: date) -> Replay:
    """Backfill the plan's days one at a time, then run the day ``again`` once more."""
    with airflow_standalone(
        world.home / "airflow", PERSCEN_DEPLOYMENT=str(world.deployment)
    ) as airflow:
        airflow.backfill(_DAILY, str(plan.first), str(plan.last))
        airflow.unpause(_DAILY)
        airflow.unpause(_REFRESH)
        states = _wait(airflow, count=len(plan.days()), timeout=_DAY_S * len(plan.days()))
        releases = sum(day["publish"] == "success" for day in states.values())
        refreshes = len(airflow.wait_for_runs(_REFRESH, count=releases))
        before = _facts(world, again)
        airflow.patch(f"dags/{_DAILY}", is_paused=True)
        airflow.backfill(_DAILY, str(again), str(again), "--reprocess-behavior", "completed")
        airflow.unpause(_DAILY)
        airflow.wait(lambda: _is_running(airflow, again), for_="the second run", timeout=300)
        _wait(airflow, count=len(plan.days()), timeout=_DAY_S)
        after = _facts(world, again)
    changed = tuple(name for name in before | after if before.get(name) != after.get(name))
    return Replay(states, releases, refreshes, changed)


def _wait(airflow: Airflow, *, count: int, timeout: float) -> dict[date, dict[str, str]]:
    def ended() -> dict[date, dict[str, str]] | None:
        runs = _backfilled(airflow)
        if sum(run["state"] in ("success", "failed") for run in runs.values()) < count:
            return None
        return {
            day: {name: str(s) for name, s in airflow.states(_DAILY, run["dag_run_id"]).items()}
            for day, run in runs.items()
        }

    return airflow.wait(ended, for_=f"{count} days to end", timeout=timeout)


def _is_running(airflow: Airflow, day: date) -> bool:
    return _backfilled(airflow)[day]["state"] in ("queued", "running")


def _backfilled(airflow: Airflow) -> dict[date, dict[str, str]]:
    return {
        date.fromisoformat(run["logical_date"][:10]): run
        for run in airflow.runs(_DAILY).values()
        if run["run_type"] == "backfill"
    }


def _facts(world: World, day: date) -> dict[str, object]:
    """Return the digest of each artifact of a day, and what the registry holds."""
    digests: dict[str, object] = {}
    for step in PIPELINE.steps:
        path: Path = world.runs / str(day) / step.output / "manifest.json"
        if path.exists():
            digests[step.output] = json.loads(path.read_text())["digest"]
    registry = Registry("perscen", tracking_uri=world.registry)
    champion = registry.champion()
    versions = sorted(release.version for release in registry.releases())
    return {**digests, "versions": versions, "champion": champion and champion.version}
