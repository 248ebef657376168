"""The files of a replay: logs with their planted fault, settings, and the deployment."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import yaml

from bench.replay.planted import spoil_day
from components.settings_commands import params_yaml

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Plan:
    """Which days are replayed, and what is wrong with two of them."""

    first: date
    last: date
    bad_logs: date
    bad_model: date
    lost_scenario: str

    def days(self) -> list[date]:
        """Return the logical dates, ascending."""
        return [self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1)]


@dataclass(frozen=True)
class World:
    """Where a replay keeps everything it needs and makes."""

    home: Path

    @property
    def raw(self) -> Path:
        """The raw log."""
        return self.home / "raw"

    @property
    def runs(self) -> Path:
        """Artifacts, by logical date."""
        return self.home / "runs"

    @property
    def deployment(self) -> Path:
        """The deployment file the scheduler reads."""
        return self.home / "deployment.yaml"

    @property
    def registry(self) -> str:
        """The address of MLflow."""
        return f"sqlite:///{self.home}/mlflow.db"


def prepare(home: Path, raw: Path, plan: Plan, settings: dict[str, dict[str, object]]) -> World:
    """Write a replay's files into an empty directory.

    Args:
        home: Where everything goes.
        raw: A whole raw layout; it is copied.
        plan: The days and their faults.
        settings: What differs from ``recipe: best``, by section.
    """
    world = World(home.resolve())
    shutil.copytree(raw, world.raw)
    spoil_day(world.raw, plan.bad_logs)
    params = yaml.safe_load(params_yaml("best", plan.last))
    for section, values in settings.items():
        params[section].update(values)
    (world.home / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    _write_python(world, plan)
    deployment = {
        "runs_in": "local",
        "run_root": str(world.runs),
        "raw_log": str(world.raw),
        "config": str(world.home / "params.yaml"),
        "start_date": plan.first,
        "wait_timeout_s": 60,
        "retries": 1,
        "retry_delay_s": 5,
        "serving_root": str(world.home / "serving"),
        "environment": {
            "PATH": f"{world.home}/bin:{os.environ['PATH']}",
            "MLFLOW_TRACKING_URI": world.registry,
            "PERSCEN_DVC_REMOTE": str(world.home / "remote"),
        },
    }
    world.deployment.write_text(yaml.safe_dump(deployment, sort_keys=False))
    return world


def _write_python(world: World, plan: Plan) -> None:
    """Write the ``python`` that plants the bad model behind the step that trains it."""
    python = shlex.quote(sys.executable)
    path = world.home / "bin" / "python"
    path.parent.mkdir()
    path.write_text(
        f'#!/bin/sh\n[ "$3" = train ] || exec {python} "$@"\n'
        f'{python} "$@" || exit $?\n'
        f"exec {python} -m bench.replay.planted --on {plan.bad_model} "
        f'--scenario {plan.lost_scenario} python "$@"\n'
    )
    path.chmod(0o755)
