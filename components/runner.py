"""Runs one step: reads settings, checks inputs, and keeps the output only if it is whole."""

from __future__ import annotations

import hashlib
import importlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from components.pipeline import PIPELINE, Step
from components.store import Artifact, open_artifact, open_raw_log, staged, write_manifest
from perscen.config import Config, read_config
from perscen.errors import ConfigError
from perscen.manifests import AnyManifest

_ROOT: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Task:
    """What a step is given: checked inputs, a scratch directory for its output, its day."""

    inputs: Mapping[str, Artifact[Any]]
    output: Path
    logical_date: date
    run_id: str
    state: Path
    """Where the step may keep what must survive its death (checkpoints); outlives a failed run."""
    stamp: Mapping[str, Any]
    """The fields every manifest shares: pass them on as ``SomeManifest(**task.stamp, ...)``."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What a scheduler or a person may want to know of this run of the step, and no artifact
    depends on: kept in ``run.json``, outside the digest."""


def run_step(
    name: str,
    *,
    config: Path,
    logical_date: date,
    inputs: Mapping[str, Path],
    output: Path,
    run_id: str | None = None,
) -> AnyManifest:
    """Run one step and return its sealed manifest.

    A step module in ``components.steps`` has ``run(task, *, <its sections>) -> Manifest``: it
    writes its payload into ``task.output`` and returns the unsealed manifest.

    Raises:
        PerscenError: Any of the tree; ``output`` is then as it was before.
    """
    step = PIPELINE[name]
    settings = read_config(config)
    if missing := sorted(set(step.inputs) - set(inputs)):
        raise ConfigError(
            f"{name} needs --in {', '.join(missing)}",
            hint=f"see `python -m components {name} --help`",
        )
    artifacts = {key: _open(key, inputs[key]) for key in step.inputs}
    sections = {section: getattr(settings, section) for section in step.sections}
    run_id = run_id or uuid4().hex
    started = time.monotonic()
    module = importlib.import_module(f"components.steps.{name}")
    with staged(output) as scratch:
        task = Task(
            inputs=artifacts,
            output=scratch,
            logical_date=logical_date,
            run_id=run_id,
            state=output.with_name(f"{output.name}.state"),
            stamp=_stamp(step, settings, logical_date, artifacts),
        )
        manifest: AnyManifest = write_manifest(scratch, module.run(task, **sections))
        seconds = time.monotonic() - started
        _write_run_record(scratch, run_id=run_id, seconds=seconds, notes=task.notes)
    return manifest


def _open(name: str, path: Path) -> Artifact[Any]:
    # An artifact's name in the graph is its kind; raw logs alone are not made by a step.
    return open_raw_log(path) if name == "raw_log" else open_artifact(path, kind=name)


def _stamp(
    step: Step, settings: Config, logical_date: date, artifacts: Mapping[str, Artifact[Any]]
) -> dict[str, Any]:
    sections = {
        section: getattr(settings, section).model_dump(mode="json") for section in step.sections
    }
    return {
        "step": step.name,
        "logical_date": logical_date,
        "code_version": code_version(step),
        "config_digest": hashlib.sha256(json.dumps(sections, sort_keys=True).encode()).hexdigest(),
        "settings": sections,
        "parents": {
            name: a.manifest.digest
            for name, a in artifacts.items()
            if hasattr(a.manifest, "digest")
        },
    }


def code_version(step: Step) -> str:
    """Return a hash of the files the step is made of."""
    sha = hashlib.sha256()
    for watched in sorted(step.watched):
        root = _ROOT / watched
        for path in sorted(root.rglob("*") if root.is_dir() else [root]):
            if path.is_file() and "__pycache__" not in path.parts:
                sha.update(f"{path.relative_to(_ROOT).as_posix()}\0".encode() + path.read_bytes())
    return sha.hexdigest()


def _write_run_record(
    directory: Path, *, run_id: str, seconds: float, notes: Mapping[str, Any]
) -> None:
    record = {
        "run_id": run_id,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "duration_s": round(seconds, 3),
        **notes,
    }
    (directory / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
